"""The calendar day of every row: as the log says it, or as its times do."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from ..schema import LogSchema
from ..schema.checks import TIME_UNITS
from ..sources.arrow import to_int, to_time, wall_clock
from ..sources.kinds import column_kind
from .roles import NO_DAY, SECONDS_A_DAY, day_number

if TYPE_CHECKING:
    import pyarrow as pa

_EPOCH = date(1970, 1, 1).toordinal()
_ISO = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[ T].*)?", re.ASCII)
_DIGITS = re.compile(r"(\d{8})(?:\.0*)?", re.ASCII)


def row_days(table: pa.RecordBatch, schema: LogSchema, per_second: int) -> np.ndarray:
    """Days since 1970 of every row, int64 ``[N]``; ``NO_DAY`` where there is none.

    Args:
        table: rows of a log with a date or a time.
        schema: says which column; a date prevails.
        per_second: ticks a second of stored times.
    """
    if schema.date:
        return calendar_days(table.column(schema.date))
    column = table.column(schema.time)
    if schema.utc_offset_hours == 0:  # else the schema has said what is local
        column = wall_clock(column)
    value, null = to_time(column, per_second, TIME_UNITS[schema.time_unit])
    local = value + round(schema.utc_offset_hours * 3600 * per_second)
    days = np.clip(local // (SECONDS_A_DAY * per_second), NO_DAY + 1, -NO_DAY - 1)
    return np.where(null, NO_DAY, days)


def calendar_days(column: pa.Array) -> np.ndarray:
    """Days since 1970 of a column of dates, int64 ``[N]``; ``NO_DAY`` for what is none.

    A date is the day that is written: of YYYYMMDD, of a text that begins with YYYY-MM-DD, of a
    timestamp as the clocks of its own time zone show it.
    """
    kind = column_kind(column.type)
    if kind == "time":
        seconds, null = to_time(wall_clock(column), 1)
        return np.where(null, NO_DAY, seconds // SECONDS_A_DAY)
    if kind == "string":
        return _days_of_text(column)
    number, null = to_int(column)
    return np.where(null, NO_DAY, day_number(number))


def _days_of_text(column: pa.Array) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    # What follows the day differs from row to row; the days themselves are few.
    words = pc.dictionary_encode(pc.utf8_slice_codeunits(column.cast(pa.string()), 0, 11))
    days = np.array([*map(_day_of_text, words.dictionary.to_pylist()), NO_DAY])
    return days[pc.fill_null(words.indices, -1).to_numpy(zero_copy_only=False)]


def _day_of_text(text: str) -> int:
    """Days since 1970 of one written day.

    >>> _day_of_text("1970-01-03 23:59"), _day_of_text("19700103"), _day_of_text("3 Jan") == NO_DAY
    (2, 2, True)
    """
    digits = _DIGITS.fullmatch(text)
    if digits:
        return int(day_number(np.array([int(digits[1])]))[0])
    written = _ISO.fullmatch(text)
    try:
        return date.fromisoformat(written[1]).toordinal() - _EPOCH if written else NO_DAY
    except ValueError:  # 30 February
        return NO_DAY
