"""Arrow columns as numpy: numbers with nulls as NaN, ids, times, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..ids import Ids
from ..words import Words
from .errors import LogError
from .kinds import TIME_TYPES_PER_SECOND, column_kind

if TYPE_CHECKING:
    import pyarrow as pa


#: From here on float64 values have no int64.
_END = 2.0**63


def to_float(column: pa.Array) -> np.ndarray:
    """float64 ``[N]``; nulls become NaN."""
    import pyarrow.compute as pc

    if column_kind(column.type) == "boolean":
        column = pc.cast(column, "int8")
    return pc.cast(column, "float64", safe=False).to_numpy(zero_copy_only=False)


def to_int(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """int64 values (zero where null) and a mask of nulls; floats are rounded down.

    Floats that int64 does not hold are null.
    """
    import pyarrow.compute as pc

    null = np.asarray(column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False))
    if column_kind(column.type) == "float":
        values = to_float(column)
        null |= ~(np.abs(values) < _END)
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
    far as the result's ticks go. What int64 does not hold is null.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    scale = per_second // (unit or per_second)
    if column_kind(column.type) == "float":
        with np.errstate(over="ignore"):
            values = to_float(column) * scale
        null = ~(np.abs(values) < _END)
        return np.round(np.where(null, 0.0, values)).astype(np.int64), null
    if column_kind(column.type) != "time":
        values, null = to_int(column)
        null = null | (np.abs(values.astype(np.float64)) * scale >= _END)
        return np.where(null, 0, values) * scale, null
    if pa.types.is_date(column.type):
        column = pc.cast(column, pa.timestamp("s"))
    source = TIME_TYPES_PER_SECOND[column.type.unit]
    values, null = to_int(pc.cast(column, "int64"))
    if source >= per_second:
        return values // (source // per_second), null
    return values * (per_second // source), null


def wall_clock(column: pa.Array) -> pa.Array:
    """Timestamps as the clocks of their own time zone show them; other columns as they are.

    Raises:
        LogError: if the zone is unknown here.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_timestamp(column.type) or column.type.tz is None:
        return column
    try:
        return pc.local_timestamp(column)
    except pa.ArrowException as error:
        raise LogError(
            f"times of the zone {column.type.tz!r} cannot be put on its calendar ({error}); "
            "install the system's tzdata, or write the times without a zone"
        ) from error


def number_bits(values: np.ndarray) -> np.ndarray:
    """uint64 of float64 values: of whole numbers the bits of the integer, which equals them.

    >>> number_bits(np.array([3.0, -0.0, 0.5])).tolist()
    [3, 0, 4602678819172646912]
    """
    whole = (np.floor(values) == values) & (np.abs(values) < _END)
    integers = np.where(whole, values, 0.0).astype(np.int64)
    return np.where(whole, integers.view(np.uint64), values.view(np.uint64))


def unique_ids(column: pa.Array) -> tuple[Ids, np.ndarray]:
    """The distinct non-null ids, and their counts."""
    if column_kind(column.type) != "string":
        values, null = to_int(column)
        return np.unique(values[~null], return_counts=True)
    words, codes, null = string_codes(column)
    counts = np.bincount(codes[~null], minlength=len(words))
    used = np.flatnonzero(counts)
    return words.take(used), counts[used]


def string_codes(column: pa.Array) -> tuple[Words, np.ndarray, np.ndarray]:
    """The strings that occur, the position of each row's among them, a mask of nulls.

    A string may be there twice, where the column came with a dictionary of its own.

    Raises:
        LogError: on bytes that are no UTF-8.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    null = np.asarray(column.indices.is_null().to_numpy(zero_copy_only=False))
    codes = pc.fill_null(column.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    nameless = np.asarray(column.dictionary.is_null().to_numpy(zero_copy_only=False))
    if nameless.any():  # Arrow allows a null among the dictionary's values
        null = null | nameless[codes]
    words = string_words(column.dictionary)
    _check_utf8(words)
    return words if len(words) else Words.of([b""]), codes, null


def string_words(column: pa.Array) -> Words:
    """The bytes of strings (or of binary values), empty where null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if len(column) == 0:
        return Words.of([])
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        column = pc.cast(column, pa.large_string())
    column = pc.cast(column, pa.large_binary())
    if column.null_count:  # Arrow does not say what lies under a null
        column = pc.fill_null(column, b"")
    _, offsets, data = column.buffers()
    place = np.frombuffer(offsets, dtype=np.int64)[column.offset : column.offset + len(column) + 1]
    return Words(np.frombuffer(data if data is not None else b"", dtype=np.uint8), place)


def _check_utf8(words: Words) -> None:
    """Of all at once: the bytes are text, and no word begins within a character."""
    letters = words.letters[words.offsets[0] : words.offsets[-1]]
    starts = words.offsets[:-1][words.lengths() > 0] - words.offsets[0]
    try:
        letters.tobytes().decode()
        whole = not ((letters[starts] & 0xC0) == 0x80).any()
    except UnicodeDecodeError:
        whole = False
    if whole:
        return
    bad = next(word for word in words if word.decode(errors="replace").encode() != word)
    raise LogError(f"ids must be UTF-8 text, got the bytes {bad!r}")


def list_parts(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The flattened values of a list column, and int64 lengths (zero for a null)."""
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(column), 0)
    return column.flatten(), lengths.to_numpy(zero_copy_only=False).astype(np.int64)


def item_lists(column: pa.Array, padding: int | str | None = None) -> tuple[pa.Array, np.ndarray]:
    """As :func:`list_parts`, of a list column of item ids, without what stands for no item.

    That is null, an empty text, a negative number (as in a column of items), and ``padding``.

    Raises:
        LogError: if the lists hold something else than ids.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    flat, lengths = list_parts(column)
    flat = flat.cast(pa.int64()) if pa.types.is_null(flat.type) else flat
    kind = column_kind(flat.type)
    if kind == "float":  # integers with gaps, as pandas writes them
        values, null = to_int(flat)
        if np.any(to_float(flat)[~null] != values[~null]):
            raise LogError("lists of items hold fractions, expected integers or strings")
        flat, kind = pa.array(values, mask=null), "integer"
    if kind not in ("integer", "string"):
        raise LogError(f"lists of items hold {flat.type}, expected integers or strings")
    if len(flat) == 0:
        return flat, lengths
    if padding is not None and isinstance(padding, str) != (kind == "string"):
        raise LogError(f"lists of items hold {kind} ids, but their padding is {padding!r}")
    if kind == "string":
        flat = flat.dictionary_decode() if pa.types.is_dictionary(flat.type) else flat
        flat = flat.cast(pa.string()) if pa.types.is_string_view(flat.type) else flat
        absent = pc.equal(flat, "")
    else:
        absent = pc.less(flat, 0)
    if padding is not None:
        absent = pc.or_(absent, pc.equal(flat, padding))
    absent = pc.fill_null(absent, True)
    if not pc.any(absent).as_py():
        return flat, lengths
    keep = pc.invert(absent)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    kept = owner[keep.to_numpy(zero_copy_only=False)]
    return flat.filter(keep), np.bincount(kept, minlength=len(lengths))
