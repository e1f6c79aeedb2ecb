"""Parquet and CSV files as streams of Arrow batches, local or behind a URI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import LogError

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".csv.gz", ".tsv")


def open_file(file: str) -> Any:
    """A file or URI, opened for reading bytes."""
    import fsspec

    return fsspec.open(file, "rb").open() if "://" in file else open(file, "rb")


def read_schema(file: str) -> pa.Schema:
    """The columns of a file; raises ``LogError`` where it is not what its name says."""
    lower = file.lower()
    with open_file(file) as handle:
        if not handle.read(1):
            raise LogError(f"{file} is empty (0 bytes); write it again or leave it out")
    if lower.endswith(PARQUET):
        return _guard(file, lambda: _parquet(file).schema_arrow)
    if lower.endswith(CSV):
        return _guard(file, lambda: _csv_reader(file, None).schema)
    raise LogError(f"{file} is neither Parquet {PARQUET} nor CSV {CSV}; rename or convert it")


def _parquet(file: str) -> Any:
    import pyarrow.parquet as pq

    if "://" in file:
        return pq.ParquetFile(open_file(file))
    return pq.ParquetFile(file, memory_map=True)


def _csv_reader(file: str, columns: list[str] | None) -> Any:
    from pyarrow import csv

    return csv.open_csv(
        file if "://" not in file else open_file(file),
        parse_options=csv.ParseOptions(delimiter="\t" if file.lower().endswith(".tsv") else ","),
        convert_options=csv.ConvertOptions(include_columns=columns),
        read_options=csv.ReadOptions(block_size=1 << 24),
    )


def stream(file: str, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    """A file's rows in order, at most ``rows`` at a time."""
    if file.lower().endswith(PARQUET):
        yield from _parquet(file).iter_batches(batch_size=rows, columns=columns)
        return
    for block in _csv_reader(file, columns):
        for start in range(0, block.num_rows, rows):
            yield block.slice(start, rows)


def _guard(file: str, read: Any) -> Any:
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise LogError(
            f"{file} cannot be read: truncated, damaged or of another format than its name says "
            f"({str(error).strip().splitlines()[0]})"
        ) from error


def guarded(file: str, stream: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches; what pyarrow raises on the way becomes a ``LogError`` naming the file."""
    while True:
        batch = _guard(file, lambda: next(stream, None))
        if batch is None:
            return
        yield batch
