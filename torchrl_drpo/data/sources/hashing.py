"""Hashes of Arrow values and of whole rows, the same in every process and file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .arrow import list_parts, to_float, to_int, to_time
from .kinds import column_kind

if TYPE_CHECKING:
    import pyarrow as pa

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_NULL = np.uint64(0xD6E8FEB86659FD93)


def row_hashes(table: pa.RecordBatch) -> np.ndarray:
    """A uint64 hash of every whole row; equal rows hash alike, in every process and file."""
    total = np.zeros(table.num_rows, dtype=np.uint64)
    for column in table.columns:  # the order of columns counts, their names do not
        total = _mix(total * np.uint64(31) + hash_column(column))
    return total


def hash_column(column: pa.Array) -> np.ndarray:
    """A uint64 hash of every value, the same for equal values of one kind."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column_kind(column.type)
    if kind == "string":
        if not pa.types.is_dictionary(column.type):
            column = pc.dictionary_encode(column)
        null = np.asarray(column.is_null().to_numpy(zero_copy_only=False))
        codes = pc.fill_null(column.indices, 0).to_numpy(zero_copy_only=False)
        words = _hash_words(column.dictionary)
        hashed = words[codes] if len(words) else np.full(len(codes), _NULL)
    elif kind == "list":
        return _hash_lists(column)
    elif kind in ("float", "other"):
        values = to_float(column)
        null = np.isnan(values)
        hashed = _mix(np.where(null, 0.0, values + 0.0).view(np.uint64))  # + 0.0: -0 equals 0
    else:
        values, null = to_time(column, 1_000_000_000) if kind == "time" else to_int(column)
        hashed = _mix(values.view(np.uint64))
    return np.where(null, _NULL, hashed)


def _hash_lists(column: pa.Array) -> np.ndarray:
    flat, lengths = list_parts(column)
    ends = np.cumsum(lengths)
    place = np.arange(len(flat), dtype=np.uint64) - np.repeat(ends - lengths, lengths).astype("u8")
    return _mix(_segment_sums(_mix(hash_column(flat) + _MULTIPLIER * place), lengths))


def _hash_words(words: pa.Array, budget: int = 1 << 22) -> np.ndarray:
    """Polynomial hash of strings, straight from Arrow's bytes and offsets, a few MB at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    binary = pc.cast(pc.cast(words, pa.large_string()), pa.large_binary())
    _, offsets, data = binary.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[binary.offset : binary.offset + len(binary) + 1]
    letters = np.frombuffer(data if data is not None else b"", dtype=np.uint8)
    out = np.empty(len(binary), dtype=np.uint64)
    row = 0
    while row < len(binary):
        stop = max(row + 1, int(np.searchsorted(ends, ends[row] + budget, side="right")) - 1)
        lengths = np.diff(ends[row : stop + 1])
        place = np.arange(ends[stop] - ends[row]) - np.repeat(ends[row:stop] - ends[row], lengths)
        value = letters[ends[row] : ends[stop]].astype(np.uint64) + np.uint64(1)
        out[row:stop] = _mix(_segment_sums(value * _mix(place.astype(np.uint64) + _NULL), lengths))
        row = stop
    return out


def _segment_sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
    ends = np.cumsum(lengths)
    return total[ends] - total[ends - lengths] + _MULTIPLIER * lengths.astype(np.uint64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the input moves half of the output's."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
