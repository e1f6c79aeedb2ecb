"""Quality signals: what a logged row was worth, declared in the schema, fitted without leakage.

Three kinds. A :class:`RewardFormula` is arithmetic over the feedback columns. A
:class:`Percentile` ranks a value among comparable rows: the same user, the same context, the same
duration bucket. A :class:`ReturnToGo` sums what the rest of the session brought. Percentiles are
fitted on the training rows only; a test row is ranked among *training* rows.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .formula import Formula

DURATION_BUCKET = "duration_bucket"
USER = "user"


@dataclass(frozen=True)
class RewardFormula:
    """Quality is a formula of the row's own columns.

    Args:
        formula: see :class:`~torchrl_drpo.data.formula.Formula`.
    """

    formula: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The log columns that the formula reads."""
        return Formula(self.formula).columns


@dataclass(frozen=True)
class Percentile:
    r"""Quality is the mid-rank of a value among the training rows of its group, in [0, 1].

    ``(#less + #equal / 2) / #group``: ties share one quality. With ``duration`` set, rows are
    put into buckets ``floor(log_base(duration))``, and ``by=("user", "duration_bucket")`` is
    OneRec-V2's duration-aware quality (arXiv 2508.20900, eq. 12-14): long videos do not win
    because they are long. Where a group has fewer than ``min_count`` training rows, the first key
    of ``by`` is dropped, and so on down to all training rows: KuaiRand has nine rows a user, so
    there most users fall back to the bucket alone.

    Args:
        value: a formula for what is ranked, such as ``"play_time_ms"``.
        by: keys of the group: ``"user"``, ``"duration_bucket"``, context columns. Put the finest
            key first; it is the first to be dropped.
        duration: a formula for the duration, needed by ``"duration_bucket"``.
        base: logarithm's base of the buckets, above 1.
        min_count: fewest training rows that a group needs, at least 1.
    """

    value: str
    by: tuple[str, ...] = ()
    duration: str | None = None
    base: float = 2.0
    min_count: int = 20

    def __post_init__(self) -> None:
        if (DURATION_BUCKET in self.by) != (self.duration is not None):
            raise ValueError(
                f"Percentile: by={self.by} and duration={self.duration!r} do not fit; "
                f"{DURATION_BUCKET!r} in `by` and a `duration` formula come together"
            )
        if not self.base > 1:
            raise ValueError(f"Percentile: base must be above 1, got {self.base}")
        if self.min_count < 1:
            raise ValueError(f"Percentile: min_count must be at least 1, got {self.min_count}")
        if USER in self.by[1:]:
            raise ValueError(f"Percentile: 'user' is the finest key; put it first in {self.by}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The log columns that value and duration read."""
        duration = Formula(self.duration).columns if self.duration else ()
        return tuple(sorted({*Formula(self.value).columns, *duration}))

    @property
    def shared_by(self) -> tuple[str, ...]:
        """The keys without the user: groups whose tables are kept."""
        return tuple(key for key in self.by if key != USER)

    def bucket(self, duration: np.ndarray) -> np.ndarray:
        """``floor(log_base(duration))`` as int64; durations of zero or less share bucket -1.

        >>> Percentile("p", by=("duration_bucket",), duration="d").bucket(np.array([0, 1, 8, 9.5]))
        array([-1,  0,  3,  3])
        """
        safe = np.maximum(duration, 1.0)
        bucket = np.floor(np.log(safe) / math.log(self.base) + 1e-9).astype(np.int64)
        return np.where(duration > 0, bucket, -1)


@dataclass(frozen=True)
class ReturnToGo:
    r"""Quality is :math:`\sum_{t' \ge t} \gamma^{t'-t} r_{t'}` over the rest of the trajectory.

    The sum of a training row stops where the test period begins.

    Args:
        reward: formula of the one-step reward.
        gamma: discount in [0, 1].
    """

    reward: str
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"ReturnToGo: gamma must lie in [0, 1], got {self.gamma}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The log columns that the reward reads."""
        return Formula(self.reward).columns


Quality = RewardFormula | Percentile | ReturnToGo


def discounted_returns(reward: np.ndarray, is_last: np.ndarray, gamma: float) -> np.ndarray:
    """Return-to-go of every row of contiguous segments, in float64.

    By doubling: after k rounds each row holds the discounted sum of its next 2^k rewards, so
    ragged segments cost O(N log longest) and no Python loop over segments.

    Args:
        reward: ``[N]``, segments one after another, each in time order.
        is_last: bool ``[N]``, True on the last row of each segment.
        gamma: discount in [0, 1].

    Returns:
        float64 ``[N]``.

    Examples:
        >>> discounted_returns(np.ones(4), np.array([False, False, True, True]), 0.5)
        array([1.75, 1.5 , 1.  , 1.  ])
    """
    total = reward.astype(np.float64)
    ends = np.flatnonzero(is_last)
    count = len(total)
    # how many rows follow within the segment (a log that ends without a last row ends there)
    end_of = np.append(ends, count - 1)[np.searchsorted(ends, np.arange(count))]
    remaining = end_of - np.arange(count)
    shift, factor = 1, float(gamma)
    while factor > 0 and shift <= remaining.max(initial=0):
        rows = np.flatnonzero(remaining >= shift)
        gain = factor * total[rows + shift]
        total[rows] += gain
        shift, factor = 2 * shift, factor * factor
    return total


def midrank(
    reference_group: np.ndarray, reference: np.ndarray, group: np.ndarray, value: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mid-rank of each value among the reference values of its group, and the group's size.

    Args:
        reference_group: int64 ``[M]``, group of each reference value.
        reference: float ``[M]``.
        group: int64 ``[N]``.
        value: float ``[N]``.

    Returns:
        ``(rank, count)``: float64 ``[N]`` in [0, 1] (NaN for an empty group) and int64 ``[N]``.

    Examples:
        >>> zero = np.zeros(4, dtype=np.int64)
        >>> midrank(zero, np.array([1.0, 2, 2, 3]), zero[:2], np.array([2.0, 9.0]))[0]
        array([0.5, 1. ])
    """
    # One sorted int64 key (group, dense rank of the value) turns all groups into one search.
    levels, dense = np.unique(np.concatenate([reference, value]), return_inverse=True)
    width = len(levels) + 1
    _, coded = np.unique(np.concatenate([reference_group, group]), return_inverse=True)
    key = coded * width + dense
    split = len(reference)
    keys = np.sort(key[:split])
    wanted, start = key[split:], coded[split:] * width
    first = np.searchsorted(keys, start)
    count = np.searchsorted(keys, start + width) - first
    less = np.searchsorted(keys, wanted) - first
    equal = np.searchsorted(keys, wanted, side="right") - first - less
    with np.errstate(invalid="ignore"):
        return (less + 0.5 * equal) / np.where(count > 0, count, np.nan), count


@dataclass
class _Table:
    """Counts of a group's values in disjoint ascending cells [low, high]; exact where equal."""

    low: np.ndarray
    high: np.ndarray
    count: np.ndarray

    def add(self, values: np.ndarray, max_cells: int) -> None:
        new, counts = np.unique(values, return_counts=True)
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
            part = keys[:, level:]
            for group, rows in _groups(part):
                prefix = (level, *group)
                empty = np.empty(0)
                table = self.tables.setdefault(
                    prefix, _Table(empty, empty, np.empty(0, dtype=np.int64))
                )
                table.add(values[rows], self.max_cells)

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
                "the test period; choose a later test start"
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

    def save(self, path: Path) -> None:
        """Writes the tables to one file, atomically: arrays one after another, nothing pickled."""
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            for array in self.state_dict().values():
                np.save(file, array, allow_pickle=False)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Reads what :meth:`save` wrote."""
        with path.open("rb") as file:
            names = ("keys", "cells", "low", "high", "count")
            self.load_state_dict({name: np.load(file, allow_pickle=False) for name in names})

    def state_dict(self) -> dict[str, np.ndarray]:
        """Flat arrays, to be saved without pickling."""
        width = len(self.signal.shared_by) + 1
        keys = np.full((len(self.tables), width), -(2**62), dtype=np.int64)
        for row, key in enumerate(self.tables):
            keys[row, : len(key)] = key
        tables = list(self.tables.values())
        empty = [np.empty(0)]
        return {
            "keys": keys,
            "cells": np.array([len(t.low) for t in tables], dtype=np.int64),
            "low": np.concatenate([t.low for t in tables] or empty),
            "high": np.concatenate([t.high for t in tables] or empty),
            "count": np.concatenate([t.count for t in tables] or empty).astype(np.int64),
        }

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Takes back what :meth:`state_dict` gave."""
        width = len(self.signal.shared_by) + 1
        ends = np.cumsum(state["cells"])
        self.tables = {}
        for row, end in zip(state["keys"], ends, strict=True):
            level = int(row[0])
            key = (level, *(int(k) for k in row[1 : width - level]))
            start = end - state["cells"][len(self.tables)]
            low, high, count = (state[name][start:end] for name in ("low", "high", "count"))
            self.tables[key] = _Table(low.copy(), high.copy(), count.copy())


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
