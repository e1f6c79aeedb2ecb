"""Where a log comes from: Parquet or CSV files, URIs, pandas, polars, Arrow; read in batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import join
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = (".parquet", ".pq")
CSV = (".csv", ".csv.gz", ".tsv")
BATCH_ROWS = 1 << 19
TIME_TYPES_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_NUMBERS = {"integer", "float", "boolean"}


class LogError(ValueError):
    """A log that cannot be read as its schema says: names the file and, where known, the row."""


@dataclass(frozen=True)
class Batch:
    """Some consecutive rows of one file.

    Args:
        table: the rows.
        file: the file's name, for messages.
        first_row: number of the first row within the file, from zero.
    """

    table: pa.RecordBatch
    file: str
    first_row: int


class LogSource:
    """A log as numbered batches of Arrow rows, the same batches on every pass.

    Args:
        source: a file, folder, glob or fsspec URI (or a list of these) of Parquet or CSV files,
            read in the order of their names; or a pandas or polars frame, or an Arrow table.
        batch_rows: rows of a batch, at least 1.
        beside: paths of tables that lie beside the log and are not part of it, relative to its
            folder: a folder or a glob leaves them out.

    Raises:
        FileNotFoundError: if nothing matches.
        LogError: on an empty, foreign or truncated file, or where files disagree on a column.
    """

    def __init__(
        self, source: Any, batch_rows: int = BATCH_ROWS, beside: Sequence[str] = ()
    ) -> None:
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be at least 1, got {batch_rows}")
        try:
            import pyarrow  # noqa: F401 (an extra: said here once, for every way in)
        except ImportError:
            raise ImportError(
                "reading a log needs pyarrow; pip install 'torchrl-drpo[data]'"
            ) from None
        self.batch_rows = batch_rows
        self.table = _as_table(source)
        self.files = [] if self.table is not None else _resolve(source, beside)
        self.folder = _folder_of(self.files[0]) if self.files else None
        self._schemas = [(name, _read_schema(name)) for name in self.files]
        if self.table is not None:
            self._schemas = [("the table", self.table.schema)]

    @property
    def column_names(self) -> list[str]:
        """All columns of the first file."""
        return list(self._schemas[0][1].names)

    def kinds(self, columns: Sequence[str], ids: Sequence[str] = ()) -> dict[str, str]:
        """The kind of each column (integer, float, boolean, string, time, list), checked to agree.

        Numbers of different kinds may meet in one column of several files, save in ``ids``.
        """
        import difflib

        found: dict[str, tuple[str, str]] = {}
        for file, schema in self._schemas:
            for column in columns:
                if column not in schema.names:
                    near = difflib.get_close_matches(column, schema.names, 3)
                    hint = f"did you mean {near}?" if near else f"it has {schema.names[:20]}"
                    raise LogError(f"{file} has no column {column!r}; {hint}")
                kind = column_kind(schema.field(column).type)
                if kind == "other":
                    raise LogError(
                        f"{file}: column {column!r} has type {schema.field(column).type}, expected "
                        "integers, floats, booleans, strings, timestamps or lists of ids"
                    )
                earlier, where = found.setdefault(column, (kind, file))
                mixed = {kind, earlier}
                if len(mixed) > 1 and (column in ids or not mixed <= _NUMBERS):
                    raise LogError(
                        f"column {column!r} is {earlier} in {where} but {kind} in {file}; "
                        "write the files with one schema"
                    )
        return {column: kind for column, (kind, _) in found.items()}

    def types(self, column: str) -> list[pa.DataType]:
        """The column's Arrow type in each file."""
        return [schema.field(column).type for _, schema in self._schemas]

    def batches(self, columns: Sequence[str] | None = None, start: int = 0) -> Iterator[Batch]:
        """All rows in order.

        Args:
            columns: which columns to read; all by default.
            start: number of leading batches to leave out.
        """
        number = 0
        for file, tables in self._streams(columns):
            first_row = 0
            for table in tables:
                if table.num_rows == 0:
                    continue
                if number >= start:
                    yield Batch(table, file, first_row)
                number += 1
                first_row += table.num_rows

    def _streams(
        self, columns: Sequence[str] | None
    ) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        if self.table is not None:
            table = self.table if columns is None else self.table.select(list(columns))
            yield "the table", iter(table.to_batches(max_chunksize=self.batch_rows))
            return
        names = None if columns is None else list(columns)
        for file in self.files:
            yield file, _guarded(file, _stream(file, names, self.batch_rows))

    def fingerprint(self) -> str:
        """A digest of the contents' outline: sizes, heads and tails (a Parquet footer) of files.

        It tells files that were rewritten from those that were read before; bytes changed in the
        middle of a file of equal size and footer go unseen.
        """
        digest = hashlib.sha256()
        if self.table is not None:
            _hash_table(digest, self.table)
        for file in self.files:
            with _open(file) as handle:
                head = handle.read(1 << 12)
                size = handle.seek(0, 2)
                handle.seek(max(0, size - (1 << 16)))
                tail = handle.read()
            digest.update(json.dumps([Path(file).name, size]).encode() + head + tail)
        return digest.hexdigest()


