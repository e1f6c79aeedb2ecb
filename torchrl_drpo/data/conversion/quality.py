"""Quality signals, computed: returns, ranks and duration buckets of whole columns."""

from __future__ import annotations

import math

import numpy as np


def duration_bucket(duration: np.ndarray, base: float) -> np.ndarray:
    """``floor(log_base(duration))`` as int64; durations of zero or less share bucket -1.

    >>> duration_bucket(np.array([0, 1, 8, 9.5]), 2.0)
    array([-1,  0,  3,  3])
    """
    safe = np.maximum(duration, 1.0)
    bucket = np.floor(np.log(safe) / math.log(base) + 1e-9).astype(np.int64)
    return np.where(duration > 0, bucket, -1)


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
