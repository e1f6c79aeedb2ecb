"""`LogSource`: a log, wherever it comes from, as numbered batches of Arrow rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..schema.files import TextFiles
from .columns import Columns
from .exploded import ExplodedFile
from .frames import NAME, as_file
from .inputs import Input, inputs_of
from .kinds import index_names
from .opening import open_log_file
from .paths import folder_of, resolve
from .reading import LogFile, Reading
from .splits import InputSplit, Stretch, splits_of

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
        source: a file, folder, glob or fsspec URI (or a list of these) of Parquet, text or JSON
            lines, read in the order of their names, folders named ``key=value`` as columns; or a
            pandas or polars frame, an Arrow table, or whatever offers a stream of Arrow data
            (``__arrow_c_stream__``: duckdb, Hugging Face's datasets, ...), which is read once.
        batch_rows: rows of a batch, at least 1.
        beside: paths of tables that lie beside the log and are not part of it, relative to its
            folder: a folder or a glob leaves them out.
        ids: columns whose values are names: in text files text, unless every value is spelled as
            an integer is; an empty text is a missing id, and a whole float its integer.
        reading: what else the schema says about the files.

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
        reading: Reading | None = None,
    ) -> None:
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be at least 1, got {batch_rows}")
        try:
            import pyarrow  # noqa: F401 (an extra: said here once, for every way in)
        except ImportError:
            raise ImportError(
                "reading a log needs pyarrow; pip install 'torchrl-drpo[data]'"
            ) from None
        reading = reading or Reading()
        reading = replace(reading, ids=reading.ids.union(ids))
        self.batch_rows = batch_rows
        self.frame = as_file(source, batch_rows)
        self.files = [] if self.frame is not None else resolve(source, beside)
        self.folder = folder_of(self.files[0]) if self.files else None
        opened: list[LogFile] = [open_log_file(name, reading) for name in self.files]
        opened = opened if self.frame is None else [self.frame]
        if reading.lists is not None:
            opened = [ExplodedFile(file, reading.lists, k) for k, file in enumerate(opened)]
        self.columns = Columns(opened, reading)
        self._tables: dict[str, LogSource] = {}

    @property
    def name(self) -> str:
        """The log in words, for messages: its first file."""
        return self.files[0] if self.files else NAME

    def kinds(self, columns: Sequence[str], ids: Collection[str] = ()) -> dict[str, str]:
        """The kind of each column (integer, float, boolean, string, time, list), checked to agree.

        Numbers of different kinds may meet in one column of several files, save in ``ids``.
        """
        self.columns.check(columns)
        named = self.columns.reading.ids.union(ids)
        return {column: self.columns.kind(column, column in named) for column in columns}

    def types(self, column: str) -> list[pa.DataType]:
        """The column's Arrow type in each file that does not leave it empty."""
        return self.columns.types(column)

    def table_beside(
        self, path: str, ids: Collection[str], files: TextFiles | None = None
    ) -> LogSource:
        """A table that lies beside the log, opened once."""
        if path not in self._tables:
            reading = Reading(frozenset(ids), files=files or TextFiles())
            self._tables[path] = LogSource(path, reading=reading)
        return self._tables[path]

    def splits(self, rows: int) -> list[InputSplit]:
        """The log in splits of about ``rows`` rows, the same on every call."""
        return splits_of(self.columns.files, self.files, self.batch_rows, rows)

    def batches(
        self, columns: Sequence[str] | None = None, split: InputSplit | None = None
    ) -> Iterator[Batch]:
        """All rows in order, or those of a split.

        Args:
            columns: which columns to read; all by default.
            split: one of :meth:`splits`.
        """
        names = None if columns is None else list(columns)
        types = self.columns.text_types()
        for stretch in split or map(Stretch, range(len(self.columns.files))):
            file, first_row = self.columns.files[stretch.file], stretch.start
            where = {"start": stretch.start, "stop": stretch.stop} if stretch.stop else {}
            for table in file.batches(names, self.batch_rows, types, **where):
                if table.num_rows == 0:
                    continue
                yield Batch(self.columns.mended(table, file.name, first_row), file.name, first_row)
                first_row += table.num_rows

    @property
    def index_columns(self) -> frozenset[str]:
        """Columns that only number the rows: a pandas index, a nameless column of a CSV file.

        They make every row another, although the rows that they number may be the same.
        """
        names = {name for file in self.columns.files for name in index_names(file.schema)}
        lists = self.columns.reading.lists
        return frozenset(names if lists is None else {*names, lists.number})

    def inputs(self, known: Iterable[Mapping[str, Any]] = ()) -> list[Input]:
        """What was read: one entry a file; see :func:`~.inputs.inputs_of`."""
        if self.frame is None:
            return inputs_of(self.files, known)
        return [Input(NAME, -1, self.frame.sha256())]
