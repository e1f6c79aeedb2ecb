"""Moments, controller, weights and tie rule of a selection, shared by its two kernels."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_powers(sums, squares, x, origin, member):
    """Adds x - origin and its square, of the members, to float64 sums of each lane."""
    d = tl.where(member, x.to(tl.float64) - origin.to(tl.float64), 0.0)
    return sums + d, squares + d * d


@triton.jit
def moments(total, square, count):
    """Mean, counted from nu, and sample standard deviation of ``count`` values; both float64."""
    n = tl.maximum(count, 1).to(tl.float64)
    variance = tl.maximum(square - total * total / n, 0.0) / tl.maximum(n - 1.0, 1.0)
    return total / n, tl.sqrt(variance)


@triton.jit
def next_kappa(kappa_ptr, kept_std, batch_std, target_ratio, low, high, up, down):
    """The controller's step; its state stays on the device."""
    kappa = tl.load(kappa_ptr)
    wider, narrower = tl.minimum(high, up * kappa), tl.maximum(low, down * kappa)
    return tl.where(kept_std < target_ratio * batch_std, wider, narrower)


@triton.jit
def weights(
    x, keep, tied, nu, kept_lead, kept_std, share, temperature, eps,
    WEIGHTING: tl.constexpr, TIES: tl.constexpr, NORMALIZE: tl.constexpr,
):  # fmt: skip
    """The weight of each kept row; ``kept_lead`` is the kept mean minus nu."""
    lead = tl.where(keep, x - nu, 0.0)  # dropped rows take no part: theirs may overflow
    if WEIGHTING == 1:  # linear
        w = lead
        if NORMALIZE:
            w = w / (kept_std.to(tl.float32) + eps)
    else:
        w = tl.full(lead.shape, 1.0, tl.float32)
        if WEIGHTING == 2:  # exponential
            w = tl.exp((lead - kept_lead.to(tl.float32)) / temperature)
        if TIES == 1:  # fraction
            w = tl.where(tied, w * share, w)
    return w


@triton.jit
def kept_rows(key, threshold, seen_ties, room, WEIGHTING: tl.constexpr, TIES: tl.constexpr):
    """Which rows of a tile are emitted, which lie at the threshold, and the ties seen so far."""
    keep = key > threshold
    tied = key == threshold
    if WEIGHTING != 1:
        if TIES == 0:  # first: as many of the lowest index as there is room for
            ones = tied.to(tl.int32)
            keep = keep | (tied & (seen_ties + tl.cumsum(ones, 0) <= room))
            seen_ties += tl.sum(ones, 0)
        else:
            keep = keep | tied
    return keep, tied, seen_ties


@triton.jit
def rows_emitted(n_above, n_tied, room, WEIGHTING: tl.constexpr, TIES: tl.constexpr):
    """How many rows have a weight; at the threshold a linear one is zero."""
    n_rows = n_above
    if WEIGHTING != 1:
        if TIES == 0:
            n_rows += room
        else:
            n_rows += n_tied
    return n_rows


@triton.jit
def store_summary(
    stats_ptr, counts_ptr, nu, kept_lead, kept_std, batch_lead, batch_std, next_kappa, share,
    n_rows, quota, n_valid, n_above, n_tied,
):  # fmt: skip
    """Everything of Stat but the effective sample size (place 5), and everything of Count."""
    tl.store(stats_ptr, nu)
    tl.store(stats_ptr + 1, (nu.to(tl.float64) + kept_lead).to(tl.float32))
    tl.store(stats_ptr + 2, kept_std.to(tl.float32))
    tl.store(stats_ptr + 3, (nu.to(tl.float64) + batch_lead).to(tl.float32))
    tl.store(stats_ptr + 4, batch_std.to(tl.float32))
    tl.store(stats_ptr + 6, next_kappa)
    tl.store(stats_ptr + 7, share)
    tl.store(counts_ptr, n_rows)
    tl.store(counts_ptr + 1, quota)
    tl.store(counts_ptr + 2, n_valid)
    tl.store(counts_ptr + 3, n_above)
    tl.store(counts_ptr + 4, n_tied)


@triton.jit
def store_ess(stats_ptr, total, square):
    """The effective sample size from the weights' sum and sum of squares."""
    ess = tl.where(square > 0.0, total * total / tl.where(square > 0.0, square, 1.0), 0.0)
    tl.store(stats_ptr + 5, ess.to(tl.float32))
