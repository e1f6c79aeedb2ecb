"""What a column holds, whatever the width and encoding of its Arrow type."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

#: Ticks a second of Arrow's time types.
TIME_TYPES_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
#: Kinds of numbers; each later one takes the values of those before it.
NUMBERS = ("boolean", "integer", "float")
_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+|")


def column_kind(kind: pa.DataType) -> str:
    """Integer, float, boolean, string, time, list or other."""
    import pyarrow as pa

    tests = {
        "integer": pa.types.is_integer,
        "float": lambda t: pa.types.is_floating(t) or pa.types.is_decimal(t),
        "boolean": pa.types.is_boolean,
        "string": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        "time": lambda t: pa.types.is_timestamp(t) or pa.types.is_date(t),
        "list": lambda t: (
            pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t)
        ),
    }
    if pa.types.is_dictionary(kind):
        return column_kind(kind.value_type)
    if pa.types.is_string_view(kind):
        return "string"
    return next((name for name, test in tests.items() if test(kind)), "other")


def is_nested(kind: pa.DataType) -> bool:
    """Whether a value has fields of its own."""
    import pyarrow as pa

    return pa.types.is_struct(kind) or pa.types.is_map(kind)


def index_names(schema: pa.Schema) -> set[str]:
    """Columns that pandas wrote for an index: as its metadata says, or by their names."""
    names = {name for name in schema.names if _INDEX.fullmatch(name)}
    try:
        described = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))["index_columns"]
    except (ValueError, KeyError, TypeError, RecursionError):  # written by somebody else
        return names
    return names | {name for name in described if isinstance(name, str)}


def common_kind(kinds: set[str]) -> str | None:
    """The kind that holds the values of all of them, None where there is none.

    >>> common_kind({"float", "integer"}), common_kind({"string"}), common_kind({"string", "float"})
    ('float', 'string', None)
    """
    if len(kinds) == 1:
        return next(iter(kinds))
    return max(kinds, key=NUMBERS.index) if kinds <= set(NUMBERS) else None
