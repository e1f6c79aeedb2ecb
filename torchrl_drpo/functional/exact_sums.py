r"""Sums that have the same bits in whatever order, and in however many parts, they are taken.

Floating-point sums depend on their order, integer sums do not. A number below :math:`2^e` is
written as three integers of 31 bits on the grid :math:`2^{e-93}`; these add up exactly, up to
2^32 rows, and only their totals become a float64 again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.functional.masks import filled

LIMBS = 3
_BITS = 31
_SCALE = float(2**_BITS)
#: Below this the square of a unit would leave float64's normal numbers.
_LEAST = -500


def exponent_of(reach: Tensor) -> Tensor:
    """The least e with ``reach < 2**e``, int64; ``reach`` is float64, at least 0 and finite.

    >>> exponent_of(torch.tensor([3.0, 4.0], dtype=torch.float64))
    tensor([2, 3])
    """
    return torch.frexp(reach).exponent.long().clamp_min(_LEAST)


def limb_sums(terms: Tensor, exponent: Tensor) -> Tensor:
    """Exact sums of float64 terms as integers, which add up over parts of a batch.

    Args:
        terms: ``[..., N]``, each below ``2**exponent`` in absolute value.
        exponent: int64 ``[...]``.

    Returns:
        int64 ``[..., 3]``.
    """
    left = terms * _power_of_two(_BITS - exponent)[..., None]
    sums = []
    for _ in range(LIMBS):
        whole = torch.round(left)
        sums.append(whole.long().sum(-1))
        left = (left - whole) * _SCALE  # exact: the rest is a multiple of the last bit
    return torch.stack(sums, -1)


def total_of_limbs(limbs: Tensor, exponent: Tensor) -> Tensor:
    """The float64 sum ``[...]`` that the integers ``[..., 3]`` stand for.

    >>> terms = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    >>> e = exponent_of(terms.max())
    >>> total_of_limbs(limb_sums(terms, e), e).item()
    0.6
    """
    high, middle, low = limbs.double().unbind(-1)
    total = high + (middle + low / _SCALE) / _SCALE
    return total * _power_of_two(exponent - _BITS)


def moment_terms(values: Tensor, mass: Tensor | None, shift: Tensor) -> Tensor:
    """What a mean and a standard deviation add up: ``m``, ``m x`` and ``m x^2``, ``[3, N]``.

    Args:
        values: ``[N]``; rows without mass may hold anything.
        mass: how often each row counts, in [0, 1] or boolean, ``[N]``; ``None`` for once each.
        shift: x is the value minus this, float64.
    """
    if mass is None:
        excess = values.double() - shift
        return torch.stack([torch.ones_like(excess), excess, excess.square()])
    weight = mass.double()
    excess = filled(values.double() - shift, weight > 0, 0.0)
    return torch.stack([weight, weight * excess, weight * excess.square()])


def moment_exponents(reach: Tensor) -> Tensor:
    """Exponents of :func:`moment_terms` for values within ``reach`` of the shift, ``[3]``."""
    e = exponent_of(reach)
    return torch.stack([torch.ones_like(e), e, 2 * e])


def mean_and_std(count: Tensor, total: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """Mean excess over the shift and sample standard deviation, float64.

    Both are 0 without rows, the second also where the mass is at most 1.
    """
    mean = total / count.clamp_min(1.0)
    variance = (squares - total * mean).clamp_min(0.0) / (count - 1.0).clamp_min(1.0)
    return mean, variance.sqrt()


def _power_of_two(exponent: Tensor) -> Tensor:
    """2**e in float64, exactly, for e of normal numbers."""
    return ((exponent + 1023) << 52).view(torch.float64)
