"""What a conversion was asked for: its input, schema and options, as one name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torchrl_drpo.files import fingerprint

from ..schema import LogSchema
from ..sources import Input, LogError, LogSource
from ..sources.inputs import changed
from ..store.manifest import FORMAT, VERSION
from .side_tables import side_table


@dataclass(frozen=True)
class Request:
    """A log, what its columns mean, and how it is to be converted.

    Args:
        sources: the log and the tables beside it.
        inputs: what the files of each held when they were looked at.
        name: ``data-<fingerprint>``, of their content, the schema and the options.
    """

    sources: tuple[LogSource, ...]
    inputs: tuple[tuple[Input, ...], ...]
    name: str

    @classmethod
    def of(
        cls,
        log: LogSource,
        schema: LogSchema,
        options: Mapping[str, Any],
        known: Iterable[Mapping[str, Any]] = (),
    ) -> Request:
        """Looks at the files; those whose stamps are among the ``known`` inputs are not read."""
        import pyarrow

        known = list(known)
        beside = [side_table(log, table)[0] for table in (schema.items, schema.initial_history)]
        inputs = [tuple(s.inputs(known)) if s is not None else None for s in (log, *beside)]
        content = [
            None if found is None else [[i.file, i.bytes, i.sha256] for i in found]
            for found in inputs
        ]
        asked = [FORMAT, VERSION, pyarrow.__version__, content, schema.to_json(), dict(options)]
        sources = tuple(source for source in (log, *beside) if source is not None)
        found = tuple(entry for entry in inputs if entry is not None)
        return cls(sources, found, f"data-{fingerprint(asked)[:16]}")

    def record(self) -> tuple[dict[str, Any], ...]:
        """The inputs as JSON data, for the manifest."""
        return tuple(asdict(entry) for found in self.inputs for entry in found)

    def check_unchanged(self) -> None:
        """Raises ``LogError`` where a file was written since it was looked at."""
        for source, inputs in zip(self.sources, self.inputs, strict=True):
            if source.files and (name := changed(source.files, inputs)) is not None:
                raise LogError(f"{name} changed while it was converted; convert it again")
