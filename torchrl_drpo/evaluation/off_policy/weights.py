r"""What becomes of an importance weight: of log w = log pi_e - log pi_b, one number a row.

Every control of a large weight trades a bias for variance; each function says which rows it lowers.
All take ``log_ratio``, any shape, and return weights of that shape, at least 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def importance_weights(log_ratio: Tensor) -> Tensor:
    """W itself.

    Example:
        >>> importance_weights(torch.tensor([0.0, -torch.inf]))
        tensor([1., 0.])
    """
    return log_ratio.exp()


def clipped_weights(log_ratio: Tensor, cap: float) -> Tensor:
    """min(w, cap): truncated importance sampling (Ionides 2008).

    Example:
        >>> clipped_weights(torch.tensor([0.0, 5.0]), cap=10.0)
        tensor([ 1., 10.])
    """
    _check_above_zero("cap", cap)
    return log_ratio.clamp(max=math.log(cap)).exp()


def switched_weights(log_ratio: Tensor, cap: float) -> Tensor:
    """W where it is at most ``cap``, else 0: the model speaks there (Wang et al. 2017).

    Example:
        >>> switched_weights(torch.tensor([0.0, 5.0]), cap=10.0)
        tensor([1., 0.])
    """
    _check_above_zero("cap", cap)
    return torch.where(log_ratio <= math.log(cap), log_ratio, -torch.inf).exp()


def shrunk_weights(log_ratio: Tensor, strength: float) -> Tensor:
    r""":math:`\lambda w / (w^2 + \lambda)`, at most half the root of lambda (Su et al. 2020).

    Not monotone: the largest weights have the least say. A strength of 0 leaves the model alone,
    infinity the weight as it is.

    Example:
        >>> shrunk_weights(torch.tensor([0.0, math.log(3.0)]), strength=9.0)
        tensor([0.9000, 1.5000])
    """
    if not strength >= 0:
        raise ValueError(f"strength must be at least 0, got {strength}")
    if strength == 0:
        return torch.zeros_like(log_ratio)
    # 1 / (1/w + w/lambda), a sum in logarithms: neither term is lost beside the other.
    return torch.logaddexp(-log_ratio, log_ratio - math.log(strength)).neg().exp()


def subgaussian_weights(log_ratio: Tensor, strength: float) -> Tensor:
    r""":math:`w / (1 - \lambda + \lambda w)`, at most 1 / lambda (Metelli et al. 2021).

    Example:
        >>> subgaussian_weights(torch.tensor([0.0, math.log(3.0)]), strength=0.5)
        tensor([1.0000, 1.5000])
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    if strength == 0:
        return log_ratio.exp()
    if strength == 1:
        return torch.where(log_ratio > -torch.inf, 1.0, 0.0).to(log_ratio.dtype)
    one = torch.full_like(log_ratio, math.log(strength))
    return torch.logaddexp(math.log1p(-strength) - log_ratio, one).neg().exp()


def _check_above_zero(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")
