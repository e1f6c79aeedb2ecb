"""A file whose rows hold lists, as a file with a row for every entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..schema.lists import Lists
from .arrow import list_parts
from .errors import LogError
from .kinds import column_kind
from .reading import LogFile

if TYPE_CHECKING:
    import pyarrow as pa

#: Lists have more entries than there are rows: so many fewer rows are read at a time.
_SHARE = 32
_AROUND = " []()'\"\t"


class ExplodedFile:
    """The file, entry by entry.

    Args:
        file: as it lies there.
        lists: which columns are lists.
        number: of the file among the log's, for numbers of rows that no other file has.

    Raises:
        LogError: if a column is not there, or holds no lists; if names would meet.
    """

    def __init__(self, file: LogFile, lists: Lists, number: int) -> None:
        import pyarrow as pa

        self._file, self._lists, self._first = file, lists, number << 40
        self.name = f"{file.name}, row by row of its lists"
        self.about, self.num_rows = file.about, None
        held = {column: self._fields(column) for column in lists.columns}
        self._made = [name for fields in held.values() for name in fields]
        listed = set(lists.columns) | ({lists.chosen} if lists.chosen else set())
        if lists.chosen and lists.mark is None:
            self._fields(lists.chosen)
        others = [field for field in file.schema if field.name not in listed]
        made = [*others, *(pa.field(n, t) for fields in held.values() for n, t in fields.items())]
        made += [pa.field(lists.chosen, pa.int8())] if lists.chosen else []
        made += [pa.field(lists.number, pa.int64()), pa.field(lists.place, pa.int64())]
        names = [field.name for field in made]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise LogError(
                f"{file.name}: {twice!r} would be the name of two columns once the lists are "
                "rows; rename one of them"
            )
        self.schema = pa.schema(made)
        self.untyped = [name for name in file.untyped if name in names and name != lists.chosen]

    def text_blocks(self) -> Iterator[pa.RecordBatch]:
        """The entries' untyped columns as text."""
        row = 0
        for block in self._file.text_blocks():
            if set(self._lists.columns) & set(block.schema.names):
                yield self._exploded(block, row).select(self.untyped)
            else:
                yield block  # of keys of folders alone
            row += block.num_rows

    def batches(
        self, columns: list[str] | None, rows: int, types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.RecordBatch]:
        """All entries in order, at most ``rows`` at a time."""
        import pyarrow as pa

        lists, row = self._lists, 0
        names = self.schema.names if columns is None else columns
        listed = [*lists.columns, *([lists.chosen] if lists.chosen and not lists.mark else [])]
        own = [name for name in self._file.schema.names if name in names or name in listed]
        own = list(dict.fromkeys([*own, *listed]))
        as_text = {name: pa.string() for name in listed if name in self._file.untyped}
        for batch in self._file.batches(own, max(1, rows // _SHARE), {**types, **as_text}):
            entries = self._exploded(batch, row, types).select(names)
            row += batch.num_rows
            for start in range(0, entries.num_rows, rows):
                yield entries.slice(start, rows)

    def _fields(self, column: str) -> dict[str, pa.DataType]:
        """The columns that a list column becomes, and their types."""
        import pyarrow as pa

        schema = self._file.schema
        if schema.names.count(column) != 1:
            raise LogError(
                f"{self._file.name} has no column {column!r} of lists; it has "
                f"{schema.names[:20]}{self._file.about}"
            )
        kind = schema.field(column).type
        if self._lists.separator is not None and column_kind(kind) == "string":
            return {column: pa.string()}
        if column_kind(kind) != "list":
            raise LogError(
                f"{self._file.name}: column {column!r} has type {kind}, expected lists; where they "
                "are written as texts, say what stands between entries (lists.separator)"
            )
        if pa.types.is_struct(kind.value_type):
            return {field.name: field.type for field in kind.value_type}
        return {column: kind.value_type}

    def _exploded(
        self, batch: pa.RecordBatch, first_row: int, types: Mapping[str, pa.DataType] | None = None
    ) -> pa.RecordBatch:
        """A row for every entry of a batch."""
        import pyarrow as pa
        import pyarrow.compute as pc

        lists = self._lists
        made: dict[str, pa.Array] = {}
        lengths = None
        for column in lists.columns:
            flat, found = list_parts(self._as_list(batch.column(column)))
            lengths = found if lengths is None else lengths
            bad = np.flatnonzero(found != lengths)
            if len(bad):
                row = int(bad[0])
                raise LogError(
                    f"{self._file.name}, row {first_row + row}: {lists.columns[0]} holds "
                    f"{lengths[row]} entries, but {column} {found[row]}; they should be as many"
                )
            if pa.types.is_struct(flat.type):
                made |= dict(zip((f.name for f in flat.type), flat.flatten(), strict=True))
            else:
                made[column] = flat
        assert lengths is not None  # Lists has at least one column
        owner = np.repeat(np.arange(len(lengths)), lengths)
        if lists.mark is not None and lists.chosen is not None:
            self._split_marks(made, batch, owner, first_row)
        elif lists.chosen is not None:
            chosen = self._as_list(batch.column(lists.chosen))
            made[lists.chosen] = self._chosen(made[lists.columns[0]], owner, chosen, first_row)
        if types is not None:
            for name in set(lists.columns) & set(self._file.untyped):
                made[name] = pc.cast(made[name], types.get(name, pa.string()))
        made[lists.number] = pa.array(self._first + first_row + owner)
        starts = np.cumsum(lengths) - lengths
        made[lists.place] = pa.array(np.arange(len(owner)) - np.repeat(starts, lengths))
        rows = pa.array(owner)
        for name, values in zip(batch.schema.names, batch.columns, strict=True):
            if name not in (*lists.columns, lists.chosen):
                made[name] = values.take(rows)
        return pa.RecordBatch.from_arrays(list(made.values()), list(made))

    def _as_list(self, column: pa.Array) -> pa.Array:
        """A list column; texts are split where the separator stands."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if column_kind(column.type) != "string":
            return column
        column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        text = pc.utf8_trim(pc.cast(column, pa.string()), _AROUND)
        text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        parts = pc.split_pattern(text, self._lists.separator)
        flat = pc.utf8_trim(parts.flatten(), _AROUND)
        return type(parts).from_arrays(parts.offsets, flat, mask=parts.is_null())

    def _split_marks(
        self, made: dict[str, pa.Array], batch: pa.RecordBatch, owner: np.ndarray, first_row: int
    ) -> None:
        """Parts the entries into items and whether these were chosen."""
        import pyarrow as pa
        import pyarrow.compute as pc

        lists, entries = self._lists, made[self._lists.columns[0]]
        halves = pc.split_pattern(entries, lists.mark, max_splits=1, reverse=True)
        count = pc.fill_null(pc.list_value_length(halves), 0).to_numpy(zero_copy_only=False)
        flags = pa.array(["0", "1"])
        last = pc.list_element(halves.filter(pa.array(count == 2)), 1)
        bad = count != 2
        bad[count == 2] = pc.invert(pc.is_in(last, flags)).to_numpy(zero_copy_only=False)
        if bad.any():
            entry = int(np.argmax(bad))
            raise LogError(
                f"{self._file.name}, row {first_row + int(owner[entry])}: the entry "
                f"{entries[entry].as_py()!r} is no item with {lists.mark}0 or {lists.mark}1 behind "
                "it, as lists.mark says"
            )
        made[lists.columns[0]] = pc.list_element(halves, 0)
        made[lists.chosen] = pc.cast(last, pa.int8())

    def _chosen(
        self, shown: pa.Array, owner: np.ndarray, chosen: pa.Array, first_row: int
    ) -> pa.Array:
        """int8: whether each item that was shown is among those that were chosen in its row."""
        import pyarrow as pa
        import pyarrow.compute as pc

        flat, lengths = list_parts(chosen)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        real = flat.is_valid()
        flat, rows = flat.filter(real), rows[real.to_numpy(zero_copy_only=False)]
        if len(flat) == 0:
            return pa.array(np.zeros(len(owner), dtype=np.int8))
        try:
            flat = pc.cast(flat, shown.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise LogError(
                f"{self._file.name}: {self._lists.columns[0]} holds {shown.type}, but "
                f"{self._lists.chosen} {flat.type}; write items in one way"
            ) from None
        codes = pa.chunked_array([shown, flat]).combine_chunks().dictionary_encode().indices
        codes = pc.fill_null(codes, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        width = int(codes.max()) + 2
        wanted = rows * width + codes[len(shown) :]
        had = owner * width + codes[: len(shown)]
        lost = ~np.isin(wanted, had)
        if lost.any():
            entry = int(np.argmax(lost))
            raise LogError(
                f"{self._file.name}, row {first_row + int(rows[entry])}: {flat[entry].as_py()!r} "
                f"is among {self._lists.chosen}, but not among {self._lists.columns[0]}; an item "
                "that was chosen was shown: add it there, or leave it out here"
            )
        return pa.array(np.isin(had, wanted).astype(np.int8))
