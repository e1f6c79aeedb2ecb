"""`LogSource`: a log, wherever it comes from, as numbered batches of Arrow rows."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .columns import Columns
from .formats import guarded, read_schema, stream
from .frames import as_table, hash_table
from .inputs import Input, inputs_of
from .kinds import index_names
from .paths import folder_of, resolve

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 19


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
            read in the order of their names; or a pandas or polars frame, an Arrow table, or
            whatever offers one (``__arrow_c_stream__``, ``__dataframe__``).
        batch_rows: rows of a batch, at least 1.
        beside: paths of tables that lie beside the log and are not part of it, relative to its
            folder: a folder or a glob leaves them out.
        ids: columns whose values are names: in CSV files text, unless every value is spelled as
            an integer is; an empty text is a missing id.

    Raises:
        FileNotFoundError: if nothing matches.
        LogError: on an empty, foreign or truncated file, or where files disagree on a column.
    """

    def __init__(
        self,
        source: Any,
        batch_rows: int = BATCH_ROWS,
        beside: Sequence[str] = (),
        ids: Collection[str] = (),
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
        self.table = as_table(source)
        self.files = [] if self.table is not None else resolve(source, beside)
        self.folder = folder_of(self.files[0]) if self.files else None
        schemas = [(name, read_schema(name)) for name in self.files]
        if self.table is not None:
            schemas = [("the table", self.table.schema)]
        self.columns = Columns(schemas, ids)
        self._tables: dict[str, LogSource] = {}

    @property
    def name(self) -> str:
        """The log in words, for messages: its first file."""
        return self.files[0] if self.files else "the table"

    def kinds(self, columns: Sequence[str], ids: Collection[str] = ()) -> dict[str, str]:
        """The kind of each column (integer, float, boolean, string, time, list), checked to agree.

        Numbers of different kinds may meet in one column of several files, save in ``ids``.
        """
        self.columns.check(columns)
        named = self.columns.ids.union(ids)
        return {column: self.columns.kind(column, column in named) for column in columns}

    def types(self, column: str) -> list[pa.DataType]:
        """The column's Arrow type in each file that does not leave it empty."""
        return self.columns.types(column)

    def table_beside(self, path: str, ids: Collection[str]) -> LogSource:
        """A table that lies beside the log, opened once."""
        if path not in self._tables:
            self._tables[path] = LogSource(path, ids=ids)
        return self._tables[path]

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
                    yield Batch(self.columns.mended(table, file), file, first_row)
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
        types = self.columns.csv_types()
        for file in self.files:
            yield file, guarded(file, stream(file, names, self.batch_rows, types))

    @property
    def index_columns(self) -> frozenset[str]:
        """Columns that only number the rows: a pandas index, or a nameless column of a CSV file.

        They make every row another, although the rows that they number may be the same.
        """
        return frozenset(
            name for schema in self.columns.schemas.values() for name in index_names(schema)
        )

    def inputs(self, known: Iterable[Mapping[str, Any]] = ()) -> list[Input]:
        """What was read: one entry a file; see :func:`~.inputs.inputs_of`."""
        if self.table is None:
            return inputs_of(self.files, known)
        sha = hashlib.sha256()
        hash_table(sha, self.table)
        return [Input("the table", -1, sha.hexdigest())]
