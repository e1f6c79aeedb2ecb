"""What the columns of a log hold: looked up in its files, agreed among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torchrl_drpo.spelling import did_you_mean

from .errors import LogError
from .inference import TextColumn
from .kinds import NUMBERS, column_kind, common_kind, is_nested
from .mending import check_int64, whole_ids, without_empty
from .reading import LogFile, Reading
from .times import advice, read_times

if TYPE_CHECKING:
    import pyarrow as pa


class Columns:
    """The columns of some files that make one log.

    Args:
        files: the log's files.
        reading: what the schema says about them.
    """

    def __init__(self, files: Sequence[LogFile], reading: Reading) -> None:
        self.files, self.reading = files, reading
        self._forced = set(reading.texts)
        if reading.time is not None and reading.time_format is not None:
            self._forced.add(reading.time)
        self._inferred: dict[str, TextColumn] | None = None
        self._text_rows: int | None = None

    @property
    def names(self) -> list[str]:
        """The columns that every file has, in the order of the first."""
        others = [set(file.schema.names) for file in self.files[1:]]
        return [n for n in self.files[0].schema.names if all(n in other for other in others)]

    def check(self, columns: Sequence[str]) -> None:
        """Looks for the columns in every file, which costs no reading.

        Raises:
            LogError: names the file, and the column that it lacks or has twice.
        """
        for file in self.files:
            names = file.schema.names
            for column in columns:
                count = names.count(column)
                if count > 1:
                    raise LogError(
                        f"{file.name} has {count} columns named {column!r}; rename them, so that "
                        "it is clear which is meant"
                    )
                if count == 0:
                    hint = did_you_mean(column, names)
                    hint = hint or f"; it has {names[:20]}{file.about}"
                    raise LogError(f"{file.name} has no column {column!r}{hint}")

    def kind(self, column: str, is_id: bool) -> str:
        """The kind that the column has in all files; ids must be of one kind.

        Raises:
            LogError: names the file, and the type that was found there.
        """
        found: dict[str, str] = {}
        for file, of_type in self._typed(column):
            kind = column_kind(of_type)
            if kind == "other":
                mend = "; take its fields out, as columns of their own" * is_nested(of_type)
                raise LogError(
                    f"{file.name}: column {column!r} has type {of_type}, expected integers, "
                    f"floats, booleans, strings, timestamps or lists of ids{mend}"
                )
            if column == self.reading.time and self.reading.time_format and kind in NUMBERS:
                raise LogError(
                    f"{file.name}: column {column!r} holds {kind} times, but time_format says how "
                    "texts are written; leave it out, or write the times as texts"
                )
            named = is_id or column in self.reading.texts
            if kind == "string" and column in file.untyped and self.reading.ids and not named:
                self._refuse_text(column)
            found.setdefault(kind, file.name)
        if not found:
            files = ", ".join(file.name for file in self.files)
            if self._text_rows == 0:
                raise LogError(f"the log has no rows: {files}")
            raise LogError(f"column {column!r} holds nothing in {files}; fill it or leave it out")
        common = common_kind(set(found))
        if common is None or (is_id and len(found) > 1):
            (first, where), (second, there) = list(found.items())[:2]
            raise LogError(
                f"column {column!r} is {first} in {where} but {second} in {there}; "
                "write the files with one schema"
            )
        return common

    def types(self, column: str) -> list[pa.DataType]:
        """The column's Arrow type in each file that does not leave it empty."""
        return [of_type for _, of_type in self._typed(column)]

    def read_as_text(self, column: str) -> None:
        """From here on the column is text in text files, whatever its values look like."""
        self._forced.add(column)

    def text_types(self) -> dict[str, pa.DataType]:
        """The type in which every untyped column is read, the same in each file."""
        return {name: self._text_type(name) for name in self._text_columns}

    def mended(self, batch: pa.RecordBatch, file: str, first_row: int) -> pa.RecordBatch:
        """The batch with ids and times of one form, and empty columns of the others' types.

        Raises:
            LogError: on an id beyond int64 or with a fraction, or a text that is no time.
        """
        import pyarrow as pa

        for place, (name, values) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
            fixed, kind = values, column_kind(values.type)
            if pa.types.is_null(values.type):
                fixed = pa.nulls(len(values), next(iter(self.types(name)), values.type))
            elif name == self.reading.time and kind == "string":
                fixed = read_times(values, self.reading.time_format, file, first_row)
            elif name in self.reading.ids and kind == "string":
                fixed = without_empty(values)
            elif name in self.reading.ids and kind == "float":
                fixed = whole_ids(values, name, file, first_row)
            elif name in self.reading.ids and values.type == pa.uint64():
                check_int64(values, f"{file}: {name}")
            if fixed is not values:
                batch = batch.set_column(place, name, fixed)
        return batch

    def _typed(self, column: str) -> Iterator[tuple[LogFile, pa.DataType]]:
        """Each file that has values in the column, and the type of what they mean."""
        import pyarrow as pa

        for file in self.files:
            if column not in file.schema.names:
                continue
            text = column in file.untyped
            of_type = self._text_type(column) if text else file.schema.field(column).type
            kind = column_kind(of_type)
            if column in self.reading.ids and kind == "float":
                of_type = pa.int64()
            elif (
                column == self.reading.time
                and kind == "string"
                and (not text or self.reading.time_format is not None)
            ):
                of_type = pa.timestamp("us")
            if not pa.types.is_null(of_type):
                yield file, of_type

    def _text_type(self, column: str) -> pa.DataType:
        import pyarrow as pa

        return pa.string() if column in self._forced else self._text_columns[column].type

    @property
    def _text_columns(self) -> dict[str, TextColumn]:
        """The untyped columns, which are read once to find out what they hold."""
        if self._inferred is None:
            untyped = [file for file in self.files if file.untyped]
            names = [name for file in untyped for name in file.schema.names if name in file.untyped]
            columns = {name: TextColumn(name in self.reading.ids) for name in names}
            self._text_rows = 0 if names else None
            for file in untyped:
                row = 0
                for block in file.text_blocks():
                    for name, values in zip(block.schema.names, block.columns, strict=True):
                        columns[name].see(values, file.name, row)
                    row += block.num_rows
                self._text_rows = (self._text_rows or 0) + row
            self._inferred = columns
        return self._inferred

    def _refuse_text(self, column: str) -> None:
        import pyarrow as pa

        stray = self._text_columns[column].stray
        if stray is None:
            return
        file, row, text = stray
        mend = "mend it, or leave the column out of the schema (lists need Parquet)"
        if column == self.reading.time:
            mend = advice(pa.array([text]))
        raise LogError(
            f"{file}, row {row}: {column} is {text!r}, where the schema expects numbers or "
            f"times; {mend}"
        )
