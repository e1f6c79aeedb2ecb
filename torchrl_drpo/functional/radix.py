"""Order statistics from counts alone: digit by digit, the most significant first.

A float has a bit pattern that orders like it. The histogram of its first digit says in which bin
the k-th largest value lies and how many lie above; among the rows of that bin the next digit says
it more closely, and after the last one it is exact. Histograms of parts of a batch add up to that
of the whole, so nothing but counts need ever leave a process. No value is read back to the host.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Bits of each digit, most significant first.
DIGITS = {torch.float32: (11, 11, 10), torch.float64: (11, 11, 11, 11, 11, 9)}

_SIGN64 = -(2**63)


class Search(NamedTuple):
    """Where the values of several ranks are looked for.

    Attributes:
        prefix: the digits found so far, as the upper bits of a pattern, int64 ``[S]``.
        wanted: how many of the rows with these digits are still above or at the value, int64
            ``[S]``; in the end the number of places for the rows that tie with it.
        count: rows that share these digits, int64 ``[S]``; in the end the number of ties.
    """

    prefix: Tensor
    wanted: Tensor
    count: Tensor  # type: ignore[assignment]  # hides a method of tuple


def ordered_bits(values: Tensor) -> Tensor:
    """Bit patterns, int64, that order like float32 or float64 values when read as unsigned.

    -0.0 has the pattern of 0.0, for they are equal.

    >>> ordered_bits(torch.tensor([-1.0, -0.0, 0.0, 2.0])).tolist()
    [1082130431, 2147483648, 2147483648, 3221225472]
    """
    values = torch.where(values == 0, torch.zeros_like(values), values)
    if values.dtype == torch.float32:
        bits = values.view(torch.int32).long()
        return torch.where(bits < 0, ~bits, bits + 2**31)
    bits = values.view(torch.int64)
    return torch.where(bits < 0, ~bits, bits ^ _SIGN64)


def value_of_bits(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """The float32 or float64 values that :func:`ordered_bits` made these of.

    >>> value_of_bits(ordered_bits(torch.tensor([-1.5, 0.1])), torch.float32)
    tensor([-1.5000,  0.1000])
    """
    if dtype == torch.float32:
        signed = torch.where(bits >= 2**31, bits - 2**31, ~bits)
        return signed.int().view(torch.float32)
    return torch.where(bits < 0, bits ^ _SIGN64, ~bits).view(torch.float64)


def histogram(
    bits: Tensor, valid: Tensor, prefix: Tensor | None, shift: int, digit_bits: int
) -> Tensor:
    """How many valid rows have each value of a digit, among those with given digits before it.

    Args:
        bits: patterns of :func:`ordered_bits`, ``[N]``.
        valid: which rows count, bool ``[N]``.
        prefix: the digits before, ``[S]``; ``None`` for the first digit, where all rows are alike.
        shift: how many bits follow the digit.
        digit_bits: how many it has.

    Returns:
        int32 ``[S, 2**digit_bits]``, ``[1, ...]`` for the first digit: at most 2^31 rows.
    """
    bins = 1 << digit_bits
    digit = (bits >> shift) & (bins - 1)
    member = valid[None]
    if prefix is not None:
        above = shift + digit_bits
        member = member & ((bits >> above)[None] == (prefix >> above)[:, None])
    places = torch.where(member, digit[None], bins)
    counts = torch.zeros((len(places), bins + 1), dtype=torch.int32, device=bits.device)
    counts.scatter_add_(1, places, torch.ones_like(places, dtype=torch.int32))
    return counts[:, :bins].contiguous()


def narrowed(search: Search, counts: Tensor, shift: int) -> Search:
    """The search one digit further, from the counts of that digit, ``[S or 1, bins]``."""
    counts = counts.long().expand(len(search.wanted), -1)
    at_least = counts.flip(1).cumsum(1).flip(1)
    chosen = (at_least >= search.wanted.clamp_min(1)[:, None]).sum(1, keepdim=True) - 1
    chosen = chosen.clamp_min(0)  # without any row
    here = counts.gather(1, chosen).squeeze(1)
    above = at_least.gather(1, chosen).squeeze(1) - here
    prefix = search.prefix | (chosen.squeeze(1) << shift)
    return Search(prefix, search.wanted - above, here)
