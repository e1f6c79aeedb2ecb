"""Radix selection of the K-th largest float32: ordered keys, histograms of digits, the quota.

A key is 32 bits. Three histograms fix 11, 11 and 10 of them, most significant first: fewer passes
than 8-bit digits need, and the exponents of real data spread over more bins.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl

#: Bins of a histogram: 11 bits a digit.
BINS = tl.constexpr(2048)


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
    quality_ptr, mask_ptr, start, stop, n, prefix,
    SHIFT: tl.constexpr, FIXED: tl.constexpr, HAS_MASK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Counts of the digit [SHIFT, FIXED) among rows whose bits from FIXED up equal the prefix."""
    counts = tl.zeros((BINS,), tl.int32)
    for s in range(start, stop, TILE):
        _, key = load_keys(quality_ptr, mask_ptr, s + tl.arange(0, TILE), n, HAS_MASK)
        member = key != 0
        if FIXED < 32:
            member = member & ((key >> FIXED) == (prefix >> FIXED))
        digit = (key >> SHIFT) & ((1 << (FIXED - SHIFT)) - 1)
        counts += tl.histogram(digit.to(tl.int32), BINS, mask=member)
    return counts


@triton.jit
def pick(counts, wanted):
    """The largest digit d with #(>= d) >= wanted, and wanted - #(> d)."""
    digits = tl.arange(0, BINS)
    at_least = tl.cumsum(counts, 0, reverse=True)
    digit = tl.max(tl.where(at_least >= wanted, digits, 0), 0)
    return digit.to(tl.uint32), wanted - tl.sum(tl.where(digits > digit, counts, 0), 0)


@triton.jit
def quota_of(kappa_ptr, n_valid):
    """Rounds half up in float64; the factor is DECIMAL of rule.py."""
    exact = n_valid.to(tl.float64) * tl.load(kappa_ptr).to(tl.float64) * (1.0 + 2.0**-24)
    k = (exact + 0.5).to(tl.int32)
    return tl.minimum(tl.maximum(k, 1), n_valid)
