"""Percentiles within groups, fitted on training rows only: a test row is ranked among *these*."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..schema.quality import Percentile


@dataclass
class _Table:
    """Counts of a group's values in disjoint ascending cells [low, high]; exact where equal."""

    low: np.ndarray
    high: np.ndarray
    count: np.ndarray

    def add(self, new: np.ndarray, counts: np.ndarray, max_cells: int) -> None:
        """Takes in distinct ascending values and how often each is there."""
        cell = np.searchsorted(self.high, new)
        inside = cell < len(self.high)
        inside[inside] = self.low[cell[inside]] <= new[inside]
        np.add.at(self.count, cell[inside], counts[inside])
        low = np.concatenate([self.low, new[~inside]])
        order = np.argsort(low, kind="stable")
        self.low = low[order]
        self.high = np.concatenate([self.high, new[~inside]])[order]
        self.count = np.concatenate([self.count, counts[~inside]])[order]
        if len(self.low) > max_cells:
            self._thin(max_cells // 2)

    def _thin(self, cells: int) -> None:
        total = self.count.sum()
        before = np.cumsum(self.count) - self.count
        heavy = self.count * cells > total  # an atom keeps its own cell: its ties must stay ties
        bins = before * cells // total
        fresh = np.ones(len(bins), dtype=bool)
        fresh[1:] = (bins[1:] != bins[:-1]) | heavy[1:] | heavy[:-1]
        first = np.flatnonzero(fresh)
        last = np.append(first[1:], len(bins)) - 1
        self.count = np.add.reduceat(self.count, first)
        self.low, self.high = self.low[first], self.high[last]

    def rank(self, values: np.ndarray) -> np.ndarray:
        total = np.concatenate([[0], np.cumsum(self.count)])
        cell = np.searchsorted(self.high, values)
        capped = np.minimum(cell, len(self.high) - 1)
        inside = (cell < len(self.high)) & (self.low[capped] <= values)
        less = total[np.minimum(cell, len(self.high))]
        return (less + 0.5 * np.where(inside, self.count[capped], 0)) / total[-1]


@dataclass
class FittedPercentile:
    """The training rows' distribution in every shared group: fit by ``update``, then ``transform``.

    Groups with a ``"user"`` key are not kept here (the log itself holds their rows); callers pass
    them to :meth:`transform` as ``finest``. A group keeps at most ``max_cells`` distinct values
    exactly; beyond, neighbours share cells, and a rank is off by at most ``1 / max_cells``.

    Args:
        signal: the declaration.
        max_cells: most cells a group keeps.
    """

    signal: Percentile
    max_cells: int = 65_536
    tables: dict[tuple[int, ...], _Table] = field(default_factory=dict)

    def update(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Adds training rows: ``keys`` int64 ``[N, len(signal.shared_by)]``, ``values`` ``[N]``."""
        for level in range(keys.shape[1] + 1):  # the groups themselves, then each coarser fallback
            for group, rows in _groups(keys[:, level:]):
                new, counts = np.unique(values[rows], return_counts=True)
                self._table((level, *group)).add(new, counts, self.max_cells)

    def merge(self, other: FittedPercentile) -> None:
        """Adds the training rows that another took in, all of whose values are exact.

        The same as to add them here: whoever reads parts of a log counts, one process adds up.
        """
        for key, table in other.tables.items():
            self._table(key).add(table.low, table.count, self.max_cells)

    def _table(self, key: tuple[int, ...]) -> _Table:
        empty = np.empty(0)
        return self.tables.setdefault(key, _Table(empty, empty, np.empty(0, dtype=np.int64)))

    def transform(
        self, keys: np.ndarray, values: np.ndarray, finest: tuple[np.ndarray, np.ndarray] | None
    ) -> np.ndarray:
        """Ranks rows among the training rows.

        Args:
            keys: int64 ``[N, len(signal.shared_by)]``.
            values: ``[N]``.
            finest: ``(rank, count)`` of the rows within their user group, where the signal has one.

        Returns:
            float64 ``[N]`` in [0, 1].

        Raises:
            ValueError: if nothing was fitted.
        """
        if (keys.shape[1],) not in self.tables:
            raise ValueError(
                "a percentile quality needs training rows to be fitted on, but none lie before "
                "the test period; hold out fewer rows"
            )
        out = np.full(len(values), np.nan)
        if finest is not None:
            rank, count = finest
            out = np.where(count >= self.signal.min_count, rank, np.nan)
        for level in range(keys.shape[1] + 1):
            open_rows = np.flatnonzero(np.isnan(out))
            is_last = level == keys.shape[1]
            for group, rows in _groups(keys[open_rows, level:]):
                table = self.tables.get((level, *group))
                if table is not None and (is_last or table.count.sum() >= self.signal.min_count):
                    out[open_rows[rows]] = table.rank(values[open_rows[rows]])
        return out

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The tables as flat arrays: keys, cells, lowest and highest values, counts."""
        width = len(self.signal.shared_by) + 1
        keys = np.full((len(self.tables), width), -(2**62), dtype=np.int64)
        for row, key in enumerate(self.tables):
            keys[row, : len(key)] = key
        tables = list(self.tables.values())
        empty = [np.empty(0)]
        return (
            keys,
            np.array([len(t.low) for t in tables], dtype=np.int64),
            np.concatenate([t.low for t in tables] or empty),
            np.concatenate([t.high for t in tables] or empty),
            np.concatenate([t.count for t in tables] or empty).astype(np.int64),
        )

    def load(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes back what :meth:`arrays` gave."""
        keys, cells, *columns = arrays
        width = len(self.signal.shared_by) + 1
        self.tables = {}
        start = 0
        for row, count in zip(keys, cells, strict=True):
            level = int(row[0])
            key = (level, *(int(k) for k in row[1 : width - level]))
            self.tables[key] = _Table(*(column[start : start + count].copy() for column in columns))
            start += int(count)


def _groups(keys: np.ndarray) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """The distinct rows of ``keys`` and where each stands; one group of all rows for no columns."""
    if keys.shape[0] == 0:
        return []
    if keys.shape[1] == 0:
        return [((), np.arange(keys.shape[0]))]
    order = np.lexsort(keys.T[::-1])
    ordered = keys[order]
    fresh = np.flatnonzero(np.any(ordered[1:] != ordered[:-1], axis=1)) + 1
    starts = np.concatenate([[0], fresh])
    parts = np.split(order, fresh)
    return [
        (tuple(int(k) for k in ordered[start]), part)
        for start, part in zip(starts, parts, strict=True)
    ]
