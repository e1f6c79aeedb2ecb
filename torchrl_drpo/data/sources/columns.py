"""What the columns of a log hold: looked up in its files, agreed among them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from torchrl_drpo.spelling import did_you_mean

from .errors import LogError
from .formats import guarded, is_csv, text_blocks
from .inference import TextColumn
from .kinds import column_kind, common_kind

if TYPE_CHECKING:
    import pyarrow as pa

_INT64 = np.iinfo(np.int64)


class Columns:
    """The columns of some files that make one log.

    Args:
        schemas: each file's name and Arrow schema; in CSV files all columns are text.
        ids: columns whose values are names; see :attr:`LogSchema.ids`.
    """

    def __init__(self, schemas: list[tuple[str, pa.Schema]], ids: Collection[str]) -> None:
        self.schemas = dict(schemas)
        self.ids = frozenset(ids)
        self._forced: set[str] = set()
        self._inferred: dict[str, TextColumn] | None = None
        self._text_rows: int | None = None

    def check(self, columns: Sequence[str]) -> None:
        """Looks for the columns in every file, which costs no reading.

        Raises:
            LogError: names the file, and the column that it lacks or has twice.
        """
        for file, schema in self.schemas.items():
            for column in columns:
                count = schema.names.count(column)
                if count > 1:
                    raise LogError(
                        f"{file} has {count} columns named {column!r}; rename them, so that it is "
                        "clear which is meant"
                    )
                if count == 0:
                    hint = did_you_mean(column, schema.names)
                    hint = hint or f"; it has {schema.names[:20]}"
                    raise LogError(f"{file} has no column {column!r}{hint}")

    def kind(self, column: str, is_id: bool) -> str:
        """The kind that the column has in all files; ids must be of one kind.

        Raises:
            LogError: names the file, and the type that was found there.
        """
        found: dict[str, str] = {}
        for file, of_type in self._typed(column):
            kind = column_kind(of_type)
            if kind == "other":
                raise LogError(
                    f"{file}: column {column!r} has type {of_type}, expected integers, floats, "
                    "booleans, strings, timestamps or lists of ids"
                )
            if kind == "string" and is_csv(file) and self.ids and not is_id:
                self._refuse_text(column)
            found.setdefault(kind, file)
        if not found:
            files = ", ".join(self.schemas)
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
        """From here on the column is text in CSV files, whatever its values look like."""
        self._forced.add(column)

    def csv_types(self) -> dict[str, pa.DataType]:
        """The type of every column of CSV files, the same in each of them."""
        return {name: self._csv_type(name) for name in self._text_columns}

    def mended(self, batch: pa.RecordBatch, file: str) -> pa.RecordBatch:
        """The batch with empty ids as nulls, and columns without a type in that of other files.

        Raises:
            LogError: on an id beyond int64.
        """
        import pyarrow as pa

        for place, (name, values) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
            fixed = values
            if pa.types.is_null(values.type):
                fixed = pa.nulls(len(values), next(iter(self.types(name)), values.type))
            elif name in self.ids and column_kind(values.type) == "string":
                fixed = _without_empty(values)
            elif name in self.ids and values.type == pa.uint64():
                _check_int64(values, f"{file}: {name}")
            if fixed is not values:
                batch = batch.set_column(place, name, fixed)
        return batch

    def _typed(self, column: str) -> Iterator[tuple[str, pa.DataType]]:
        """Each file that has values in the column, and their type."""
        import pyarrow as pa

        for file, schema in self.schemas.items():
            if column in schema.names:
                of_type = self._csv_type(column) if is_csv(file) else schema.field(column).type
                if not pa.types.is_null(of_type):
                    yield file, of_type

    def _csv_type(self, column: str) -> pa.DataType:
        import pyarrow as pa

        return pa.string() if column in self._forced else self._text_columns[column].type

    @property
    def _text_columns(self) -> dict[str, TextColumn]:
        """The columns of the CSV files, which are read once to find out what they hold."""
        if self._inferred is None:
            of_csv = (schema for file, schema in self.schemas.items() if is_csv(file))
            names = dict.fromkeys(name for schema in of_csv for name in schema.names)
            columns = {name: TextColumn(name in self.ids) for name in names}
            self._text_rows = 0 if names else None
            for file, row, block in self._blocks():
                self._text_rows += block.num_rows
                for name, values in zip(block.schema.names, block.columns, strict=True):
                    columns[name].see(values, file, row)
            self._inferred = columns
        return self._inferred

    def _blocks(self) -> Iterator[tuple[str, int, pa.RecordBatch]]:
        for file, schema in self.schemas.items():
            if is_csv(file):
                row = 0
                for block in guarded(file, text_blocks(file, schema.names)):
                    yield file, row, block
                    row += block.num_rows

    def _refuse_text(self, column: str) -> None:
        stray = self._text_columns[column].stray
        if stray is not None:
            file, row, text = stray
            raise LogError(
                f"{file}, row {row}: {column} is {text!r}, where the schema expects numbers or "
                "times; mend it, or leave the column out of the schema (lists need Parquet)"
            )


def _without_empty(values: pa.Array) -> pa.Array:
    """Texts, null where they are empty: what has no name has no id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    coded = pa.types.is_dictionary(values.type)
    text = values.dictionary if coded else values
    if pa.types.is_string_view(text.type):
        text = text.cast(pa.string())
    empty = pc.equal(text, "")
    if not pc.any(empty).as_py():
        return values
    if coded:
        return _without_empty(values.dictionary_decode())
    return pc.if_else(empty, pa.scalar(None, text.type), text)


def _check_int64(values: pa.Array, name: str) -> None:
    import pyarrow.compute as pc

    largest = pc.max(values).as_py()
    if largest is not None and largest > _INT64.max:
        raise LogError(f"{name} is {largest}, expected an id that int64 holds; write ids as text")
