"""Top-kappa selection of more rows than one program should walk: seven launches and a memset.

Four histograms (each program advances the state, the key's bits so far, by the histogram that is
finished, and the first program writes it down), then per-program moments and counts, then the
emission, in which every program knows from the counts before it where its rows go, then the
effective sample size.

Each program owns a run of consecutive rows, so that the kept rows come out in ascending order.
Row offsets are int64.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrl_drpo_kernels._common import COMPILE, next_power_of_2
from torchrl_drpo_kernels.select.arithmetic import (
    moments,
    next_kappa,
    rows_emitted,
    store_ess,
    store_summary,
)
from torchrl_drpo_kernels.select.passes import emitted, measured
from torchrl_drpo_kernels.select.radix import (
    BINS,
    BITS,
    DIGITS,
    histogram,
    pick,
    quota_of,
    threshold_of,
)
from torchrl_drpo_kernels.select.rule import Count, Rule, Stat

#: Rows of a tile, and the most programs that are started: about four for each multiprocessor.
TILE, MAX_PROGRAMS = 2048, 512


def select(
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    rule: Rule,
    tile: int = TILE,
    max_programs: int = MAX_PROGRAMS,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launches the kernels; arguments and results are those of the reference."""
    n = quality.shape[0]
    index, weight = quality.new_empty(n, dtype=torch.int32), torch.empty_like(quality)
    stats, counts = quality.new_empty(len(Stat)), index.new_empty(len(Count))
    tiles = triton.cdiv(n, tile)
    programs = max(1, min(max_programs, tiles))
    span = triton.cdiv(tiles, programs) * tile  # consecutive rows of one program
    grid, slots = (programs,), next_power_of_2(programs)
    histograms = index.new_zeros(DIGITS.value, BINS.value)
    states = index.new_empty(DIGITS.value + 1, 4)
    sums = quality.new_empty(6, slots, dtype=torch.float64)
    tallies = index.new_empty(2, slots)

    rows, size = (quality, mask, kappa, histograms, states), (n, span)
    shape = {"HAS_MASK": mask is not None, "TILE": tile, "num_warps": 8, **COMPILE}
    for digit in range(DIGITS.value):
        histogram_kernel[grid](*rows, *size, DIGIT=digit, **shape)
    moments_kernel[grid](*rows, sums, tallies, *size, SLOTS=slots, **shape)
    emit_kernel[grid](
        quality, mask, kappa, states, sums, tallies, index, weight, stats, counts, *size,
        *rule.numbers, **rule.branches, SLOTS=slots, **shape,
    )  # fmt: skip
    finish_kernel[(1,)](sums, stats, programs, SLOTS=slots, **COMPILE)
    return index, weight, stats, counts


@triton.jit
def _advanced(histograms_ptr, states_ptr, kappa_ptr, DIGITS_KNOWN: tl.constexpr):
    """The state when so many digits are known: bits so far, places left, n_valid and quota."""
    prefix = tl.zeros((), tl.uint32)
    room = tl.zeros((), tl.int32)
    n_valid = tl.zeros((), tl.int32)
    quota = tl.zeros((), tl.int32)
    if DIGITS_KNOWN > 0:
        last = DIGITS_KNOWN - 1
        counts = tl.load(histograms_ptr + last * BINS + tl.arange(0, BINS))
        if DIGITS_KNOWN == 1:
            n_valid = tl.sum(counts, 0)
            quota = quota_of(kappa_ptr, n_valid)
            room = quota
        else:
            prefix, room, n_valid, quota = _state(states_ptr, last)
        prefix, room = pick(counts, room, prefix, BITS * (DIGITS - DIGITS_KNOWN))
        if tl.program_id(0) == 0:
            state = states_ptr + 4 * DIGITS_KNOWN
            tl.store(state, prefix.to(tl.int32, bitcast=True))
            tl.store(state + 1, room)
            tl.store(state + 2, n_valid)
            tl.store(state + 3, quota)
    return prefix, room, n_valid, quota


@triton.jit
def _state(states_ptr, DIGITS_KNOWN: tl.constexpr):
    """What the first program of an earlier launch wrote down."""
    state = states_ptr + 4 * DIGITS_KNOWN
    prefix = tl.load(state).to(tl.uint32, bitcast=True)
    return prefix, tl.load(state + 1), tl.load(state + 2), tl.load(state + 3)


@triton.jit
def _span_of(n, span):
    """First row and the end of this program's consecutive rows, int64."""
    start = tl.program_id(0).to(tl.int64) * span
    return start, tl.minimum(start + span, n)


