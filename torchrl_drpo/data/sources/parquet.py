"""Parquet files, local or behind a URI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .formats import guard, guarded, open_file
from .reading import TypedFile

if TYPE_CHECKING:
    import pyarrow as pa


class ParquetFile(TypedFile):
    """One Parquet file.

    Args:
        name: its path or URI.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.schema = guard(name, lambda: self._open().schema_arrow)

    def batches(
        self, columns: list[str] | None, rows: int, types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most ``rows`` at a time."""

        def read() -> Iterator[pa.RecordBatch]:
            yield from self._open().iter_batches(batch_size=rows, columns=columns)

        return guarded(self.name, read())

    def _open(self) -> Any:
        import pyarrow.parquet as pq

        if "://" in self.name:
            return pq.ParquetFile(open_file(self.name))
        return pq.ParquetFile(self.name, memory_map=True)
