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
        file = guard(name, self._open)
        self.schema, self.num_rows = file.schema_arrow, file.metadata.num_rows

    def batches(
        self,
        columns: list[str] | None,
        rows: int,
        types: Mapping[str, pa.DataType],
        start: int = 0,
        stop: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The rows in order, at most ``rows`` at a time, from row ``start`` to before ``stop``."""

        def read() -> Iterator[pa.RecordBatch]:
            file = self._open()
            if start == 0 and stop in (None, self.num_rows):
                yield from file.iter_batches(batch_size=rows, columns=columns)
                return
            groups, skipped = _groups(file.metadata, start, stop)
            found = file.iter_batches(batch_size=rows, columns=columns, row_groups=groups)
            last = self.num_rows if stop is None else stop
            yield from _cut(found, start - skipped, last - start, rows)

        return guarded(self.name, read())

    def _open(self) -> Any:
        import pyarrow.parquet as pq

        if "://" in self.name:
            return pq.ParquetFile(open_file(self.name))
        return pq.ParquetFile(self.name, memory_map=True)


def _groups(metadata: Any, start: int, stop: int | None) -> tuple[list[int], int]:
    """The row groups that hold the rows, and how many rows stand before the first of them."""
    groups, skipped, first = [], 0, 0
    for number in range(metadata.num_row_groups):
        end = first + metadata.row_group(number).num_rows
        if end <= start:
            skipped = end
        elif stop is None or first < stop:
            groups.append(number)
        first = end
    return groups, skipped


def _cut(
    batches: Iterator[pa.RecordBatch], skip: int, total: int, rows: int
) -> Iterator[pa.RecordBatch]:
    """``total`` rows behind the first ``skip`` ones, ``rows`` of them at a time."""
    import pyarrow as pa

    parts: list[pa.RecordBatch] = []
    waiting = 0
    for batch in batches:
        here = batch.slice(skip, total - waiting)
        skip = max(0, skip - batch.num_rows)
        while here.num_rows:
            taken = here.slice(0, rows - waiting)
            parts, waiting = [*parts, taken], waiting + taken.num_rows
            here = here.slice(taken.num_rows)
            if waiting == min(rows, total):
                whole = pa.Table.from_batches(parts)
                yield from parts if len(parts) == 1 else whole.combine_chunks().to_batches()
                total, parts, waiting = total - waiting, [], 0
        if total == 0:
            return
