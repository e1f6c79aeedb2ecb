"""From per-sample terms to one number, masks respected, in float32 or better."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_same_shape
from torchrl_drpo.functional.host import reads_are_free
from torchrl_drpo.functional.precision import at_least_float32


def weighted_nll(
    log_prob: Tensor,
    weight: Tensor,
    mask: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    r"""Weighted negative log-likelihood :math:`-\sum_i w_i \log\pi(a_i|s_i) / N`.

    Every objective of this package is this expression with its own rule for ``w``. The weights
    are constants: no gradient reaches whatever produced them. Rows of weight 0 may hold any
    log-probability, infinite ones included: they are selected away, not multiplied by zero.

    Args:
        log_prob: log-probability of each logged action, in nats, any shape.
        weight: weight of each sample, of the same shape; negative weights repel.
        mask: ``True`` where a sample counts. N is the number of samples that count.
        reduction: ``"mean"``, or ``"sum"`` to leave out the division by N.

    Returns:
        A 0-d tensor, float32 or wider; zero, with zero gradient, when nothing counts.

    Raises:
        ValueError: if the shapes differ or the reduction is unknown.

    Examples:
        >>> weighted_nll(torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 1.0]))
        tensor(2.5000)
    """
    check_same_shape(log_prob=log_prob, weight=weight, mask=mask)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    weight = weight.detach()
    total = _dot(log_prob, weight) if mask is None else None
    if total is None:
        skipped = weight == 0 if mask is None else (weight == 0) | ~mask
        kept = at_least_float32(log_prob.masked_fill(skipped, 0.0))
        if mask is not None:
            weight = torch.where(mask, weight, 0.0)  # a masked row may carry any weight, even NaN
        total = -(weight * kept).sum()
    if reduction == "sum":
        return total
    if mask is None:
        return total / max(log_prob.numel(), 1)
    return total / mask.sum().clamp_min(1)


def _dot(log_prob: Tensor, weight: Tensor) -> Tensor | None:
    """``-sum(weight * log_prob)`` in one operation, where nothing has to be selected away.

    A finite result says that there was no 0 * inf; both forms have the same gradient then.
    """
    if not (log_prob.ndim == 1 and log_prob.dtype == weight.dtype and reads_are_free(log_prob)):
        return None
    if log_prob.dtype not in (torch.float32, torch.float64):
        return None
    total = torch.dot(log_prob, -weight)
    return total if math.isfinite(total.item()) else None


def centred(values: Tensor, mass: Tensor | None = None) -> Tensor:
    """Values minus their mean, exact to the rounding of the *differences*.

    A mean of rewards near 1e7 is off by up to a half in float32, which is all of a difference that
    matters; so what the subtraction leaves has its own, small mean subtracted once more.

    Args:
        values: any shape; entries with mass 0 may be non-finite.
        mass: how often each entry counts (numbers or booleans), or ``None`` for once each.

    Returns:
        float32 or wider, of the shape of ``values``; 0 where the mass is.

    Examples:
        >>> centred(torch.tensor([1e7, 1e7 + 1, 1e7 + 3]))
        tensor([-1.3333, -0.3333,  1.6667])
    """
    values = at_least_float32(values)
    if mass is None:
        apart = values - values.mean()
        return apart - apart.mean()
    mass = mass.to(values.dtype)
    values, total = torch.where(mass > 0, values, 0.0), mass.sum().clamp_min(1.0)
    apart = torch.where(mass > 0, values - torch.sum(mass * values) / total, 0.0)
    return torch.where(mass > 0, apart - torch.sum(mass * apart) / total, 0.0)


def weighted_moments(values: Tensor, mass: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and sample standard deviation of rows that count ``mass`` times each.

    Two passes in float32 or better. The standard deviation divides by the total mass minus one;
    it is 0, not NaN, when that is not positive.

    Args:
        values: any shape; entries with mass 0 may be non-finite.
        mass: how often each entry counts (numbers or booleans), or ``None`` for once each.

    Returns:
        Two 0-d tensors.

    Examples:
        >>> weighted_moments(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
        (tensor(1.5000), tensor(0.7071))
    """
    values = at_least_float32(values)
    if mass is None and values.is_cpu and not torch.compiler.is_compiling():  # float64 inside
        std, mean = torch.std_mean(values, correction=min(1, values.numel() - 1))
        return mean, std
    if mass is None:
        mass = torch.ones_like(values)
    mass = mass.to(values.dtype)
    total = mass.sum()
    mean = torch.sum(mass * torch.where(mass > 0, values, 0.0)) / total.clamp_min(1.0)
    squares = torch.sum(mass * centred(values, mass).square())
    return mean, torch.sqrt(squares / (total - 1.0).clamp_min(1.0))