def column_kind(kind: pa.DataType) -> str:
    """Integer, float, boolean, string, time, list or other."""
    import pyarrow as pa

    tests = {
        "integer": pa.types.is_integer,
        "float": lambda t: pa.types.is_floating(t) or pa.types.is_decimal(t),
        "boolean": pa.types.is_boolean,
        "string": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        "time": lambda t: pa.types.is_timestamp(t) or pa.types.is_date(t),
        "list": lambda t: pa.types.is_list(t) or pa.types.is_large_list(t),
    }
    if pa.types.is_dictionary(kind):
        return column_kind(kind.value_type)
    if pa.types.is_string_view(kind):
        return "string"
    return next((name for name, test in tests.items() if test(kind)), "other")


def _as_table(source: Any) -> pa.Table | None:
    """An Arrow table from a frame or a flat TensorDict, None for paths."""
    import pyarrow as pa

    if isinstance(source, pa.Table):
        return source
    if isinstance(source, pa.RecordBatch):
        return pa.Table.from_batches([source])
    module = type(source).__module__.partition(".")[0]
    if module == "pandas":
        return pa.Table.from_pandas(source, preserve_index=False)
    if module == "polars":
        return (source.collect() if hasattr(source, "collect") else source).to_arrow()
    if module == "tensordict":
        flat = {key: source.get(key) for key in source.keys()}  # noqa: SIM118 (TensorDict)
        nested = [key for key, value in flat.items() if getattr(value, "ndim", 2) != 1]
        if nested:
            raise LogError(
                f"a TensorDict read through a schema holds one number a row and key, but {nested} "
                "are nested or have more dimensions; pass TED rows without a schema"
            )
        return pa.table({key: value.cpu().numpy() for key, value in flat.items()})
    return None


def _resolve(source: Any, beside: Sequence[str]) -> list[str]:
    parts = source if isinstance(source, list | tuple) else [source]
    files: list[str] = []
    for part in parts:
        if not isinstance(part, str | Path):
            raise TypeError(
                "a log is a path, a list of paths, a pandas or polars frame, an Arrow table or a "
                f"TensorDict, got {type(part).__name__}"
            )
        files += _expand(str(part), beside)
    if not files:
        raise FileNotFoundError(f"no log files in an empty list: {source!r}")
    return files


def _expand(text: str, beside: Sequence[str]) -> list[str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(text)
    if any(sign in path for sign in "*?["):
        found = sorted(system.glob(path))
    elif system.isdir(path):
        everything = sorted(system.find(path))
        found = [name for name in everything if name.lower().endswith((*PARQUET, *CSV))]
        kinds = {name.lower().endswith(PARQUET) for name in found}
        if len(kinds) > 1:
            raise LogError(f"{text} holds Parquet and CSV files; say which, as in {text}/*.parquet")
    elif system.exists(path):
        found = [path]
    else:
        found = []
    found = [name for name in found if not Path(name).name.startswith(("_", "."))]
    if found != [path]:  # a file that is named is wanted
        found = [n for n in found if all(join(_folder_of(n), table) != n for table in beside)]
    if not found:
        raise FileNotFoundError(f"no log file matches {text!r}; expected Parquet or CSV files")
    return [name if _is_local(system) else system.unstrip_protocol(name) for name in found]


def _is_local(system: Any) -> bool:
    return "file" in (system.protocol if isinstance(system.protocol, tuple) else [system.protocol])


def _folder_of(file: str) -> str:
    return file.rpartition("/")[0] or "."


def _open(file: str) -> Any:
    import fsspec

    return fsspec.open(file, "rb").open() if "://" in file else open(file, "rb")


def _read_schema(file: str) -> pa.Schema:
    lower = file.lower()
    with _open(file) as handle:
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
        return pq.ParquetFile(_open(file))
    return pq.ParquetFile(file, memory_map=True)


def _csv_reader(file: str, columns: list[str] | None) -> Any:
    from pyarrow import csv

    return csv.open_csv(
        file if "://" not in file else _open(file),
        parse_options=csv.ParseOptions(delimiter="\t" if file.lower().endswith(".tsv") else ","),
        convert_options=csv.ConvertOptions(include_columns=columns),
        read_options=csv.ReadOptions(block_size=1 << 24),
    )


def _stream(file: str, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
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


def _guarded(file: str, stream: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    while True:
        batch = _guard(file, lambda: next(stream, None))
        if batch is None:
            return
        yield batch


def _hash_table(digest: Any, table: pa.Table) -> None:
    import pyarrow as pa

    class _Sink:
        closed = False

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(data)

        def flush(self) -> None: ...

        def close(self) -> None: ...

    with pa.ipc.new_stream(pa.PythonFile(_Sink(), mode="w"), table.schema) as writer:
        writer.write_table(table)
