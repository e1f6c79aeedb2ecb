"""Randomness that is a function of (key, counter): it resumes from two integers, at any size.

A hash of the counter replaces a generator's state, and a keyed permutation of [0, n) replaces a
shuffled array of n entries, so an epoch over 50 million rows costs no memory and no set-up.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64; products wrap around
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685
# Four rounds make a pseudorandom permutation (Luby and Rackoff, SIAM J. Comput. 1988) where halves
# are large; small ones have few round functions and need more.
_ROUNDS, _ROUNDS_SMALL, _SMALL_HALF = 4, 12, 32


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

    A generalised Feistel network (Black and Rogaway, CT-RSA 2002) on the smallest rectangle
    a x b >= size with a near its root, walked until it is back inside: hardly ever twice.

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
    high = size.double().sqrt().long() + 1
    low = (size + high - 1) // high
    out = _network(index, high, low, key)
    outside = (out >= size).nonzero().squeeze(-1)
    while len(outside):
        parts = (torch.index_select(x, 0, outside) for x in (out, high, low, key, size))
        here, high_, low_, key_, size_ = parts
        walked = _network(here, high_, low_, key_)
        out.index_copy_(0, outside, walked)
        outside = torch.masked_select(outside, walked >= size_)
    return out


def _network(index: Tensor, high: Tensor, low: Tensor, key: Tensor) -> Tensor:
    """A bijection of [0, high * low), each entry's own: its rounds follow its size alone."""
    out = _rounds(index, high, low, key, range(0, _ROUNDS, 2))
    small = (high < _SMALL_HALF).nonzero().squeeze(-1)
    if len(small):
        parts = (torch.index_select(x, 0, small) for x in (out, high, low, key))
        out.index_copy_(0, small, _rounds(*parts, range(_ROUNDS, _ROUNDS_SMALL, 2)))
    return out


def _rounds(index: Tensor, high: Tensor, low: Tensor, key: Tensor, turns: range) -> Tensor:
    """Each half is shifted by a hash of the other, in turns."""
    left, right = index // low, index % low
    for turn in turns:
        left = (left + _positive(right, key + turn)) % high
        right = (right + _positive(left, key + turn + 1)) % low
    return left * low + right


def _positive(x: Tensor, key: Tensor) -> Tensor:
    return _shift(mix(x * _GAMMA + key), 2)
