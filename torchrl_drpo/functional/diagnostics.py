r"""Numbers that tell a healthy signed update from one about to run away.

All are detached, 0-d, in float32 or better, and read nothing back to the host. "Signed weights" are
the w of the step: positive rows attract the policy, negative ones repel it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_same_shape
from torchrl_drpo.functional.host import reads_are_free
from torchrl_drpo.functional.precision import at_least_float32

#: Sums of squares for which no single square and no squared sum leaves float32's range.
_SAFE_SQUARES = (1e-20, 1e20)


def effective_sample_size(weight: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Kish's effective sample size, :math:`(\sum|w|)^2 / \sum w^2`.

    Args:
        weight: weights, of any sign and any common scale, any shape.
        mask: ``True`` where a row counts.

    Returns:
        Between 1 and the number of valid rows; 0 when all weights are zero.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> effective_sample_size(torch.tensor([2.0, 2.0, 0.0, 0.0]))
    tensor(2.)
    """
    values = _valid(weight, mask).flatten()
    if reads_are_free(values):
        squares = torch.dot(values, values)
        if _SAFE_SQUARES[0] < squares.item() < _SAFE_SQUARES[1]:
            total: Tensor = torch.linalg.vector_norm(values, 1)
            return total.square() / squares
    magnitude = values.abs()
    if magnitude.numel() == 0:
        return magnitude.sum()
    # Scaled to a largest weight of 1: squares neither overflow nor vanish, and add up to 1 or more.
    magnitude /= magnitude.amax().clamp_min(torch.finfo(magnitude.dtype).tiny)
    total = magnitude.sum()
    return total * total / torch.dot(magnitude, magnitude).clamp_min(1)


def negative_mass_ratio(
    signed_weight: Tensor, mask: Tensor | None = None, *, dim: int | None = None
) -> Tensor:
    r"""Negative mass ratio :math:`\rho = q/p = E[A_-]/E[A_+]`: repulsive over attractive mass.

    Of the advantages it is rho, of the tapered signed weights the effective rho. Below 1 an
    untapered signed Gaussian has a stable mean, at 1 it drifts, above 1 it runs away.

    Args:
        signed_weight: advantages or signed weights, any shape.
        mask: ``True`` where a row counts.
        dim: the dimension to add up over; all of them by default.

    Returns:
        rho, at least 0; 0 without any mass, ``inf`` with negative mass only.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> negative_mass_ratio(torch.tensor([2.0, -1.0, 0.0]))
    tensor(0.5000)
    """
    weight = _valid(signed_weight, mask)
    repulsion, attraction = weight.clamp_max(0.0).sum(dim), weight.clamp_min(0.0).sum(dim)
    return torch.where(repulsion == 0, 0.0, -repulsion / attraction)


def repulsion_to_attraction(
    signed_weight: Tensor, score_norm: Tensor, mask: Tensor | None = None
) -> Tensor:
    r"""Force of the negatives over that of the positives, :math:`\sum w_- g / \sum w_+ g`.

    rho counts mass, this counts gradient: g is the norm of each sample's score, which grows with
    remoteness for a Gaussian (:func:`gaussian_score_norm`) and saturates for a categorical
    (:func:`categorical_score_norm`). Norms are added up, so directions do not cancel.

    Args:
        signed_weight: signed weights of the step, any shape.
        score_norm: g, at least 0, of the same shape.
        mask: ``True`` where a row counts.

    Returns:
        At least 0; 0 without any force, ``inf`` without attraction.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> repulsion_to_attraction(torch.tensor([1.0, -1.0]), torch.tensor([0.5, 4.0]))
    tensor(8.)
    """
    check_same_shape(signed_weight=signed_weight, score_norm=score_norm)
    weight = at_least_float32(signed_weight.detach())
    # 0 * inf: a sample without weight exerts no force, however far it lies.
    force = torch.where(weight == 0, 0.0, weight * at_least_float32(score_norm.detach()))
    return negative_mass_ratio(force, mask)


