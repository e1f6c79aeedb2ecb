"""Labels: numbers that are carried along as they were logged, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..sources.arrow import to_float, to_int
from ..sources.kinds import column_kind

if TYPE_CHECKING:
    import pyarrow as pa


def label_dtype(types: Sequence[pa.DataType]) -> str:
    """The numpy dtype that holds a label whose files have these Arrow types.

    Unsigned integers of more than a byte are kept as int64, which torch knows.
    """
    found = np.result_type(*(_dtype(kind) for kind in types))
    return "i8" if found.kind == "u" and found.itemsize > 1 else found.str


def _dtype(kind: pa.DataType) -> np.dtype:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _dtype(kind.value_type)
    if pa.types.is_boolean(kind):
        return np.dtype("?")
    if pa.types.is_integer(kind):
        size = kind.bit_width // 8
        signed = pa.types.is_signed_integer(kind)
        return (
            np.dtype("u1")
            if (size, signed) == (1, False)
            else np.dtype(f"i{size if signed else 8}")
        )
    small = pa.types.is_float16(kind) or pa.types.is_float32(kind)
    return np.dtype("f4" if small else "f8")


def label_values(column: pa.Array, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A label's values as ``dtype``, where they are missing, and where they would change."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column_kind(column.type) == "float":
        values = to_float(column)
        missing = np.isnan(values)
        stored = np.where(missing, 0.0, values).astype(dtype)
        return stored, missing, ~missing & (stored != values)
    if column.type == pa.uint64():
        missing = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
        values = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
        stored = np.where(values < 2**63, values, 0).astype(np.int64).astype(dtype)
    else:
        values, missing = to_int(column)
        stored = values.astype(dtype)
    back = stored.astype(values.dtype)
    return stored, missing, ~missing & (back != values)
