"""Randomness that is a function of (key, counter): it resumes from two integers, at any size.

A hash of the counter replaces a generator's state, and a keyed permutation of [0, n) replaces a
shuffled array of n entries, so an epoch over 50 million rows costs no memory and no set-up.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64; products wrap around
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685
_ROUNDS = 4  # enough for a pseudorandom permutation (Luby and Rackoff, SIAM J. Comput. 1988)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical: torch's own shift keeps the sign


def mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014), int64 to int64, a bijection."""
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def uniform(key: int, counter: Tensor) -> Tensor:
    """float64 in [0, 1), one for each counter.

    >>> u = uniform(7, torch.arange(4))
    >>> bool(((0 <= u) & (u < 1)).all()), torch.equal(u[2:], uniform(7, torch.tensor([2, 3])))
    (True, True)
    """
    bits = mix(mix(torch.full_like(counter, key)) + counter * _GAMMA)
    return _shift(bits, 11).double() * 2.0**-53


def permute(index: Tensor, size: Tensor | int, key: Tensor | int) -> Tensor:
    """Where a keyed permutation of [0, size) sends each index.

    A balanced Feistel network over the next even number of bits, walked until it is back inside:
    fewer than four steps on average.

    Args:
        index: int64 ``[B]``, each in [0, size).
        size: int or int64 ``[B]``, at least 1: several permutations in one call.
        key: int or int64 ``[B]``.

    Returns:
        int64 ``[B]``, each in [0, size).

    Examples:
        >>> sorted(permute(torch.arange(10), 10, 3).tolist()) == list(range(10))
        True
    """
    size = torch.as_tensor(size, dtype=torch.int64).expand(index.shape)
    key = mix(torch.as_tensor(key, dtype=torch.int64).expand(index.shape) * _GAMMA + 1)
    half = _half_bits(size)
    out = _network(index, half, key)
    outside = (out >= size).nonzero().squeeze(-1)
    while len(outside):
        size_, half_, key_ = (torch.index_select(x, 0, outside) for x in (size, half, key))
        walked = _network(torch.index_select(out, 0, outside), half_, key_)
        out.index_copy_(0, outside, walked)
        outside = torch.masked_select(outside, walked >= size_)
    return out


def _half_bits(size: Tensor) -> Tensor:
    """Half of the even number of bits that index [0, size), at least 1."""
    bits = torch.zeros_like(size)
    for power in range(0, 62, 2):
        bits += (size > (1 << power)).long()
    return bits.clamp_min(1)


def _network(index: Tensor, half: Tensor, key: Tensor) -> Tensor:
    mask = (1 << half) - 1
    left, right = index >> half, index & mask
    for turn in range(_ROUNDS):
        left, right = right, left ^ (mix(right * _GAMMA + key + turn) & mask)
    return (left << half) | right
