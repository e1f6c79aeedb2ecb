"""Ids of one form, whatever wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .arrow import to_float
from .errors import LogError

if TYPE_CHECKING:
    import pyarrow as pa

_INT64 = np.iinfo(np.int64)


def without_empty(values: pa.Array) -> pa.Array:
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
        return without_empty(values.dictionary_decode())
    return pc.if_else(empty, pa.scalar(None, text.type), text)


def check_int64(values: pa.Array, name: str) -> None:
    """Raises ``LogError`` where an unsigned id is beyond int64."""
    import pyarrow.compute as pc

    largest = pc.max(values).as_py()
    if largest is not None and largest > _INT64.max:
        raise LogError(f"{name} is {largest}, expected an id that int64 holds; write ids as text")


def whole_ids(values: pa.Array, column: str, file: str, first_row: int) -> pa.Array:
    """Whole floats as the integers that they are, null where they are null or NaN.

    A column of integers in which some are missing is one of floats in pandas, and in what it
    writes.

    Raises:
        LogError: names the first row whose id is no whole number, or so large that floats of this
            width are integers rounded.
    """
    import pyarrow as pa

    exact = 2 ** {16: 11, 32: 24}.get(getattr(values.type, "bit_width", 64), 53)
    found = to_float(values)
    missing = np.isnan(found)
    whole = np.where(missing, 0.0, found)
    bad = (np.floor(whole) != whole) | (np.abs(whole) >= exact)
    if bad.any():
        row = int(np.argmax(bad))
        problem = (
            "is no whole number"
            if np.floor(whole[row]) != whole[row]
            else (f"is at or beyond {exact}, where floats of type {values.type} are rounded")
        )
        raise LogError(
            f"{file}, row {first_row + row}: the id {column} is {found[row]}, which {problem}; "
            "write ids as integers (in pandas: .astype('Int64')) or as text"
        )
    return pa.array(whole.astype(np.int64), mask=missing)
