"""The last two passes of a selection over a run of rows, for one program or many."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl

from torchrl_drpo_kernels.select.arithmetic import kept_rows, power_sums, weights
from torchrl_drpo_kernels.select.radix import load_keys


@triton.jit
def measured(
    quality_ptr, mask_ptr, start, stop, n, threshold, nu,
    HAS_MASK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Sums of (r - nu) and its square, of rows above nu and of all, and rows above and at nu."""
    kept_sum = tl.zeros((), tl.float64)
    kept_square = tl.zeros((), tl.float64)
    batch_sum = tl.zeros((), tl.float64)
    batch_square = tl.zeros((), tl.float64)
    n_above = tl.zeros((), tl.int32)
    n_tied = tl.zeros((), tl.int32)
    for s in range(start, stop, TILE):
        x, key = load_keys(quality_ptr, mask_ptr, s + tl.arange(0, TILE), n, HAS_MASK)
        total, square = power_sums(x, nu, key > threshold)
        kept_sum += total
        kept_square += square
        total, square = power_sums(x, nu, key != 0)
        batch_sum += total
        batch_square += square
        n_above += tl.sum((key > threshold).to(tl.int32), 0)
        n_tied += tl.sum((key == threshold).to(tl.int32), 0)
    return kept_sum, kept_square, batch_sum, batch_square, n_above, n_tied


@triton.jit
def emitted(
    quality_ptr, mask_ptr, index_ptr, weight_ptr, start, stop, n, place, seen_ties,
    threshold, nu, room, share, kept_lead, kept_std, temperature, eps,
    HAS_MASK: tl.constexpr, WEIGHTING: tl.constexpr, TIES: tl.constexpr, NORMALIZE: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Writes the kept rows from ``place`` on, ascending.

    Returns the place behind the last, and the weights' sum and sum of squares.
    """
    weight_sum = tl.zeros((), tl.float64)
    weight_square = tl.zeros((), tl.float64)
    zero = tl.zeros((), tl.float32)
    for s in range(start, stop, TILE):
        rows = s + tl.arange(0, TILE)
        x, key = load_keys(quality_ptr, mask_ptr, rows, n, HAS_MASK)
        keep, tied, seen_ties = kept_rows(key, threshold, seen_ties, room, WEIGHTING, TIES)
        w = weights(
            x, keep, tied, nu, kept_lead, kept_std, share, temperature, eps,
            WEIGHTING, TIES, NORMALIZE,
        )  # fmt: skip
        target = place + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(index_ptr + target, rows.to(tl.int32), mask=keep)
        tl.store(weight_ptr + target, w, mask=keep)
        total, square = power_sums(w, zero, keep)
        weight_sum += total
        weight_square += square
        place += tl.sum(keep.to(tl.int32), 0)
    return place, weight_sum, weight_square
