r"""Tapers: the weight w(D) in [0, 1] of a repulsive sample at remoteness D.

With :math:`x = [(D - \text{threshold}) / \text{scale}]_+` and a strength :math:`\lambda`:

===========================  ==============================  ====================================
exponential                  exp(-lambda x)                  D^k w -> 0 for every k
reciprocal, order 2          1 / (1 + lambda x)              w D stays bounded
reciprocal, order 1          1 / (1 + lambda sqrt(x))        w -> 0, but w D grows
hard cut-off                 1 while D <= threshold          nothing beyond
===========================  ==============================  ====================================

All are exactly 1 up to the threshold. Strength 0 is the untapered signed loss; an infinite strength
would keep the near field only, which is not the positive-only objective. A taper reweights, it is
no distance penalty: no gradient flows through it.

The functions are the formulas; the frozen dataclasses of the same names hold their numbers, so
that a loss can be given one: ``taper(remoteness) -> weight``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.functional.precision import at_least_float32

Order = float | Literal["linear", "quadratic"]
_ORDERS = {"linear": 1.0, "quadratic": 2.0}


def exponential_taper(
    remoteness: Tensor, *, strength: float, scale: float, threshold: float | Tensor
) -> Tensor:
    r"""Exponential taper, :math:`w = \exp(-\lambda x)`: the remoteness-aware weight.

    The only one here that tames every power of the distance. With ``threshold`` 0 it is the
    squared-distance exponential; with the behaviour policy's surprisal as the threshold, and
    strength and scale 1, it is TOPR's truncated ratio (arXiv 2503.14286).

    Args:
        remoteness: D, shape ``[*B]``.
        strength: lambda, at least 0.
        scale: c, in units of D, above 0.
        threshold: D up to which w is 1; a number, or a tensor that broadcasts to ``[*B]``.

    Returns:
        w, in [0, 1], float32 or better, detached, shape ``[*B]``.

    Raises:
        ValueError: if ``strength`` or ``scale`` is out of range.

    >>> import torch
    >>> exponential_taper(torch.tensor([0.5, 1.0, 3.0]), strength=1.0, scale=2.0, threshold=1.0)
    tensor([1.0000, 1.0000, 0.3679])
    """
    excess = _excess(remoteness, strength, scale, threshold)
    if strength == 0:  # also where D is infinite, which 0 * inf would make NaN
        return torch.ones_like(excess)
    return torch.exp(-strength * excess)


def reciprocal_taper(
    remoteness: Tensor,
    *,
    order: Order,
    strength: float,
    scale: float,
    threshold: float | Tensor,
) -> Tensor:
    r"""Reciprocal taper, :math:`w = 1 / (1 + \lambda x^{p/2})`.

    The order p is that of the *distance*, and D is a squared distance already: ``"linear"`` (1)
    falls as 1/distance, ``"quadratic"`` (2) as 1/distance squared.

    Args:
        remoteness: D, shape ``[*B]``.
        order: ``"linear"``, ``"quadratic"``, or any p above 0.
        strength: lambda, at least 0.
        scale: c, in units of D, above 0.
        threshold: D up to which w is 1; a number, or a tensor that broadcasts to ``[*B]``.

    Returns:
        w, in [0, 1], float32 or better, detached, shape ``[*B]``.

    Raises:
        ValueError: if ``order``, ``strength`` or ``scale`` is out of range.

    >>> import torch
    >>> far = torch.tensor([0.0, 4.0])
    >>> reciprocal_taper(far, order="linear", strength=1.0, scale=1.0, threshold=0.0)
    tensor([1.0000, 0.3333])
    >>> reciprocal_taper(far, order="quadratic", strength=1.0, scale=1.0, threshold=0.0)
    tensor([1.0000, 0.2000])
    """
    power = _power(order)
    excess = _excess(remoteness, strength, scale, threshold)
    if strength == 0:
        return torch.ones_like(excess)
    return 1.0 / (1.0 + strength * excess.pow(power / 2))


def hard_cutoff(remoteness: Tensor, *, threshold: float | Tensor) -> Tensor:
    """Hard cut-off: 1 while D <= threshold, 0 beyond.

    Args:
        remoteness: D, shape ``[*B]``.
        threshold: the last D that counts; a number, or a tensor that broadcasts to ``[*B]``.

    Returns:
        w, 0 or 1, float32 or better, detached, shape ``[*B]``; NaN where D is NaN, so that a
        broken remoteness does not pass for a distant sample.

    >>> import torch
    >>> hard_cutoff(torch.tensor([0.5, 1.0, 1.5]), threshold=1.0)
    tensor([1., 1., 0.])
    """
    remoteness = at_least_float32(remoteness.detach())
    within = (remoteness <= threshold).to(remoteness.dtype)
    return torch.where(remoteness.isnan(), remoteness, within)


def exponential_strength(anchor: float) -> float:
    """Strength of an exponential taper whose weight is ``anchor`` at D = threshold + scale.

    >>> round(exponential_strength(0.5), 4)
    0.6931
    """
    return -math.log(_checked_anchor(anchor))


def reciprocal_strength(anchor: float) -> float:
    """Strength of a reciprocal taper, of any order, whose weight is ``anchor`` there.

    >>> reciprocal_strength(0.25)
    3.0
    """
    return 1.0 / _checked_anchor(anchor) - 1.0


@dataclass(frozen=True)
class ExponentialTaper:
    """The numbers of :func:`exponential_taper`; call it with a remoteness ``[*B]``.

    Attributes:
        strength: lambda, at least 0.
        scale: c, in units of D, above 0.
        threshold: D up to which the weight is 1.

    >>> import torch
    >>> taper = ExponentialTaper.from_anchor(0.5, scale=2.0, threshold=1.0)
    >>> taper(torch.tensor([1.0, 3.0, 5.0]))
    tensor([1.0000, 0.5000, 0.2500])
    """

    strength: float = 1.0
    scale: float = 1.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        _check_range(self.strength, self.scale, self.threshold)

    @classmethod
    def from_anchor(
        cls, anchor: float, *, scale: float = 1.0, threshold: float = 0.0
    ) -> ExponentialTaper:
        """The taper whose weight is ``anchor``, in (0, 1], at D = threshold + scale."""
        return cls(exponential_strength(anchor), scale, threshold)

    def __call__(self, remoteness: Tensor) -> Tensor:
        """The weight in [0, 1] of each remoteness D, shape ``[*B]``."""
        return exponential_taper(
            remoteness, strength=self.strength, scale=self.scale, threshold=self.threshold
        )


@dataclass(frozen=True)
class ReciprocalTaper:
    """The numbers of :func:`reciprocal_taper`; call it with a remoteness ``[*B]``.

    Attributes:
        order: ``"linear"``, ``"quadratic"``, or any order above 0 in the distance.
        strength: lambda, at least 0.
        scale: c, in units of D, above 0.
        threshold: D up to which the weight is 1.

    >>> import torch
    >>> ReciprocalTaper(order="quadratic", strength=3.0)(torch.tensor([0.0, 1.0, 3.0]))
    tensor([1.0000, 0.2500, 0.1000])
    """

    order: Order = "quadratic"
    strength: float = 1.0
    scale: float = 1.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        _power(self.order)
        _check_range(self.strength, self.scale, self.threshold)

    @classmethod
    def from_anchor(
        cls,
        anchor: float,
        *,
        order: Order = "quadratic",
        scale: float = 1.0,
        threshold: float = 0.0,
    ) -> ReciprocalTaper:
        """The taper whose weight is ``anchor``, in (0, 1], at D = threshold + scale."""
        return cls(order, reciprocal_strength(anchor), scale, threshold)

    def __call__(self, remoteness: Tensor) -> Tensor:
        """The weight in [0, 1] of each remoteness D, shape ``[*B]``."""
        return reciprocal_taper(
            remoteness,
            order=self.order,
            strength=self.strength,
            scale=self.scale,
            threshold=self.threshold,
        )


@dataclass(frozen=True)
class HardCutoff:
    """The number of :func:`hard_cutoff`; call it with a remoteness ``[*B]``.

    Attributes:
        threshold: the last D that counts.

    >>> import torch
    >>> HardCutoff(threshold=2.0)(torch.tensor([1.0, 2.0, 3.0]))
    tensor([1., 1., 0.])
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        _check_range(0.0, 1.0, self.threshold)

    def __call__(self, remoteness: Tensor) -> Tensor:
        """The weight in [0, 1] of each remoteness D, shape ``[*B]``."""
        return hard_cutoff(remoteness, threshold=self.threshold)


def _excess(remoteness: Tensor, strength: float, scale: float, threshold: float | Tensor) -> Tensor:
    """The excess x = [(D - threshold) / scale]+, detached; NaN stays NaN."""
    _check_range(strength, scale)
    remoteness = at_least_float32(remoteness.detach())
    if isinstance(threshold, Tensor):
        threshold = threshold.detach()
    return ((remoteness - threshold) / scale).clamp_min(0.0)


def _check_range(strength: float, scale: float, threshold: float = 0.0) -> None:
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength must be a finite number of at least 0, got {strength}")
    if not -math.inf < threshold < math.inf:
        raise ValueError(f"threshold must be a finite number, got {threshold}")
    check_positive("scale", scale)


def _power(order: Order) -> float:
    if isinstance(order, str):
        if order not in _ORDERS:
            raise ValueError(f"order must be one of {sorted(_ORDERS)} or a number, got {order!r}")
        return _ORDERS[order]
    check_positive("order", order)
    return order


def _checked_anchor(anchor: float) -> float:
    if not 0 < anchor <= 1:
        raise ValueError(
            f"anchor must lie in (0, 1], got {anchor}; it is the weight at threshold + scale"
        )
    return anchor
