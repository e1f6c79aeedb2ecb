"""The last two passes of a selection over a run of rows, for one program or many."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl

from torchrl_drpo_kernels.select.arithmetic import add_powers, kept_rows, weights
from torchrl_drpo_kernels.select.radix import load_keys


@triton.jit
def measured(
    quality_ptr, mask_ptr, start, stop, n, threshold, nu,
    HAS_MASK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Sums of (r - nu) and its square, of rows above nu and of all, and rows above and at nu."""
    kept_sum = tl.zeros((TILE,), tl.float64)
    kept_square = tl.zeros((TILE,), tl.float64)
    batch_sum = tl.zeros((TILE,), tl.float64)
    batch_square = tl.zeros((TILE,), tl.float64)
    above = tl.zeros((TILE,), tl.int32)
    tied = tl.zeros((TILE,), tl.int32)
    for s in range(start, stop, TILE):  # each lane adds up its own rows; they are reduced once
        x, key = load_keys(quality_ptr, mask_ptr, s + tl.arange(0, TILE), n, HAS_MASK)
        kept_sum, kept_square = add_powers(kept_sum, kept_square, x, nu, key > threshold)
        batch_sum, batch_square = add_powers(batch_sum, batch_square, x, nu, key != 0)
        above += (key > threshold).to(tl.int32)
        tied += (key == threshold).to(tl.int32)
    return (
        tl.sum(kept_sum, 0), tl.sum(kept_square, 0), tl.sum(batch_sum, 0), tl.sum(batch_square, 0),
        tl.sum(above, 0), tl.sum(tied, 0),
    )  # fmt: skip


@triton.jit
def emitted(
    quality_ptr, mask_ptr, index_ptr, weight_ptr, start, stop, n, n_rows, place, seen_ties,
    threshold, nu, room, share, kept_lead, kept_std, temperature, eps,
    HAS_MASK: tl.constexpr, WEIGHTING: tl.constexpr, TIES: tl.constexpr, NORMALIZE: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Writes the kept rows from ``place`` on, ascending.

    Of the places start to stop, those behind ``n_rows`` get zeros. Returns the weights' sum and
    sum of squares.
    """
    weight_sum = tl.zeros((TILE,), tl.float64)
    weight_square = tl.zeros((TILE,), tl.float64)
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
        behind = (rows >= n_rows) & (rows < n)
        tl.store(index_ptr + rows, tl.zeros((TILE,), tl.int32), mask=behind)
        tl.store(weight_ptr + rows, tl.zeros((TILE,), tl.float32), mask=behind)
        weight_sum, weight_square = add_powers(weight_sum, weight_square, w, zero, keep)
        place += tl.sum(keep.to(tl.int32), 0)
    return tl.sum(weight_sum, 0), tl.sum(weight_square, 0)
