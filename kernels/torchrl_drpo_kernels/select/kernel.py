"""Top-kappa selection in Triton; reference.py is the specification.

Method     Quality becomes an unsigned key of the same order (0: invalid). A radix select fixes
           11 + 11 + 10 bits of the K-th largest key, most significant first, from histograms of
           the rows that share the bits fixed so far. Then one pass for moments and counts, and
           one that writes the kept rows in ascending order.
Launches   N <= 32,768: one program, one launch. Beyond: three histograms, moments, emission,
           effective sample size, after one memset. No host read, so all of it is capturable.
Order      Histograms are integer atomics; every float sum runs in a fixed order: the same bits
           on every run.
Precision  Moments are float64 sums of (r - nu) and its square.
Offsets    int64.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrl_drpo_kernels._common import next_power_of_2
from torchrl_drpo_kernels.select.rule import TIES, WEIGHTINGS, Count, Rule, Stat

#: Rows up to which one program does everything; beyond, its serial passes cost more than launches.
ONE_LAUNCH_ROWS = 32_768
#: Rows of a tile of the many-program path, and the most programs it starts.
TILE, MAX_PROGRAMS = 2048, 512
BINS = 2048  # of a histogram: 11 bits a digit

_N_STATS, _N_COUNTS = len(Stat), len(Count)


def select(
    quality: Tensor, mask: Tensor | None, kappa: Tensor, rule: Rule
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launches the kernels; arguments and results are those of the reference."""
    return (_select_small if quality.shape[0] <= ONE_LAUNCH_ROWS else _select_large)(
        quality, mask, kappa, rule
    )


def _options(mask: Tensor | None, rule: Rule) -> dict[str, object]:
    return {
        "HAS_MASK": mask is not None,
        "WEIGHTING": WEIGHTINGS.index(rule.weighting),
        "TIES": TIES.index(rule.ties),
        "NORMALIZE": rule.normalize,
    }


def _numbers(rule: Rule) -> tuple[float, ...]:
    return (
        rule.temperature, rule.eps, rule.target_ratio, rule.low, rule.high, rule.up, rule.down
    )  # fmt: skip


def _select_small(
    quality: Tensor, mask: Tensor | None, kappa: Tensor, rule: Rule, tile: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = quality.shape[0]
    index = quality.new_empty(n, dtype=torch.int32)
    weight, stats = torch.empty_like(quality), quality.new_empty(_N_STATS)
    counts = index.new_empty(_N_COUNTS)
    tile = tile or min(4096, max(256, next_power_of_2(n)))
    _select_kernel[(1,)](
        quality, _bytes(mask, quality), kappa, index, weight, stats, counts, n, *_numbers(rule),
        **_options(mask, rule), TILE=tile, num_warps=8 if tile > 1024 else 4,
    )  # fmt: skip
    return index, weight, stats, counts


def _select_large(
    quality: Tensor,
    mask: Tensor | None,
    kappa: Tensor,
    rule: Rule,
    tile: int = TILE,
    max_programs: int = MAX_PROGRAMS,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n = quality.shape[0]
    index = quality.new_zeros(n, dtype=torch.int32)
    weight, stats = torch.zeros_like(quality), quality.new_empty(_N_STATS)
    counts = index.new_empty(_N_COUNTS)
    programs = max(1, min(max_programs, triton.cdiv(n, tile)))
    span = triton.cdiv(triton.cdiv(n, tile), programs) * tile  # consecutive rows of one program
    grid, slots = (programs,), next_power_of_2(programs)
    histograms = index.new_zeros(3, BINS)
    sums = quality.new_empty(6, slots, dtype=torch.float64)
    tallies = index.new_empty(2, slots)

    rows = (quality, _bytes(mask, quality), kappa, histograms)
    has_mask, numbers, options = mask is not None, _numbers(rule), _options(mask, rule)
    for digit in range(3):
        _histogram_kernel[grid](*rows, n, span, DIGIT=digit, HAS_MASK=has_mask, TILE=tile)
    _moments_kernel[grid](*rows, sums, tallies, n, span, SLOTS=slots, HAS_MASK=has_mask, TILE=tile)
    _emit_kernel[grid](
        *rows, sums, tallies, index, weight, stats, counts, n, span, *numbers,
        **options, SLOTS=slots, TILE=tile,
    )  # fmt: skip
    _finish_kernel[(1,)](sums, stats, programs, SLOTS=slots)
    return index, weight, stats, counts


def _bytes(mask: Tensor | None, stand_in: Tensor) -> Tensor:
    return stand_in if mask is None else mask.view(torch.uint8)


# ------------------------------------------------------------------ keys and digits
@triton.jit
def _ordered_key(x, valid):
    """uint32 that orders like x; 0 for an invalid, NaN or infinite x, which no finite x maps to."""
    x = tl.where(x == 0.0, 0.0, x)  # -0.0 ties with +0.0
    bits = x.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, ~bits, bits ^ -2147483648).to(tl.uint32, bitcast=True)
    return tl.where(valid & (tl.abs(x) < float("inf")), key, tl.zeros_like(key))


@triton.jit
def _value_of(key):
    bits = key.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ -2147483648, ~bits).to(tl.float32, bitcast=True)


