"""A converted log, opened for a buffer: its rows and histories, and what is known beside them."""

from __future__ import annotations

import os
import shutil
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from ..catalogue import Catalogue
from ..schema import LogSchema
from ..store import ConversionReport, LogStore
from .windows import Histories


@dataclass(frozen=True)
class OpenLog:
    """What the parts of one log share; in another process it is opened again, by its place.

    Args:
        store: the folder.
        rows: its columns, mapped.
        histories: where histories lie, None where rows have none.
        starts: first rows of each group by its column's name.
    """

    store: LogStore
    rows: TensorDictBase
    histories: Histories | None = None
    starts: dict[str, Tensor] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What a checkpoint must name to fit this log."""
        return self.store.data.name

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.store.root, self.identity)


def open_log(root: Path | str, *, verify: bool = False) -> OpenLog:
    """Opens the folder that a conversion, or :func:`~.ted.store_ted`, wrote."""
    store = LogStore(root, verify=verify)
    schema = store.schema
    if schema is None:
        return OpenLog(store, store.rows)
    entering = store.index("history_items")
    histories = Histories(
        items=store.rows.get("action") if entering is None else entering,
        users=store.rows.get("user") if schema.by_user else None,
        offsets=store.index("user_offsets") if schema.by_user else None,
        values=store.index("initial_values"),
        bounds=store.index("initial_offsets"),
        ends=store.index("history_ends"),
        before=store.index("history_before"),
    )
    named = {"trajectory_id": "trajectory_offsets", "slate": "slate_offsets"}
    starts = {key: store.index(name) for key, name in named.items()}
    starts = {key: found for key, found in starts.items() if found is not None}
    return OpenLog(store, store.rows, histories, starts)


def _reopen(root: Path, identity: str) -> OpenLog:
    log = open_log(root)
    if log.identity != identity:
        raise ValueError(
            f"{root} holds another log now ({log.identity}) than when this buffer was sent "
            f"({identity}); convert into a folder of its own"
        )
    return log


def remove_with(owner: object, folder: Path) -> None:
    """Removes a temporary folder when ``owner`` goes, in the process that made it."""
    weakref.finalize(owner, _remove, folder, os.getpid())


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child's end is not the log's
        shutil.rmtree(folder, ignore_errors=True)


class LogFacts:
    """What a buffer knows of its log beside the rows: schema, report, catalogues, item tables."""

    _log: OpenLog

    @property
    def schema(self) -> LogSchema | None:
        """The log's schema, None for TED rows."""
        return self._log.store.schema

    @property
    def report(self) -> ConversionReport | None:
        """What the conversion counted, None for TED rows."""
        return self._log.store.report

    @property
    def ticks_per_second(self) -> int:
        """Of the column ``time``."""
        return self._log.store.manifest.ticks_per_second

    @property
    def items(self) -> Catalogue | None:
        """Raw item ids and their numbers, the policy's action space."""
        return self._catalogue("items")

    @property
    def users(self) -> Catalogue | None:
        """Raw user ids and their numbers."""
        return self._catalogue("users")

    @property
    def num_items(self) -> int:
        """Size of the catalogue: items of the item table, the log and the histories."""
        if self.items is None:
            raise ValueError("TED rows have no item catalogue")
        return len(self.items)

    @property
    def contexts(self) -> dict[str, Catalogue]:
        """Raw values of each context column and their numbers, in the order of the columns."""
        if self.schema is None:
            return {}
        named = {name: self._catalogue(f"context.{name}") for name in self.schema.context}
        return {name: catalogue for name, catalogue in named.items() if catalogue is not None}

    @property
    def context_sizes(self) -> tuple[int, ...]:
        """Number of values of each context column, for embedding tables."""
        return tuple(len(catalogue) for catalogue in self.contexts.values())

    @property
    def item_codes(self) -> Tensor | None:
        """Semantic-ID codes int64 ``[V, T]``, -1 where unknown; None without an item table's."""
        return self._item_array("codes")

    @property
    def item_embeddings(self) -> Tensor | None:
        """Item embeddings float32 ``[V, D]``, zero where unknown; None without any."""
        return self._item_array("embeddings")

    def _item_array(self, name: str) -> Tensor | None:
        return self._log.store.index(f"item_{name}")

    def _catalogue(self, name: str) -> Catalogue | None:
        return self._log.store.catalogue(name)

    def known_parts(self) -> str:
        """Which parts there are, for messages."""
        parts = self.report.parts if self.report is not None else {}
        if parts:
            return f"it has {', '.join(parts)}"
        return "it was not split; convert it with test_days, test_start or test_share"
