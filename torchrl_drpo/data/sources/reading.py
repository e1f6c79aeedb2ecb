"""What reading a log needs to know of its schema, and what every kind of file offers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..schema.files import TextFiles
from ..schema.lists import Lists

if TYPE_CHECKING:
    import pyarrow as pa

    from ..schema import LogSchema


@dataclass(frozen=True)
class Reading:
    """How the columns of a log are to be read.

    Args:
        ids: columns whose values are names; see :attr:`LogSchema.ids`.
        texts: those that are text even where every value is spelled as an integer.
        time: the column of times, whose texts are read as such.
        time_format: how they are written, as for ``strptime``; ISO 8601 by default.
        files: what text files leave open.
        lists: columns of lists, every entry of which is a row.
    """

    ids: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    time: str | None = None
    time_format: str | None = None
    files: TextFiles = field(default_factory=TextFiles)
    lists: Lists | None = None

    @classmethod
    def of(cls, schema: LogSchema) -> Reading:
        """What a schema says about it."""
        return cls(
            ids=frozenset(schema.ids),
            texts=frozenset(schema.quality.texts),
            time=schema.time,
            time_format=schema.time_format,
            files=schema.files or TextFiles(),
            lists=schema.lists,
        )


class LogFile(Protocol):
    """One file of a log, or a frame.

    Attributes:
        name: for messages.
        schema: its columns and their Arrow types.
        untyped: columns that are text until all rows of all files were seen.
        about: how it was read, to be said where a column is not there.
        num_rows: how many rows it has, None where only reading tells; else it is read from any row
            on, as ``batches(..., start=, stop=)``.
    """

    name: str
    schema: pa.Schema
    untyped: Collection[str]
    about: str
    num_rows: int | None

    def text_blocks(self) -> Iterator[pa.RecordBatch]:
        """The rows' untyped columns as text, null where nothing is written."""

    def batches(
        self, columns: list[str] | None, rows: int, types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.RecordBatch]:
        """All rows in order, at most ``rows`` at a time; ``types`` are those of untyped columns."""


@dataclass
class TypedFile:
    """What files have in common that know their types."""

    untyped: Collection[str] = ()
    about: str = ""
    num_rows: int | None = None

    def text_blocks(self) -> Iterator[Any]:
        """Nothing: no column is untyped."""
        return iter(())
