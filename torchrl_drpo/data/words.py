r"""`Words`: byte strings of any lengths, one after another, compared and found in bulk.

numpy's own byte strings are as wide as the longest one and lose trailing NULs: one id of a
megabyte among a million would take a terabyte, and ``"a"`` and ``"a\0"`` would be one user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_PLACE = np.uint64(0xD6E8FEB86659FD93)
_PREFIX = 16  # bytes that are compared as two integers; what they leave open is sorted in Python
_LONG = 1 << 16  # bytes from which a word is hashed alone, so that memory does not follow it
_BLOCK = 1 << 20  # letters looked at at a time


class Words:
    r"""A column of byte strings.

    Args:
        letters: all bytes, uint8.
        offsets: int64 ``[n + 1]``, ascending: word ``i`` is ``letters[offsets[i]:offsets[i + 1]]``.

    Examples:
        >>> words = Words.of([b"b", b"a\0", b"a"])
        >>> list(words.take(words.ascending())), words.lengths().tolist()
        ([b'a', b'a\x00', b'b'], [1, 2, 1])
    """

    def __init__(self, letters: np.ndarray, offsets: np.ndarray) -> None:
        self.letters, self.offsets = letters, offsets

    @classmethod
    def of(cls, words: Iterable[bytes]) -> Words:
        """From Python's byte strings."""
        words = list(words)
        ends = np.cumsum([len(word) for word in words], dtype=np.int64)
        letters = np.frombuffer(b"".join(words), dtype=np.uint8)
        return cls(letters, np.concatenate([np.zeros(1, np.int64), ends]))

    @classmethod
    def joined(cls, parts: Sequence[Words]) -> Words:
        """One column after the other."""
        letters = [part.letters[part.offsets[0] : part.offsets[-1]] for part in parts]
        ends = np.cumsum(np.concatenate([part.lengths() for part in parts]), dtype=np.int64)
        return cls(np.concatenate(letters), np.concatenate([np.zeros(1, np.int64), ends]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        return self.letters[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))

    def lengths(self) -> np.ndarray:
        """Bytes of each word, int64 ``[n]``."""
        return np.diff(self.offsets)

    def take(self, index: np.ndarray) -> Words:
        """The words at ``index``, copied."""
        lengths = self.lengths()[index]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        letters = np.empty(offsets[-1], dtype=np.uint8)
        for first, stop in _blocks(offsets):
            shift = np.repeat(self.offsets[index[first:stop]] - offsets[first:stop],
                              lengths[first:stop])  # fmt: skip
            place = np.arange(offsets[first], offsets[stop])
            letters[offsets[first] : offsets[stop]] = self.letters[place + shift]
        return Words(letters, offsets)

    def equals(self, other: Words, rows: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Whether words ``rows`` of this column are words ``theirs`` of the other, bool ``[n]``."""
        length = self.lengths()[rows]
        equal = length == other.lengths()[theirs]
        open_ = np.flatnonzero(equal & (length > 0))
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(length[open_])])
        for first, stop in _blocks(ends):
            part = open_[first:stop]
            place = np.arange(ends[first], ends[stop])
            shift = np.repeat(self.offsets[rows[part]] - ends[first:stop], length[part])
            apart = np.repeat(other.offsets[theirs[part]] - ends[first:stop], length[part])
            differ = self.letters[place + shift] != other.letters[place + apart]
            equal[part] = np.add.reduceat(differ, ends[first:stop] - ends[first]) == 0
        return equal

    def ascending(self) -> np.ndarray:
        """The order of the words by their bytes, int64 ``[n]``."""
        length = self.lengths()
        first, second = self._prefixes()
        order = np.lexsort((length, second, first))
        tied = (first[order][1:] == first[order][:-1]) & (second[order][1:] == second[order][:-1])
        longer = length[order] > _PREFIX
        for start, stop in _runs(tied):
            if longer[start:stop].any():
                order[start:stop] = sorted(order[start:stop], key=self.__getitem__)
        return order

    def _prefixes(self) -> tuple[np.ndarray, np.ndarray]:
        """The first sixteen bytes as two integers that compare as the bytes do."""
        out = np.empty((len(self), 2), dtype=np.uint64)
        rows = _BLOCK // _PREFIX
        for start in range(0, len(self), rows):
            offsets = self.offsets[start : start + rows + 1]
            place = offsets[:-1, None] + np.arange(_PREFIX)
            inside = place < offsets[1:, None]
            block = np.zeros(place.shape, dtype=np.uint8)
            block[inside] = self.letters[place[inside]]
            out[start : start + rows] = block.view(">u8")
        return out[:, 0], out[:, 1]

    def hashes(self) -> np.ndarray:
        """A uint64 hash of each word, the same in every process."""
        out = np.empty(len(self), dtype=np.uint64)
        for first, stop in _blocks(self.offsets):
            offsets = self.offsets[first : stop + 1] - self.offsets[first]
            lengths = np.diff(offsets)
            if lengths[0] > _LONG and stop == first + 1:
                digest = hashlib.blake2b(self[first], digest_size=8).digest()
                out[first] = np.frombuffer(digest, dtype="<u8")[0]
                continue
            place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
            letters = self.letters[self.offsets[first] : self.offsets[stop]]
            value = (letters.astype(np.uint64) + np.uint64(1)) * mix(
                place.astype(np.uint64) + _PLACE
            )
            out[first:stop] = mix(segment_sums(value, lengths))
        return out


class WordIndex:
    """Finds words among distinct ones, by their hashes.

    Args:
        words: distinct.

    Raises:
        ValueError: names a word that repeats.
    """

    def __init__(self, words: Words) -> None:
        self._words = words
        hashes = words.hashes()
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        step = 1  # words of one hash stand side by side, hardly ever more than two
        while (same := np.flatnonzero(self._hashes[step:] == self._hashes[:-step])).size:
            earlier, later = self._order[same], self._order[same + step]
            repeats = words.equals(words, earlier, later)
            if repeats.any():
                repeated = words[earlier[int(repeats.argmax())]].decode(errors="replace")
                raise ValueError(f"{repeated!r} repeats")
            step += 1

    def find(self, wanted: Words) -> np.ndarray:
        """Place of each wanted word among the known ones, int64; -1 for strangers."""
        found = np.full(len(wanted), -1, dtype=np.int64)
        hashes = wanted.hashes()
        place = np.searchsorted(self._hashes, hashes)
        rows = np.arange(len(wanted))
        while len(rows):
            rows = rows[place[rows] < len(self._hashes)]
            rows = rows[self._hashes[place[rows]] == hashes[rows]]
            known = self._order[place[rows]]
            equal = wanted.equals(self._words, rows, known)
            found[rows[equal]] = known[equal]
            rows = rows[~equal]  # another word of the same hash may stand behind
            place[rows] += 1
        return found


def unique_words(words: Words) -> tuple[Words, np.ndarray]:
    """The distinct words ascending, and the place of each word among them, int64 ``[n]``."""
    order = words.ascending()
    ordered = words.take(order)
    rows = np.arange(1, len(words))
    fresh = np.append(True, ~ordered.equals(ordered, rows, rows - 1))[: len(words)]
    place = np.empty(len(words), dtype=np.int64)
    place[order] = np.cumsum(fresh) - 1
    return ordered.take(np.flatnonzero(fresh)), place


def segment_sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sum of each segment of uint64 values, with its length told apart; sums wrap around."""
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
    ends = np.cumsum(lengths)
    return total[ends] - total[ends - lengths] + _MULTIPLIER * lengths.astype(np.uint64)


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the input moves half of the output's."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _blocks(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of words with about a million letters, and long words each alone."""
    long = np.flatnonzero(np.diff(offsets) > _LONG)
    bounds = np.unique(np.concatenate([[0, len(offsets) - 1], long, long + 1]))
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        while start < end:
            stop = int(np.searchsorted(offsets, offsets[start] + _BLOCK, side="right")) - 1
            stop = min(end, max(start + 1, stop))
            yield start, stop
            start = stop


def _runs(tied: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of neighbours that are tied, of ``tied[i]``: entry ``i + 1`` ties with entry ``i``."""
    edges = np.diff(np.concatenate([[False], tied, [False]]).astype(np.int8))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return zip(starts.tolist(), (ends + 1).tolist(), strict=True)
