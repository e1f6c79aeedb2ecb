"""What the columns of CSV files hold, found out over every row of every file.

A type that was guessed from the first megabytes, or from the first file, would be another one where
the files come in another order. Ids are names: text, until every one of them is spelled as an
integer is (``07`` is not), or each as an integer or a whole float is (``7.0``: what pandas writes
where some of them are missing).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_WHOLE = r"^(0|-?[1-9][0-9]{0,15})(\.0)?$"


@cache
def _chains() -> tuple[tuple[pa.DataType, ...], ...]:
    """Types of ever more values; a column has the first that fits it whole, in the first chain."""
    import pyarrow as pa

    return (
        (pa.int64(), pa.float64()),
        (pa.bool_(),),
        (pa.date32(), pa.timestamp("s"), pa.timestamp("ns")),
        (pa.timestamp("s", "UTC"), pa.timestamp("ns", "UTC")),
    )


@dataclass
class TextColumn:
    """One column of CSV files, while its text passes by.

    Args:
        is_id: whether its values are names, which differ where their spelling does.

    Attributes:
        stray: file, row and text of the first value that made the column a text.
    """

    is_id: bool = False
    empty: bool = True
    levels: list[int] = field(default_factory=lambda: [0] * len(_chains()))
    stray: tuple[str, int, str] | None = None

    def see(self, values: pa.Array, file: str, first_row: int) -> None:
        """Takes some more rows in: strings, null where nothing is written."""
        if values.null_count == len(values):
            return
        self.empty = False
        alive = [place for place, level in enumerate(self.levels) if level < len(_chains()[place])]
        for place in alive:
            chain = _chains()[place]
            while self.levels[place] < len(chain) and not self._fits(values, chain, place):
                self.levels[place] += 1
        if alive and not self.is_id and not self._open():
            row = _first_misfit(values, _chains()[alive[0]][-1])
            self.stray = (file, first_row + row, str(values[row]))

    def _fits(self, values: pa.Array, chain: tuple[pa.DataType, ...], place: int) -> bool:
        if not self.is_id:
            return _fits(values, chain[self.levels[place]])
        if place:
            return False
        return _is_canonical(values) if self.levels[0] == 0 else _is_whole(values)

    def _open(self) -> list[pa.DataType]:
        return [
            chain[level]
            for chain, level in zip(_chains(), self.levels, strict=True)
            if level < len(chain)
        ]

    @property
    def type(self) -> pa.DataType:
        """The type of all rows that were seen."""
        import pyarrow as pa

        if self.empty:
            return pa.string() if self.is_id else pa.null()
        return next(iter(self._open()), pa.string())


def _fits(values: pa.Array, kind: pa.DataType) -> bool:
    """Whether the CSV reader takes every text for a value of that type."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    if pa.types.is_boolean(kind):
        options = csv.ConvertOptions()
        # 0 and 1 are numbers, and come first as such
        words = [word for word in [*options.true_values, *options.false_values] if len(word) > 1]
        values = values.drop_null()
        first_is = values.slice(0, 1)[0].as_py() in words
        known = pa.array(words, values.type)
        return first_is and bool(pc.all(pc.is_in(values, value_set=known)).as_py())
    if _cast(values, kind) is not None:
        return True
    # The reader takes blanks around a number; they are rare, so they are looked for last.
    return kind in _chains()[0] and _cast(pc.ascii_trim(values, " \t"), kind) is not None


def _is_canonical(values: pa.Array) -> bool:
    """Whether every text is what its integer is written as."""
    import pyarrow as pa
    import pyarrow.compute as pc

    integers = _cast(values, pa.int64())
    if integers is None:
        return False
    return bool(pc.all(pc.equal(pc.cast(integers, values.type), values)).as_py())


def _is_whole(values: pa.Array) -> bool:
    """Whether every text is an integer, or one followed by ``.0``, that float64 holds exactly."""
    import pyarrow.compute as pc

    if not pc.all(pc.match_substring_regex(values, _WHOLE)).as_py():
        return False
    return pc.max(pc.abs(pc.cast(values, "float64"))).as_py() < 2**53


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array | None:
    """The values of a type, None where some text is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        # A cast that fails goes on to the last row, slowly; the first value mostly tells.
        pc.cast(values.slice(_first_value(values), 1), kind)
        return pc.cast(values, kind)
    except pa.ArrowInvalid:
        return None


def _first_value(values: pa.Array) -> int:
    """The first row that is not null, zero where all are."""
    import pyarrow.compute as pc

    return max(int(pc.index(values.is_valid(), True).as_py()), 0) if values.null_count else 0


def _first_misfit(values: pa.Array, kind: pa.DataType) -> int:
    """The first row that is no value of that type, by bisection."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        if _fits(values.slice(low, middle + 1 - low), kind):
            low = middle + 1
        else:
            high = middle
    return low
