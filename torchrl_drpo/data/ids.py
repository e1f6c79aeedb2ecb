"""Raw ids in bulk: integers as int64, strings as UTF-8 words; the two never mix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .words import WordIndex, Words, unique_words

Ids = np.ndarray | Words


def as_ids(ids: Any) -> Ids:
    """Ids of any form as int64 ``[n]`` or as words, flat.

    Raises:
        ValueError: on anything but integers that fit int64, or strings.
    """
    if isinstance(ids, Words):
        return ids
    if isinstance(ids, Tensor):
        ids = ids.cpu().numpy()
    array = ids if isinstance(ids, np.ndarray) else np.asarray(ids, dtype=object)
    array = array.ravel()
    if array.dtype.kind == "O" and len(array):
        kinds = {type(value) for value in array.tolist()}
        if all(issubclass(kind, str) for kind in kinds):
            return Words.of(_utf8(text) for text in array.tolist())
        if bool in kinds or not all(issubclass(kind, int | np.integer) for kind in kinds):
            names = sorted(kind.__name__ for kind in kinds)
            raise ValueError(f"ids must be all integers or all strings, got {', '.join(names)}")
        outside = [value for value in array.tolist() if not -(2**63) <= value < 2**63]
        if outside:
            raise ValueError(f"integer ids must fit int64, got {outside[0]}")
        return array.astype(np.int64)
    if array.dtype.kind in "US":
        words = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
        return Words.of(words.tolist())
    if array.dtype.kind == "u" and len(array) and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"integer ids must fit int64, got {array.max()}")
    if array.dtype.kind in "iu" or not len(array):
        return np.ascontiguousarray(array, dtype=np.int64)
    raise ValueError(f"ids must be integers or strings, got {array.dtype}")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the id {text!r} is no text: it holds half a character") from None


def joined(parts: Sequence[Ids]) -> Ids:
    """Ids one after another; raises ``ValueError`` where integers and strings meet."""
    if len({type(part) for part in parts}) > 1:
        raise ValueError("ids must be all integers or all strings")
    return Words.joined(parts) if isinstance(parts[0], Words) else np.concatenate(parts)


def distinct(ids: Ids) -> tuple[Ids, np.ndarray]:
    """The distinct ids ascending, and the place of each id among them, int64 ``[n]``."""
    if isinstance(ids, Words):
        return unique_words(ids)
    return np.unique(ids, return_inverse=True)


def plain(ids: Ids, index: int) -> int | str:
    """One id as it was given."""
    return ids[index].decode("utf-8") if isinstance(ids, Words) else int(ids[index])


class IntegerIndex:
    """Finds integers among distinct ones; raises ``ValueError`` naming one that repeats."""

    def __init__(self, ids: np.ndarray) -> None:
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]
        repeats = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(repeats):
            raise ValueError(f"{self._sorted[repeats[0]]} repeats")
        self._table = self._dense_table(ids)

    def _dense_table(self, ids: np.ndarray) -> np.ndarray | None:
        """Id -> place by one lookup, where the ids are dense enough to afford it."""
        if not len(ids) or self._sorted[0] < 0 or self._sorted[-1] >= 4 * len(ids) + 1_000:
            return None
        table = np.full(int(self._sorted[-1]) + 1, -1, dtype=np.int64)
        table[ids] = np.arange(len(ids))
        return table

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """Place of each wanted id among the known ones, int64; -1 for strangers."""
        if self._table is not None:
            inside = (wanted >= 0) & (wanted < len(self._table))
            return np.where(inside, self._table[np.where(inside, wanted, 0)], -1)
        if not len(self._sorted):
            return np.full(len(wanted), -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return np.where(self._sorted[place] == wanted, self._order[place], -1)


def index_of(ids: Ids) -> IntegerIndex | WordIndex:
    """What finds an id's place; raises ``ValueError`` naming an id that repeats."""
    return WordIndex(ids) if isinstance(ids, Words) else IntegerIndex(ids)
