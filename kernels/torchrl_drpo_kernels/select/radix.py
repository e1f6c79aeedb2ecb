"""Radix selection of the K-th largest float32: ordered keys, histograms of digits, the quota.

A key is 32 bits; four histograms fix 8 of them each, most significant first. A warp counts 256
bins with some forty instructions for 32 rows. With 11 bits, which need one pass less, it took
hundreds: on an H200, 1,000,000 rows took 290 us.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl

#: Digits of a key, bits of a digit, and bins of a histogram.
DIGITS, BITS, BINS = tl.constexpr(4), tl.constexpr(8), tl.constexpr(256)


@triton.jit
def ordered_key(x, valid):
    """uint32 that orders like x; 0 for an invalid, NaN or infinite x, which no finite x maps to."""
    x = tl.where(x == 0.0, 0.0, x)  # -0.0 ties with +0.0
    bits = x.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, ~bits, bits ^ -2147483648).to(tl.uint32, bitcast=True)
    return tl.where(valid & (tl.abs(x) < float("inf")), key, tl.zeros_like(key))


@triton.jit
def value_of(key):
    """The float32 that a key stands for."""
    bits = key.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ -2147483648, ~bits).to(tl.float32, bitcast=True)


@triton.jit
def load_keys(quality_ptr, mask_ptr, offsets, n, HAS_MASK: tl.constexpr):
    """Values and keys of a tile; rows from n on, and masked ones, have key 0."""
    inside = offsets < n
    x = tl.load(quality_ptr + offsets, mask=inside, other=0.0)
    valid = inside
    if HAS_MASK:
        valid = valid & (tl.load(mask_ptr + offsets, mask=inside, other=0))
    return x, ordered_key(x, valid)


@triton.jit
def histogram(
    quality_ptr, mask_ptr, start, stop, n, prefix, known, shift,
    HAS_MASK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Counts of the digit that starts at bit ``shift``.

    Among rows whose bits before it, those set in ``known``, are the prefix's.
    """
    counts = tl.zeros((BINS,), tl.int32)
    for s in range(start, stop, TILE):
        _, key = load_keys(quality_ptr, mask_ptr, s + tl.arange(0, TILE), n, HAS_MASK)
        member = (key != 0) & (((key ^ prefix) & known) == 0)
        digit = (key >> shift) & (BINS - 1)
        counts += tl.histogram(digit.to(tl.int32), BINS, mask=member)
    return counts


@triton.jit
def pick(counts, wanted, prefix, shift):
    """The largest digit d with #(>= d) >= wanted, behind the prefix, and wanted - #(> d)."""
    at_least = tl.cumsum(counts, 0, reverse=True)
    reaches = at_least >= wanted
    digit = tl.maximum(tl.sum(reaches.to(tl.int32), 0) - 1, 0)
    above = tl.max(tl.where(reaches, 0, at_least), 0)
    return prefix | (digit.to(tl.uint32) << shift), wanted - above


@triton.jit
def threshold_of(prefix, n_valid):
    """Key and value of the K-th largest; where no row is valid, a key that no finite number has."""
    threshold = tl.where(n_valid > 0, prefix, tl.full((), 0xFFFFFFFF, tl.uint32))
    return threshold, tl.where(n_valid > 0, value_of(prefix), 0.0)


@triton.jit
def quota_of(kappa_ptr, n_valid):
    """Rounds half up in float64; the factor is DECIMAL of rule.py."""
    exact = n_valid.to(tl.float64) * tl.load(kappa_ptr).to(tl.float64) * (1.0 + 2.0**-24)
    k = (exact + 0.5).to(tl.int32)
    return tl.minimum(tl.maximum(k, 1), n_valid)