@triton.jit(do_not_specialize_on_alignment=["kappa_ptr"])
def histogram_kernel(
    quality_ptr, mask_ptr, kappa_ptr, histograms_ptr, states_ptr, n, span,
    DIGIT: tl.constexpr, HAS_MASK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Adds this program's rows to the histogram of one digit."""
    prefix, _, _, _ = _advanced(histograms_ptr, states_ptr, kappa_ptr, DIGIT)
    start, stop = _span_of(n, span)
    SHIFT: tl.constexpr = BITS * (DIGITS - 1 - DIGIT)
    KNOWN: tl.constexpr = 2**32 - 2 ** (SHIFT + BITS)
    counts = histogram(quality_ptr, mask_ptr, start, stop, n, prefix, KNOWN, SHIFT, HAS_MASK, TILE)
    target = histograms_ptr + DIGIT * BINS + tl.arange(0, BINS)
    tl.atomic_add(target, counts, mask=counts > 0, sem="relaxed")  # integers: any order, one sum


@triton.jit(do_not_specialize_on_alignment=["kappa_ptr"])
def moments_kernel(
    quality_ptr, mask_ptr, kappa_ptr, histograms_ptr, states_ptr, sums_ptr, tallies_ptr, n, span,
    SLOTS: tl.constexpr, HAS_MASK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Writes this program's sums of (r - nu) and its square, and its rows above and at nu."""
    prefix, _, n_valid, _ = _advanced(histograms_ptr, states_ptr, kappa_ptr, DIGITS)
    threshold, nu = threshold_of(prefix, n_valid)
    start, stop = _span_of(n, span)
    kept_sum, kept_square, batch_sum, batch_square, n_above, n_tied = measured(
        quality_ptr, mask_ptr, start, stop, n, threshold, nu, HAS_MASK, TILE
    )
    slot = tl.program_id(0)
    tl.store(sums_ptr + slot, kept_sum)
    tl.store(sums_ptr + SLOTS + slot, kept_square)
    tl.store(sums_ptr + 2 * SLOTS + slot, batch_sum)
    tl.store(sums_ptr + 3 * SLOTS + slot, batch_square)
    tl.store(tallies_ptr + slot, n_above)
    tl.store(tallies_ptr + SLOTS + slot, n_tied)


@triton.jit
def _slot_sum(ptr, live, SLOTS: tl.constexpr):
    return tl.sum(tl.load(ptr + tl.arange(0, SLOTS), mask=live, other=0), 0)


@triton.jit(do_not_specialize_on_alignment=["kappa_ptr"])
def emit_kernel(
    quality_ptr, mask_ptr, kappa_ptr, states_ptr, sums_ptr, tallies_ptr,
    index_ptr, weight_ptr, stats_ptr, counts_ptr, n, span,
    temperature, eps, target_ratio, low, high, up, down,
    HAS_MASK: tl.constexpr, WEIGHTING: tl.constexpr, TIES: tl.constexpr, NORMALIZE: tl.constexpr,
    SLOTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Writes this program's kept rows; the first program also writes the summary."""
    prefix, room, n_valid, quota = _state(states_ptr, DIGITS)
    threshold, nu = threshold_of(prefix, n_valid)
    slots = tl.arange(0, SLOTS)
    live = slots < tl.num_programs(0)
    kept_lead, kept_std = moments(
        _slot_sum(sums_ptr, live, SLOTS), _slot_sum(sums_ptr + SLOTS, live, SLOTS), quota
    )
    above = tl.load(tallies_ptr + slots, mask=live, other=0)
    ties = tl.load(tallies_ptr + SLOTS + slots, mask=live, other=0)
    n_above, n_tied = tl.sum(above, 0), tl.sum(ties, 0)
    share = room.to(tl.float32) / tl.maximum(n_tied, 1).to(tl.float32)

    # Rows that the programs before this one emit.
    earlier = slots < tl.program_id(0)
    place = tl.sum(tl.where(earlier, above, 0), 0)
    seen_ties = tl.sum(tl.where(earlier, ties, 0), 0)
    n_rows = rows_emitted(n_above, n_tied, room, WEIGHTING, TIES)
    if WEIGHTING != 1:
        if TIES == 0:
            place += tl.minimum(seen_ties, room)
        else:
            place += seen_ties

    start, stop = _span_of(n, span)
    weight_sum, weight_square = emitted(
        quality_ptr, mask_ptr, index_ptr, weight_ptr, start, stop, n, n_rows, place, seen_ties,
        threshold, nu, room, share, kept_lead, kept_std, temperature, eps,
        HAS_MASK, WEIGHTING, TIES, NORMALIZE, TILE,
    )  # fmt: skip
    slot = tl.program_id(0)
    tl.store(sums_ptr + 4 * SLOTS + slot, weight_sum)
    tl.store(sums_ptr + 5 * SLOTS + slot, weight_square)

    if slot == 0:
        batch_lead, batch_std = moments(
            _slot_sum(sums_ptr + 2 * SLOTS, live, SLOTS),
            _slot_sum(sums_ptr + 3 * SLOTS, live, SLOTS),
            n_valid,
        )
        step = next_kappa(kappa_ptr, kept_std, batch_std, target_ratio, low, high, up, down)
        store_summary(
            stats_ptr, counts_ptr, nu, kept_lead, kept_std, batch_lead, batch_std, step, share,
            n_rows, quota, n_valid, n_above, n_tied,
        )  # fmt: skip


@triton.jit
def finish_kernel(sums_ptr, stats_ptr, programs, SLOTS: tl.constexpr):
    """Adds up the programs' weights in slot order."""
    live = tl.arange(0, SLOTS) < programs
    store_ess(
        stats_ptr,
        _slot_sum(sums_ptr + 4 * SLOTS, live, SLOTS),
        _slot_sum(sums_ptr + 5 * SLOTS, live, SLOTS),
    )
