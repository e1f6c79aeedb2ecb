"""From when to when groups last, and which of them begin within another."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Spans:
    """Sessions or slates of a log that comes in batches, in no order; 40 bytes a group.

    Attributes:
        parts: owners, groups, first and last instant, and the row of the first, in pieces.
    """

    parts: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def add(
        self, owner: np.ndarray, group: np.ndarray, instant: np.ndarray, row: np.ndarray
    ) -> None:
        """Takes in some rows: whose they are, their groups, when they were, and their numbers."""
        if len(owner):
            self.parts.append(_merged(owner, group, instant, instant, row))

    def interrupted(self) -> np.ndarray:
        """First rows of the groups that begin before an earlier one of the same owner ended.

        Groups may meet at one instant: its rows can be put in order.
        """
        if not self.parts:
            return np.empty(0, dtype=np.int64)
        pieces = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        owner, _, low, high, row = _merged(*pieces)
        order = np.lexsort((high, low, owner))
        within = low[order] < latest_before(owner[order], high[order])
        return np.sort(row[order[within]])


def _merged(
    owner: np.ndarray, group: np.ndarray, low: np.ndarray, high: np.ndarray, row: np.ndarray
) -> tuple[np.ndarray, ...]:
    """One entry a group: its first and last instant, and the first's row."""
    order = np.lexsort((row, low, group, owner))
    owner, group, low, high, row = (each[order] for each in (owner, group, low, high, row))
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (owner[1:] != owner[:-1]) | (group[1:] != group[:-1])
    first = np.flatnonzero(fresh)
    return owner[first], group[first], low[first], np.maximum.reduceat(high, first), row[first]


def latest_before(owner: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The latest time among earlier entries of the same owner; owners come in ascending runs.

    >>> latest_before(np.array([0, 0, 0, 4]), np.array([5, 9, 2, 1]))[1:3]
    array([5, 9])
    """
    levels, dense = np.unique(time, return_inverse=True)
    fresh = np.append(True, owner[1:] != owner[:-1])[: len(owner)]
    # one running maximum serves all owners once each run starts above the one before
    lifted = np.maximum.accumulate(dense + (np.cumsum(fresh) - 1) * len(levels))
    before = levels[np.append(0, lifted[:-1]) % len(levels)]
    before[fresh] = np.iinfo(np.int64).min
    return before
