"""What a column holds, whatever the width and encoding of its Arrow type."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

#: Ticks a second of Arrow's time types.
TIME_TYPES_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
NUMBERS = {"integer", "float", "boolean"}


def column_kind(kind: pa.DataType) -> str:
    """Integer, float, boolean, string, time, list or other."""
    import pyarrow as pa

    tests = {
        "integer": pa.types.is_integer,
        "float": lambda t: pa.types.is_floating(t) or pa.types.is_decimal(t),
        "boolean": pa.types.is_boolean,
        "string": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        "time": lambda t: pa.types.is_timestamp(t) or pa.types.is_date(t),
        "list": lambda t: pa.types.is_list(t) or pa.types.is_large_list(t),
    }
    if pa.types.is_dictionary(kind):
        return column_kind(kind.value_type)
    if pa.types.is_string_view(kind):
        return "string"
    return next((name for name, test in tests.items() if test(kind)), "other")
