"""Small tables of ids: Parquet, CSV, or text with one id a line; read a block of rows at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrl_drpo.pipeline.artifacts.users import RawId

if TYPE_CHECKING:
    import pyarrow as pa

#: What files are read as, by their names' ends.
KINDS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "text"}
#: Rows of a block unless told otherwise.
_ROWS = 65_536


def blocks(path: Path, rows: int = _ROWS) -> Iterator[pa.RecordBatch]:
    """The rows of a file in order, at most ``rows`` at a time.

    Text and CSV hold texts alone: what an id is, a catalogue says.

    Args:
        path: its name ends with one of ``KINDS``. A CSV file has a header; a text file has one id
            a line, in the column ``id``.
        rows: at least 1.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not such a file.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: expected a name that ends with {', '.join(KINDS)}")
    import pyarrow as pa

    read = {"parquet": _parquet, "csv": _csv, "text": _text}[kind]
    try:
        for block in read(path, rows):
            for start in range(0, block.num_rows, rows):
                yield block.slice(start, rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as {kind}: {error}") from None


def rows_of(path: Path) -> int:
    """About how many rows a file has: those that Parquet counts, else lines."""
    if KINDS.get(path.suffix.lower()) == "parquet":
        import pyarrow.parquet as pq

        return pq.ParquetFile(path).metadata.num_rows  # type: ignore[no-any-return]
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def first_column(path: Path, names: Sequence[str] = ()) -> list[RawId]:
    """The ids of a file: those of the first of ``names`` that it has, or of its only column.

    Raises:
        ValueError: if there are several columns of other names, or ids that are no ids.
    """
    found: list[RawId] = []
    for block in blocks(path):
        column = id_column(path, block.schema.names, names)
        found += raw_values(path, block.column(column))
    if not found:
        raise ValueError(f"{path} holds no ids")
    return found


def id_column(path: Path, columns: Sequence[str], names: Sequence[str]) -> str:
    """Which of a file's columns holds the ids."""
    for name in names:
        if name in columns:
            return name
    if len(columns) == 1:
        return columns[0]
    wanted = " or ".join(repr(name) for name in dict.fromkeys(names))
    raise ValueError(f"{path} has no column {wanted}, but {', '.join(map(repr, columns))}")


def raw_values(path: Path, column: pa.Array) -> list[Any]:
    """Values of a column of ids, integers or texts, ``None`` where there is none.

    Raises:
        ValueError: for a column of another type.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    whole = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not whole and not pa.types.is_null(kind):
        raise ValueError(f"{path}: ids must be integers or text, got {kind}")
    values: list[Any] = column.to_pylist()
    return values


def _parquet(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=rows)


def _csv(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with open(path, encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file, delimiter=delimiter), [])
    if not names:
        raise ValueError(f"{path} is empty; expected a header")
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f"{path}: the header names {sorted(repeated)[0]!r} twice")
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
    )
    parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with arrow_csv.open_csv(path, parse_options=parse, convert_options=convert) as reader:
        yield from reader


def _text(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    lines: list[str] = []
    with open(path, encoding="utf-8-sig") as file:
        for line in file:
            if line.rstrip("\r\n"):
                lines.append(line.rstrip("\r\n"))
            if len(lines) == rows:
                yield pa.record_batch({"id": lines})
                lines = []
    if lines:
        yield pa.record_batch({"id": lines})
