"""What every unit of a conversion knows, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..catalogue import Catalogue
from ..schema import LogSchema
from .layout import Column
from .parts import Parts


@dataclass
class Job:
    """A conversion, without its log: small enough to be sent with every unit.

    Args:
        folder: the work folder, which all workers reach by this name.
        schema: what the log's columns mean.
        dtype: of the records.
        per_second: ticks of their times.
        columns: of the result.
        parts: which part of the log a row belongs to.
        bounds: first user of each partition (int64, one more entry at the end), where rows go by
            user.
        batches_a_part: else a partition holds so many batches.
        catalogues: by name; they are not sent along, but read where they lie.
        places: where, in the work folder.
        run: tells this run's catalogues from an earlier one's in a worker that lives on.
    """

    folder: Path
    schema: LogSchema
    dtype: np.dtype
    per_second: int
    columns: list[Column]
    parts: Parts
    bounds: np.ndarray
    batches_a_part: int
    places: dict[str, str]
    run: str
    _catalogues: dict[str, Catalogue] | None = field(default=None, repr=False)

    @property
    def catalogues(self) -> dict[str, Catalogue]:
        """Numbers of ids, by name."""
        if self._catalogues is None:
            self._catalogues = _catalogues(self.folder, self.run, tuple(self.places.items()))
        return self._catalogues

    @property
    def hashed(self) -> bool:
        """Whether records can be told from their repeats."""
        return self.schema.duplicates != "keep"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_catalogues": None}


@lru_cache(maxsize=1)
def _catalogues(
    folder: Path, run: str, places: tuple[tuple[str, str], ...]
) -> dict[str, Catalogue]:
    return {name: Catalogue.load(folder / place) for name, place in places}


def records_file(part: int) -> str:
    """Where a split leaves its records of a partition."""
    return f"{part:05d}.rec"


def catalogue_places(schema: LogSchema, names: list[str]) -> dict[str, str]:
    """Where each catalogue lies; contexts are numbered: their names are no files' names."""
    contexts = {f"context.{name}": f"context-{k}" for k, name in enumerate(schema.context)}
    return {name: f"catalogues/{contexts.get(name, name)}" for name in names}
