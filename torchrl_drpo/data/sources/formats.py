"""Parquet and CSV files as streams of Arrow batches, local or behind a URI.

CSV files are UTF-8 with a header line. Their columns are separated by commas; or by whatever of
``;``, tab and ``|`` the header holds instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .errors import LogError

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
BLOCK_BYTES, HEADER_BYTES = 1 << 24, 1 << 16


def open_file(file: str) -> Any:
    """A file or URI, opened for reading bytes."""
    import fsspec

    return fsspec.open(file, "rb").open() if "://" in file else open(file, "rb")


def is_csv(file: str) -> bool:
    """Whether a file is read as CSV, by its name."""
    return file.lower().endswith(CSV)


def read_schema(file: str) -> pa.Schema:
    """The columns of a file, those of a CSV file as text; ``LogError`` where it is another thing.

    What the columns of CSV files hold only all their rows can tell.
    """
    with open_file(file) as handle:
        if not handle.read(1):
            raise LogError(f"{file} is empty (0 bytes); write it again or leave it out")
    if file.lower().endswith(PARQUET):
        return _guard(file, lambda: _parquet(file).schema_arrow)
    if is_csv(file):
        import pyarrow as pa

        return pa.schema([(name, pa.string()) for name in _guard(file, lambda: _csv_names(file))])
    raise LogError(f"{file} is neither Parquet {PARQUET} nor CSV {CSV}; rename or convert it")


def _parquet(file: str) -> Any:
    import pyarrow.parquet as pq

    if "://" in file:
        return pq.ParquetFile(open_file(file))
    return pq.ParquetFile(file, memory_map=True)


def _csv_names(file: str) -> list[str]:
    """The header of a CSV file, from as little of it as will do."""
    import pyarrow as pa

    try:
        return list(_csv_reader(file, HEADER_BYTES).schema.names)
    except pa.ArrowInvalid:  # the first row is longer than that, or damaged
        return list(_csv_reader(file).schema.names)


def _csv_reader(file: str, block_bytes: int = 0, **convert: Any) -> Any:
    from pyarrow import csv

    delimiter = _delimiter(file)
    return csv.open_csv(
        _csv_bytes(file),
        # A quoted text may hold a line break, also where one block of bytes meets the next.
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(**convert),
        read_options=csv.ReadOptions(block_size=block_bytes or BLOCK_BYTES),
    )


def _csv_bytes(file: str) -> Any:
    import pyarrow as pa

    handle = open_file(file) if "://" in file else pa.OSFile(file)
    return pa.CompressedInputStream(handle, "gzip") if file.lower().endswith(".gz") else handle


def _delimiter(file: str) -> str:
    with _csv_bytes(file) as handle:
        header = handle.read(HEADER_BYTES).split(b"\n")[0]
    if header.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise LogError(f"{file} is text in UTF-16; save it as UTF-8")
    usual = "\t" if file.lower().endswith((".tsv", ".tsv.gz")) else ","
    return next((sign for sign in (usual, ",", ";", "\t", "|") if sign.encode() in header), usual)


def text_blocks(file: str, names: list[str]) -> Iterator[pa.RecordBatch]:
    """A CSV file's rows in order, every column as text; null where nothing is written."""
    import pyarrow as pa

    types = dict.fromkeys(names, pa.string())
    yield from _csv_reader(file, column_types=types, strings_can_be_null=True)


def stream(
    file: str, columns: list[str] | None, rows: int, types: Mapping[str, pa.DataType]
) -> Iterator[pa.RecordBatch]:
    """A file's rows in order, at most ``rows`` at a time; ``types`` are those of CSV columns."""
    if not is_csv(file):
        yield from _parquet(file).iter_batches(batch_size=rows, columns=columns)
        return
    for block in _csv_reader(file, include_columns=columns, column_types=types):
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