def taper_active_fraction(taper: Tensor, negative: Tensor, mask: Tensor | None = None) -> Tensor:
    """Share of the negative rows whose taper is below 1: 0 says that the taper did nothing.

    Args:
        taper: w(D) in [0, 1], any shape.
        negative: ``True`` where the advantage is negative.
        mask: ``True`` where a row counts.

    Returns:
        In [0, 1]; 0 when there is no negative row.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> taper_active_fraction(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([True, True, False]))
    tensor(0.5000)
    """
    check_same_shape(taper=taper, negative=negative, mask=mask)
    chosen = negative if mask is None else negative & mask
    return ((taper.detach() < 1) & chosen).sum() / chosen.sum().clamp_min(1)


def taper_retention(
    taper: Tensor,
    remoteness: Tensor,
    negative: Tensor,
    *,
    threshold: float,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean taper of the near (D <= threshold) and of the far negatives: what each field keeps.

    Args:
        taper: w(D) in [0, 1], any shape.
        remoteness: D of each row, of the same shape.
        negative: ``True`` where the advantage is negative.
        threshold: where near ends.
        mask: ``True`` where a row counts.

    Returns:
        ``(near, far)``, each in [0, 1]; 0 for a field without a negative row.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> taper, remoteness = torch.tensor([1.0, 0.8, 0.1]), torch.tensor([0.0, 1.0, 9.0])
    >>> taper_retention(taper, remoteness, torch.ones(3, dtype=torch.bool), threshold=1.0)
    (tensor(0.9000), tensor(0.1000))
    """
    check_same_shape(taper=taper, remoteness=remoteness, negative=negative, mask=mask)
    near = remoteness.detach() <= threshold
    return _mean_where(taper, negative & near, mask), _mean_where(taper, negative & ~near, mask)


def gaussian_score(action: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    r"""Score of a diagonal Gaussian in its mean and its log standard deviation.

    .. math:: \partial_\mu \log\pi = (a - \mu)/\sigma^2, \qquad
              \partial_{\log\sigma} \log\pi = z^2 - 1, \quad z = (a - \mu)/\sigma .

    A negative advantage turns both round: it pushes the mean away, raises sigma in the dimensions
    with \|z\| < 1 and lowers it in those with \|z\| > 1 (so far negatives shrink sigma).

    Source: arXiv 2602.10430, section 3.

    Args:
        action: logged actions, shape ``[*B, d]``.
        loc: means, shape ``[*B, d]``.
        scale: standard deviations, broadcastable to ``[*B, d]``.

    Returns:
        Two tensors of shape ``[*B, d]``, detached.

    >>> import torch
    >>> gaussian_score(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([0.5]))
    (tensor([8.]), tensor([15.]))
    """
    action, loc, scale = (at_least_float32(t.detach()) for t in (action, loc, scale))
    z = (action - loc) / scale
    return z / scale, z.square() - 1


def gaussian_score_norm(remoteness: Tensor) -> Tensor:
    r"""Norm of the whitened mean score, :math:`\|\Sigma^{1/2}\partial_\mu\log\pi\| = \sqrt D`.

    >>> import torch
    >>> gaussian_score_norm(torch.tensor([0.0, 9.0]))
    tensor([0., 3.])
    """
    return at_least_float32(remoteness.detach()).sqrt()


def categorical_score_norm(remoteness: Tensor) -> Tensor:
    r"""The score in the logit of the logged action, :math:`1 - \pi(a) = 1 - e^{-D}`.

    The whole score's norm lies within a factor of sqrt(2) above it: categorical gradients never
    explode, the probability collapses instead.

    >>> import math, torch
    >>> categorical_score_norm(torch.tensor([0.0, math.log(4.0)]))
    tensor([0.0000, 0.7500])
    """
    return -torch.expm1(-at_least_float32(remoteness.detach()))


def _valid(values: Tensor, mask: Tensor | None) -> Tensor:
    """Detached values in float32 or better, 0 where the mask is false."""
    check_same_shape(values=values, mask=mask)
    values = at_least_float32(values.detach())
    return values if mask is None else torch.where(mask, values, 0.0)


def _mean_where(values: Tensor, chosen: Tensor, mask: Tensor | None) -> Tensor:
    check_same_shape(values=values, chosen=chosen, mask=mask)
    chosen = chosen if mask is None else chosen & mask
    return _valid(values, chosen).sum() / chosen.sum().clamp_min(1)