@triton.jit
def _load(quality_ptr, mask_ptr, offsets, n, HAS_MASK: tl.constexpr):
    inside = offsets < n
    x = tl.load(quality_ptr + offsets, mask=inside, other=0.0)
    valid = inside
    if HAS_MASK:
        valid = valid & (tl.load(mask_ptr + offsets, mask=inside, other=0) != 0)
    return x, _ordered_key(x, valid)


@triton.jit
def _histogram(
    quality_ptr, mask_ptr, start, stop, n, prefix,
    SHIFT: tl.constexpr, FIXED: tl.constexpr, HAS_MASK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Counts of the digit [SHIFT, FIXED) among rows whose bits from FIXED up equal the prefix."""
    counts = tl.zeros((2048,), tl.int32)
    for s in range(start, stop, TILE):
        _, key = _load(quality_ptr, mask_ptr, s + tl.arange(0, TILE), n, HAS_MASK)
        member = key != 0
        if FIXED < 32:
            member = member & ((key >> FIXED) == (prefix >> FIXED))
        digit = (key >> SHIFT) & ((1 << (FIXED - SHIFT)) - 1)
        counts += tl.histogram(digit.to(tl.int32), 2048, mask=member)
    return counts


@triton.jit
def _pick(counts, wanted):
    """The largest digit d with #(>= d) >= wanted, and wanted - #(> d)."""
    digits = tl.arange(0, 2048)
    at_least = tl.cumsum(counts, 0, reverse=True)
    digit = tl.max(tl.where(at_least >= wanted, digits, 0), 0)
    return digit.to(tl.uint32), wanted - tl.sum(tl.where(digits > digit, counts, 0), 0)


@triton.jit
def _quota(kappa_ptr, n_valid):
    """Round half up in float64: in float32, 0.1 * 1000 would round towards 101 at a ceiling."""
    k = (tl.load(kappa_ptr).to(tl.float64) * n_valid.to(tl.float64) + 0.5).to(tl.int32)
    return tl.minimum(tl.maximum(k, 1), n_valid)


# ------------------------------------------------------------------ moments, controller, weights
@triton.jit
def _power_sums(deviation, member):
    d = tl.where(member, deviation, 0.0).to(tl.float64)
    return tl.sum(d, 0), tl.sum(d * d, 0)


@triton.jit
def _mean_std(total, square, count, nu):
    n = tl.maximum(count, 1).to(tl.float64)
    variance = tl.maximum(square - total * total / n, 0.0) / tl.maximum(n - 1.0, 1.0)
    return (nu + total / n).to(tl.float32), tl.sqrt(variance).to(tl.float32)


@triton.jit
def _next_kappa(kappa_ptr, n_valid, kept_std, batch_std, target_ratio, low, high, up, down):
    kappa = tl.load(kappa_ptr)
    wider, narrower = tl.minimum(high, up * kappa), tl.maximum(low, down * kappa)
    step = tl.where(kept_std < target_ratio * batch_std, wider, narrower)
    return tl.where(n_valid > 0, step, kappa)


@triton.jit
def _weights(
    x, tied, nu, kept_mean, kept_std, share, temperature, eps,
    WEIGHTING: tl.constexpr, TIES: tl.constexpr, NORMALIZE: tl.constexpr,
):  # fmt: skip
    if WEIGHTING == 1:  # linear
        w = x - nu
        if NORMALIZE:
            w = w / (kept_std + eps)
    else:
        w = tl.full(x.shape, 1.0, tl.float32)
        if WEIGHTING == 2:  # exponential
            w = tl.exp((x - kept_mean) / temperature)
        if TIES == 1:  # fraction
            w = tl.where(tied, w * share, w)
    return w


@triton.jit
def _kept_rows(key, threshold, seen_ties, room, WEIGHTING: tl.constexpr, TIES: tl.constexpr):
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
def _store_summary(
    stats_ptr, counts_ptr, nu, kept_mean, kept_std, batch_mean, batch_std, next_kappa, share,
    n_rows, quota, n_valid, n_above, n_tied,
):  # fmt: skip
    """Everything of Stat but the effective sample size (place 5), and everything of Count."""
    tl.store(stats_ptr, nu)
    tl.store(stats_ptr + 1, kept_mean)
    tl.store(stats_ptr + 2, kept_std)
    tl.store(stats_ptr + 3, batch_mean)
    tl.store(stats_ptr + 4, batch_std)
    tl.store(stats_ptr + 6, next_kappa)
    tl.store(stats_ptr + 7, share)
    tl.store(counts_ptr, n_rows)
    tl.store(counts_ptr + 1, quota)
    tl.store(counts_ptr + 2, n_valid)
    tl.store(counts_ptr + 3, n_above)
    tl.store(counts_ptr + 4, n_tied)


@triton.jit
def _store_ess(stats_ptr, total, square):
    ess = tl.where(square > 0.0, total * total / tl.where(square > 0.0, square, 1.0), 0.0)
    tl.store(stats_ptr + 5, ess.to(tl.float32))


# ------------------------------------------------------------------ one program, one launch
@triton.jit
def _select_kernel(
    quality_ptr, mask_ptr, kappa_ptr, index_ptr, weight_ptr, stats_ptr, counts_ptr, n,
    temperature, eps, target_ratio, low, high, up, down,
    HAS_MASK: tl.constexpr, WEIGHTING: tl.constexpr, TIES: tl.constexpr, NORMALIZE: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    prefix = tl.zeros((), tl.uint32)
    counts = _histogram(quality_ptr, mask_ptr, 0, n, n, prefix, 21, 32, HAS_MASK, TILE)
    n_valid = tl.sum(counts, 0)
    quota = _quota(kappa_ptr, n_valid)
    digit, room = _pick(counts, quota)
    prefix = digit << 21
    counts = _histogram(quality_ptr, mask_ptr, 0, n, n, prefix, 10, 21, HAS_MASK, TILE)
    digit, room = _pick(counts, room)
    prefix = prefix | (digit << 10)
    counts = _histogram(quality_ptr, mask_ptr, 0, n, n, prefix, 0, 10, HAS_MASK, TILE)
    digit, room = _pick(counts, room)
    threshold = prefix | digit
    # Nothing valid: a key that no finite number has, so that nothing is above or at it.
    threshold = tl.where(n_valid > 0, threshold, tl.full((), 0xFFFFFFFF, tl.uint32))
    nu = tl.where(n_valid > 0, _value_of(threshold), 0.0)

    kept_sum = tl.zeros((), tl.float64)
    kept_square = tl.zeros((), tl.float64)
    batch_sum = tl.zeros((), tl.float64)
    batch_square = tl.zeros((), tl.float64)
    n_above = tl.zeros((), tl.int32)
    n_tied = tl.zeros((), tl.int32)
    for s in range(0, n, TILE):
        x, key = _load(quality_ptr, mask_ptr, s + tl.arange(0, TILE), n, HAS_MASK)
        total, square = _power_sums(x - nu, key > threshold)
        kept_sum += total
        kept_square += square
        total, square = _power_sums(x - nu, key != 0)
        batch_sum += total
        batch_square += square
        n_above += tl.sum((key > threshold).to(tl.int32), 0)
        n_tied += tl.sum((key == threshold).to(tl.int32), 0)
    kept_mean, kept_std = _mean_std(kept_sum, kept_square, quota, nu)
    batch_mean, batch_std = _mean_std(batch_sum, batch_square, n_valid, nu)
    share = room.to(tl.float32) / tl.maximum(n_tied, 1).to(tl.float32)

    n_rows = tl.zeros((), tl.int32)
    seen_ties = tl.zeros((), tl.int32)
    weight_sum = tl.zeros((), tl.float64)
    weight_square = tl.zeros((), tl.float64)
    for s in range(0, n, TILE):
        rows = s + tl.arange(0, TILE)
        x, key = _load(quality_ptr, mask_ptr, rows, n, HAS_MASK)
        keep, tied, seen_ties = _kept_rows(key, threshold, seen_ties, room, WEIGHTING, TIES)
        w = _weights(
            x, tied, nu, kept_mean, kept_std, share, temperature, eps, WEIGHTING, TIES, NORMALIZE
        )
        place = n_rows + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(index_ptr + place, rows, mask=keep)
        tl.store(weight_ptr + place, w, mask=keep)
        total, square = _power_sums(w, keep)
        weight_sum += total
        weight_square += square
        n_rows += tl.sum(keep.to(tl.int32), 0)
    for s in range(0, n, TILE):  # the places behind the kept rows
        rows = s + tl.arange(0, TILE)
        behind = (rows >= n_rows) & (rows < n)
        tl.store(index_ptr + rows, tl.zeros((TILE,), tl.int32), mask=behind)
        tl.store(weight_ptr + rows, tl.zeros((TILE,), tl.float32), mask=behind)

    step = _next_kappa(kappa_ptr, n_valid, kept_std, batch_std, target_ratio, low, high, up, down)
    _store_summary(
        stats_ptr, counts_ptr, nu, kept_mean, kept_std, batch_mean, batch_std, step, share,
        n_rows, quota, n_valid, n_above, n_tied,
    )  # fmt: skip
    _store_ess(stats_ptr, weight_sum, weight_square)


# ------------------------------------------------------------------ many programs
@triton.jit
def _replay(histograms_ptr, kappa_ptr, DIGITS: tl.constexpr):
    """What the finished histograms say: the key's bits so far, places left, n_valid and quota."""
    bins = tl.arange(0, 2048)
    prefix = tl.zeros((), tl.uint32)
    room = tl.zeros((), tl.int32)
    n_valid = tl.zeros((), tl.int32)
    quota = tl.zeros((), tl.int32)
    if DIGITS > 0:
        counts = tl.load(histograms_ptr + bins)
        n_valid = tl.sum(counts, 0)
        quota = _quota(kappa_ptr, n_valid)
        digit, room = _pick(counts, quota)
        prefix = digit << 21
    if DIGITS > 1:
        digit, room = _pick(tl.load(histograms_ptr + 2048 + bins), room)
        prefix = prefix | (digit << 10)
    if DIGITS > 2:
        digit, room = _pick(tl.load(histograms_ptr + 4096 + bins), room)
        prefix = prefix | digit
        prefix = tl.where(n_valid > 0, prefix, tl.full((), 0xFFFFFFFF, tl.uint32))
    return prefix, room, n_valid, quota


@triton.jit
def _span_of(n, span):
    """First row and the end of this program's consecutive rows, int64."""
    start = tl.program_id(0).to(tl.int64) * span
    return start, tl.minimum(start + span, n)


@triton.jit
def _histogram_kernel(
    quality_ptr, mask_ptr, kappa_ptr, histograms_ptr, n, span,
    DIGIT: tl.constexpr, HAS_MASK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    prefix, _, _, _ = _replay(histograms_ptr, kappa_ptr, DIGIT)
    start, stop = _span_of(n, span)
    if DIGIT == 0:
        counts = _histogram(quality_ptr, mask_ptr, start, stop, n, prefix, 21, 32, HAS_MASK, TILE)
    elif DIGIT == 1:
        counts = _histogram(quality_ptr, mask_ptr, start, stop, n, prefix, 10, 21, HAS_MASK, TILE)
    else:
        counts = _histogram(quality_ptr, mask_ptr, start, stop, n, prefix, 0, 10, HAS_MASK, TILE)
    target = histograms_ptr + DIGIT * 2048 + tl.arange(0, 2048)
    tl.atomic_add(target, counts, mask=counts > 0, sem="relaxed")  # integers: any order, one sum


@triton.jit
def _moments_kernel(
    quality_ptr, mask_ptr, kappa_ptr, histograms_ptr, sums_ptr, tallies_ptr, n, span,
    SLOTS: tl.constexpr, HAS_MASK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    threshold, _, n_valid, _ = _replay(histograms_ptr, kappa_ptr, 3)
    nu = tl.where(n_valid > 0, _value_of(threshold), 0.0)
    start, stop = _span_of(n, span)
    kept_sum = tl.zeros((), tl.float64)
    kept_square = tl.zeros((), tl.float64)
    batch_sum = tl.zeros((), tl.float64)
    batch_square = tl.zeros((), tl.float64)
    n_above = tl.zeros((), tl.int32)
    n_tied = tl.zeros((), tl.int32)
    for s in range(start, stop, TILE):
        x, key = _load(quality_ptr, mask_ptr, s + tl.arange(0, TILE), n, HAS_MASK)
        total, square = _power_sums(x - nu, key > threshold)
        kept_sum += total
        kept_square += square
        total, square = _power_sums(x - nu, key != 0)
        batch_sum += total
        batch_square += square
        n_above += tl.sum((key > threshold).to(tl.int32), 0)
        n_tied += tl.sum((key == threshold).to(tl.int32), 0)
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


@triton.jit
def _emit_kernel(
    quality_ptr, mask_ptr, kappa_ptr, histograms_ptr, sums_ptr, tallies_ptr,
    index_ptr, weight_ptr, stats_ptr, counts_ptr, n, span,
    temperature, eps, target_ratio, low, high, up, down,
    HAS_MASK: tl.constexpr, WEIGHTING: tl.constexpr, TIES: tl.constexpr, NORMALIZE: tl.constexpr,
    SLOTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    threshold, room, n_valid, quota = _replay(histograms_ptr, kappa_ptr, 3)
    nu = tl.where(n_valid > 0, _value_of(threshold), 0.0)
    slots = tl.arange(0, SLOTS)
    live = slots < tl.num_programs(0)
    kept_mean, kept_std = _mean_std(
        _slot_sum(sums_ptr, live, SLOTS), _slot_sum(sums_ptr + SLOTS, live, SLOTS), quota, nu
    )
    above = tl.load(tallies_ptr + slots, mask=live, other=0)
    ties = tl.load(tallies_ptr + SLOTS + slots, mask=live, other=0)
    n_above, n_tied = tl.sum(above, 0), tl.sum(ties, 0)
    share = room.to(tl.float32) / tl.maximum(n_tied, 1).to(tl.float32)

    # Rows that the programs before this one emit.
    earlier = slots < tl.program_id(0)
    place = tl.sum(tl.where(earlier, above, 0), 0)
    seen_ties = tl.sum(tl.where(earlier, ties, 0), 0)
    n_rows = n_above
    if WEIGHTING != 1:
        if TIES == 0:
            place += tl.minimum(seen_ties, room)
            n_rows += room
        else:
            place += seen_ties
            n_rows += n_tied

    weight_sum = tl.zeros((), tl.float64)
    weight_square = tl.zeros((), tl.float64)
    start, stop = _span_of(n, span)
    for s in range(start, stop, TILE):
        rows = s + tl.arange(0, TILE)
        x, key = _load(quality_ptr, mask_ptr, rows, n, HAS_MASK)
        keep, tied, seen_ties = _kept_rows(key, threshold, seen_ties, room, WEIGHTING, TIES)
        w = _weights(
            x, tied, nu, kept_mean, kept_std, share, temperature, eps, WEIGHTING, TIES, NORMALIZE
        )
        target = place + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(index_ptr + target, rows.to(tl.int32), mask=keep)
        tl.store(weight_ptr + target, w, mask=keep)
        total, square = _power_sums(w, keep)
        weight_sum += total
        weight_square += square
        place += tl.sum(keep.to(tl.int32), 0)
    slot = tl.program_id(0)
    tl.store(sums_ptr + 4 * SLOTS + slot, weight_sum)
    tl.store(sums_ptr + 5 * SLOTS + slot, weight_square)

    if slot == 0:
        batch_mean, batch_std = _mean_std(
            _slot_sum(sums_ptr + 2 * SLOTS, live, SLOTS),
            _slot_sum(sums_ptr + 3 * SLOTS, live, SLOTS),
            n_valid, nu,
        )  # fmt: skip
        step = _next_kappa(
            kappa_ptr, n_valid, kept_std, batch_std, target_ratio, low, high, up, down
        )
        _store_summary(
            stats_ptr, counts_ptr, nu, kept_mean, kept_std, batch_mean, batch_std, step, share,
            n_rows, quota, n_valid, n_above, n_tied,
        )  # fmt: skip


@triton.jit
def _finish_kernel(sums_ptr, stats_ptr, programs, SLOTS: tl.constexpr):
    live = tl.arange(0, SLOTS) < programs
    _store_ess(
        stats_ptr,
        _slot_sum(sums_ptr + 4 * SLOTS, live, SLOTS),
        _slot_sum(sums_ptr + 5 * SLOTS, live, SLOTS),
    )
