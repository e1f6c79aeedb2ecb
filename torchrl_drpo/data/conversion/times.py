"""Some of a log's instants and how many rows each has: they tell where its latest share begins."""

from __future__ import annotations

import numpy as np

from ..words import mix
from .ids import IdCounter


class Instants:
    """Instants with their rows: all, or those whose hashes lie below a bound.

    Which of them are left out depends neither on the order of the rows nor on how they are split,
    and no instant is divided: those that are kept have all their rows.

    Examples:
        >>> instants, others = Instants(), Instants()
        >>> instants.add(np.array([3, 5]), np.array([2, 1]))
        >>> others.add(np.array([5, 9]), np.array([4, 1]))
        >>> instants.merge(others)
        >>> [each.tolist() for each in instants.taken()]
        [[3, 5, 9], [2, 5, 1]]
    """

    most = 1 << 17

    def __init__(self) -> None:
        self._shift = 0  # hashes of so many leading zero bits are kept
        self._counter = IdCounter()

    def add(self, times: np.ndarray, counts: np.ndarray) -> None:
        """Takes in instants, each at most once, and their rows."""
        kept = self._kept(times)
        self._counter.add(times[kept], counts[kept])
        if self._counter.waiting > self.most:
            self.taken()

    def merge(self, other: Instants) -> None:
        """Takes in what others hold."""
        found = other.taken()  # which may thin them more
        self._shift = max(self._shift, other._shift)
        self.add(*found)

    def taken(self) -> tuple[np.ndarray, np.ndarray]:
        """Instants in ticks, ascending, and their rows: int64 ``[n]``, at most ``most``."""
        times, counts = self._counter.merged()
        kept = self._kept(times)  # others may have been thinned more
        while kept.sum() > self.most:
            self._shift += 1
            kept = self._kept(times)
        times, counts = times[kept], counts[kept]
        self._counter = IdCounter([(times, counts)] if len(times) else [])
        return times, counts

    def _kept(self, times: np.ndarray) -> np.ndarray:
        hashes = mix(times.astype(np.int64).view(np.uint64) + np.uint64(1))
        return hashes <= np.uint64((1 << (64 - self._shift)) - 1)
