"""Top-kappa selection in Triton; reference.py is the specification.

Method     Quality becomes an unsigned key of the same order (0: invalid). A radix select fixes
           8 bits of the K-th largest key at a time, most significant first, from histograms of
           the rows that share the bits fixed so far. Then one pass for moments and counts, and
           one that writes the kept rows in ascending order.
Launches   N <= 16,384: the one program of this file, one launch. Beyond: many_programs.py.
           No host read in either, so both can be captured in a CUDA graph.
Order      Histograms are integer sums; every float sum runs in a fixed order: the same bits on
           every run.
Precision  Moments are float64 sums of (r - nu) and its square.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrl_drpo_kernels._common import COMPILE, launches
from torchrl_drpo_kernels.select import many_programs
from torchrl_drpo_kernels.select.arithmetic import (
    moments,
    next_kappa,
    rows_emitted,
    store_ess,
    store_summary,
)
from torchrl_drpo_kernels.select.passes import emitted, measured
from torchrl_drpo_kernels.select.radix import BITS, DIGITS, histogram, pick, quota_of, threshold_of
from torchrl_drpo_kernels.select.rule import Count, Rule, Stat

#: Rows up to which one program does everything; beyond, its serial passes cost more than launches.
ONE_LAUNCH_ROWS = 16_384
#: Rows of a tile, for up to 512 rows and beyond. What spills on some architectures (up to 18
#: instructions) waits between the passes, or is one of 250 in their loops (tests/kernels/aot).
SMALL_TILE, LARGE_TILE = 512, 2048


@launches
def select(
    quality: Tensor, mask: Tensor | None, kappa: Tensor, rule: Rule
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launches the kernels; arguments and results are those of the reference."""
    launch = select_at_once if quality.shape[0] <= ONE_LAUNCH_ROWS else many_programs.select
    return launch(quality, mask, kappa, rule)


def select_at_once(
    quality: Tensor, mask: Tensor | None, kappa: Tensor, rule: Rule, tile: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One program that walks all rows in tiles of ``tile``, five times."""
    n = quality.shape[0]
    index, weight = quality.new_empty(n, dtype=torch.int32), torch.empty_like(quality)
    stats, counts = quality.new_empty(len(Stat)), index.new_empty(len(Count))
    tile = tile or (SMALL_TILE if n <= 512 else LARGE_TILE)
    select_kernel[(1,)](
        quality, mask, kappa, index, weight, stats, counts, n, *rule.numbers,
        **rule.branches, HAS_MASK=mask is not None, TILE=tile, num_warps=8, **COMPILE,
    )  # fmt: skip
    return index, weight, stats, counts


@triton.jit(do_not_specialize_on_alignment=["kappa_ptr"])  # it may be one number of many
def select_kernel(
    quality_ptr, mask_ptr, kappa_ptr, index_ptr, weight_ptr, stats_ptr, counts_ptr, n,
    temperature, eps, target_ratio, low, high, up, down,
    HAS_MASK: tl.constexpr, WEIGHTING: tl.constexpr, TIES: tl.constexpr, NORMALIZE: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Everything for one batch: one program, no other launch."""
    prefix = tl.zeros((), tl.uint32)
    known = tl.zeros((), tl.uint32)
    shift = tl.full((), BITS * (DIGITS - 1), tl.uint32)
    n_valid = tl.zeros((), tl.int32)
    quota = tl.zeros((), tl.int32)
    room = tl.zeros((), tl.int32)
    # A loop at run time: with a copy of its body for each digit the program is nearly twice as
    # long, and one that runs once and alone seems to wait for its instructions more than for its
    # rows (on an H200, 66 us for 320 rows, when there were 4,450).
    for digit in range(DIGITS):
        counts = histogram(quality_ptr, mask_ptr, 0, n, n, prefix, known, shift, HAS_MASK, TILE)
        if digit == 0:
            n_valid = tl.sum(counts, 0)
            quota = quota_of(kappa_ptr, n_valid)
            room = quota
        prefix, room = pick(counts, room, prefix, shift)
        known = (known >> BITS) | 0xFF000000
        shift -= BITS
    threshold, nu = threshold_of(prefix, n_valid)

    kept_sum, kept_square, batch_sum, batch_square, n_above, n_tied = measured(
        quality_ptr, mask_ptr, 0, n, n, threshold, nu, HAS_MASK, TILE
    )
    kept_lead, kept_std = moments(kept_sum, kept_square, quota)
    batch_lead, batch_std = moments(batch_sum, batch_square, n_valid)
    share = room.to(tl.float32) / tl.maximum(n_tied, 1).to(tl.float32)
    n_rows = rows_emitted(n_above, n_tied, room, WEIGHTING, TIES)

    none = tl.zeros((), tl.int32)
    weight_sum, weight_square = emitted(
        quality_ptr, mask_ptr, index_ptr, weight_ptr, 0, n, n, n_rows, none, none,
        threshold, nu, room, share, kept_lead, kept_std, temperature, eps,
        HAS_MASK, WEIGHTING, TIES, NORMALIZE, TILE,
    )  # fmt: skip

    step = next_kappa(kappa_ptr, kept_std, batch_std, target_ratio, low, high, up, down)
    store_summary(
        stats_ptr, counts_ptr, nu, kept_lead, kept_std, batch_lead, batch_std, step, share,
        n_rows, quota, n_valid, n_above, n_tied,
    )  # fmt: skip
    store_ess(stats_ptr, weight_sum, weight_square)
