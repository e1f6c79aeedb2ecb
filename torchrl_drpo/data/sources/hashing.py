"""Hashes of Arrow values and of whole rows, the same in every process and file.

Any type has one: a column that the schema never names must not stop a conversion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..words import Words, mix, segment_sums
from .arrow import list_parts, string_words, to_float, to_int, to_time
from .kinds import column_kind

if TYPE_CHECKING:
    import pyarrow as pa

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0xD6E8FEB86659FD93)
_NANOSECONDS = 1_000_000_000


def row_hashes(table: pa.RecordBatch) -> np.ndarray:
    """A uint64 hash of every whole row; equal rows hash alike, in whatever order columns stand."""
    total = np.zeros(table.num_rows, dtype=np.uint64)
    names = table.schema.names
    for place in sorted(range(len(names)), key=lambda k: (names[k], k)):
        total = mix(total * np.uint64(31) + hash_column(table.column(place)))
    return total


def hash_column(column: pa.Array) -> np.ndarray:
    """A uint64 hash of every value; equal values hash alike, nulls and NaN too."""
    import pyarrow as pa

    column = column.storage if isinstance(column, pa.ExtensionArray) else column
    if pa.types.is_dictionary(column.type):
        return _hash_dictionary(column)
    kind = column_kind(column.type)
    null = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
    try:
        if kind == "string":
            hashed = string_words(column).hashes()
        elif kind == "list":
            hashed = _hash_lists(column)
        elif kind in ("integer", "boolean"):
            hashed = _hash_integers(column)
        elif kind == "float" and pa.types.is_floating(column.type):
            hashed = _hash_floats(to_float(column))
        elif kind == "time":
            hashed = mix(to_time(column, _NANOSECONDS)[0].view(np.uint64))
        else:
            hashed = _hash_others(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        hashed = _hash_python(column)
    return np.where(null, _NULL, hashed)


def _hash_dictionary(column: pa.DictionaryArray) -> np.ndarray:
    import pyarrow.compute as pc

    null = np.asarray(column.indices.is_null().to_numpy(zero_copy_only=False))
    codes = pc.fill_null(column.indices, 0).to_numpy(zero_copy_only=False)
    words = hash_column(column.dictionary)
    return np.where(null, _NULL, words[codes] if len(words) else _NULL)


def _hash_integers(column: pa.Array) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.type == pa.uint64():  # those beyond int64 included
        return mix(pc.fill_null(column, 0).to_numpy(zero_copy_only=False).astype(np.uint64))
    return mix(to_int(column)[0].view(np.uint64))


def _hash_floats(values: np.ndarray) -> np.ndarray:
    """Whole numbers hash as the integers that they are: nulls make a column of integers floats."""
    whole = np.isfinite(values) & (np.floor(values) == values) & (np.abs(values) < 2.0**63)
    integers = np.where(whole, values, 0.0).astype(np.int64).view(np.uint64)
    return np.where(np.isnan(values), _NULL, mix(np.where(whole, integers, values.view(np.uint64))))


def _hash_lists(column: pa.Array) -> np.ndarray:
    flat, lengths = list_parts(column)
    ends = np.cumsum(lengths)
    place = np.arange(len(flat), dtype=np.uint64) - np.repeat(ends - lengths, lengths).astype("u8")
    return mix(segment_sums(mix(hash_column(flat) + _MULTIPLIER * place), lengths))


def _hash_others(column: pa.Array) -> np.ndarray:
    """Decimals, bytes, structures, maps, times of day: whatever no role of the schema takes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), _NULL)
    if pa.types.is_decimal(kind):
        return _hash_decimals(column)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return string_words(column).hashes()
    if pa.types.is_fixed_size_binary(kind):
        return string_words(pc.cast(column, pa.binary())).hashes()
    if pa.types.is_struct(kind):
        total = np.zeros(len(column), dtype=np.uint64)
        for child in column.flatten():
            total = mix(total * np.uint64(31) + hash_column(child))
        return total
    if pa.types.is_map(kind):
        pair = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        return _hash_lists(pc.cast(column, pa.list_(pair)))
    if pa.types.is_fixed_size_list(kind):
        return _hash_lists(column)
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        whole = pc.cast(column, pa.int32()) if pa.types.is_time32(kind) else column
        return mix(to_int(pc.cast(whole, pa.int64()))[0].view(np.uint64))
    return _hash_python(column)


def _hash_decimals(column: pa.Array) -> np.ndarray:
    """As the floats that they equal; as text where float64 would make two of them one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    words = string_words(pc.cast(column, pa.large_string())).hashes()
    values = to_float(column)
    try:
        back = pc.cast(pa.array(values, from_pandas=True), column.type)
    except pa.ArrowInvalid:  # one of them lies beyond what the type holds
        return words
    same = pc.fill_null(pc.equal(back, column), False).to_numpy(zero_copy_only=False)
    return np.where(same, _hash_floats(values), words)


def _hash_python(column: pa.Array) -> np.ndarray:
    """By their spelling in Python, one by one: slow, and there for every type to come."""
    return Words.of(repr(value).encode() for value in column.to_pylist()).hashes()
