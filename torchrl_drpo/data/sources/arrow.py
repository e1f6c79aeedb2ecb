"""Arrow columns as numpy: numbers with nulls as NaN, ids, times, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .kinds import TIME_TYPES_PER_SECOND, column_kind

if TYPE_CHECKING:
    import pyarrow as pa


def to_float(column: pa.Array) -> np.ndarray:
    """float64 ``[N]``; nulls become NaN."""
    import pyarrow.compute as pc

    if column_kind(column.type) == "boolean":
        column = pc.cast(column, "int8")
    return pc.cast(column, "float64", safe=False).to_numpy(zero_copy_only=False)


def to_int(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """int64 values (zero where null) and a mask of nulls; floats are rounded down."""
    import pyarrow.compute as pc

    null = np.asarray(column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False))
    if column_kind(column.type) == "float":
        values = to_float(column)
        null |= ~np.isfinite(values)
        return np.floor(np.where(null, 0.0, values)).astype(np.int64), null
    if column_kind(column.type) == "boolean":
        column = pc.cast(column, "int8")
    filled = pc.fill_null(column, 0) if null.any() else column
    return pc.cast(filled, "int64").to_numpy(zero_copy_only=False), null


def to_time(
    column: pa.Array, per_second: int, unit: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """int64 times in ticks of ``1 / per_second`` s since 1970, and a mask of nulls.

    Numbers count ticks of ``1 / unit`` s (the same by default); floats keep their fractions as
    far as the result's ticks go.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    scale = per_second // (unit or per_second)
    if column_kind(column.type) == "float":
        values = to_float(column)
        null = ~np.isfinite(values)
        return np.round(np.where(null, 0.0, values) * scale).astype(np.int64), null
    if column_kind(column.type) != "time":
        values, null = to_int(column)
        return values * scale, null
    if pa.types.is_date(column.type):
        column = pc.cast(column, pa.timestamp("s"))
    source = TIME_TYPES_PER_SECOND[column.type.unit]
    values, null = to_int(pc.cast(column, "int64"))
    if source >= per_second:
        return values // (source // per_second), null
    return values * (per_second // source), null


def unique_ids(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The distinct non-null ids (int64, or UTF-8 bytes) ascending, and their counts."""
    if column_kind(column.type) != "string":
        values, null = to_int(column)
        return np.unique(values[~null], return_counts=True)
    values, codes, null = string_codes(column)
    counts = np.bincount(codes[~null], minlength=len(values))
    order = np.argsort(values, kind="stable")
    used = order[counts[order] > 0]
    return values[used], counts[used]


def string_codes(column: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct strings as UTF-8 bytes, the position of each row's among them, a mask of nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    null = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
    codes = pc.fill_null(column.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    words = [word.encode() for word in column.dictionary.to_pylist()]
    return np.array(words if words else [b""]), codes, null


def list_parts(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The flattened values of a list column, and int64 lengths (zero for a null)."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0)
    return column.flatten(), lengths.to_numpy(zero_copy_only=False).astype(np.int64)
