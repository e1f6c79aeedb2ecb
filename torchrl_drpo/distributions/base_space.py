"""Where a distribution's randomness lives: behind ``Independent`` and transforms, in a base space.

A squashed Gaussian's location and scale are those of the normal distribution before the tanh, so
an action has to go back through the transforms before it is held against them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)
from torchrl.modules.distributions import LLMMaskedCategorical, TruncatedNormal

from torchrl_drpo.functional.precision import at_least_float32


def to_base_space(dist: Distribution, value: Tensor) -> tuple[Distribution, Tensor] | None:
    """The innermost distribution, and the value that an action has there.

    Args:
        dist: any distribution.
        value: actions, of the shape of its draws.

    Returns:
        ``None`` where a transform cannot be undone.

    Examples:
        >>> from torchrl.modules import TanhNormal
        >>> dist = TanhNormal(torch.zeros(1), torch.ones(1), low=0.0, high=10.0)
        >>> base, value = to_base_space(dist, torch.tensor([5.0]))
        >>> type(base).__name__, value
        ('Normal', tensor([0.]))
    """
    while True:
        if isinstance(dist, TruncatedNormal):  # its own base is a normal distribution cut off
            return Normal(dist.base_dist.loc, dist.base_dist.scale, validate_args=False), value
        if isinstance(dist, TransformedDistribution):
            for transform in reversed(dist.transforms):
                if not transform.bijective:
                    return None
                value = transform.inv(value)
        elif not isinstance(dist, Independent):
            return dist, value
        dist = dist.base_dist


def whitened(dist: Distribution, value: Tensor) -> Tensor | None:
    r"""An action in units of a Gaussian's own spread, :math:`\Sigma^{-1/2}(x - \mu)`.

    Args:
        dist: Gaussian in its base space: ``Normal``, ``MultivariateNormal``, TorchRL's
            ``IndependentNormal``, ``TanhNormal`` and ``TruncatedNormal`` (by the normal
            distribution that was cut off), and what else is made of them.
        value: actions, of the shape of its draws.

    Returns:
        A tensor of the base space's shape, float32 or wider, detached; ``None`` for a distribution
        that is no Gaussian.

    Examples:
        >>> from torchrl.modules import TanhNormal
        >>> dist = TanhNormal(torch.tensor([2.0]), torch.tensor([0.5]))
        >>> whitened(dist, torch.tensor([2.5]).tanh()).round(decimals=4)
        tensor([1.])
    """
    with torch.no_grad():
        found = to_base_space(dist, value)
        if found is None:
            return None
        base, value = found
        if isinstance(base, Normal):
            loc, scale = at_least_float32(base.loc), at_least_float32(base.scale)
            return (at_least_float32(value) - loc) / scale
        if isinstance(base, (MultivariateNormal, LowRankMultivariateNormal)):
            apart = at_least_float32(value) - at_least_float32(base.loc)
            factor = at_least_float32(base.scale_tril)
            return torch.linalg.solve_triangular(factor, apart.unsqueeze(-1), upper=False).squeeze(
                -1
            )
    return None


def is_discrete(dist: Distribution, value: Tensor) -> bool:
    """Whether actions are choices, each with a probability and no density."""
    if not value.is_floating_point():
        return True
    found = to_base_space(dist, value)
    try:  # one-hot choices may be stored as floats
        return found is not None and found[0].support.is_discrete
    except (NotImplementedError, AttributeError):
        return False


def choices(dist: Distribution, action: Tensor | None = None) -> Tensor | int:
    """How many choices a discrete action is made of, each with a surprisal of its own.

    A distribution over sequences says so itself, in ``num_choices`` or, where actions differ in
    length, in ``choices_of(action)``; an ``Independent`` over k categoricals makes k; every other
    action is one choice.

    Args:
        dist: a distribution of batch shape ``[*B]``.
        action: actions, of the shape of its draws.

    Returns:
        One number for all entries of the batch, or whole numbers of shape ``[*B]``.

    Examples:
        >>> from torch.distributions import Categorical
        >>> choices(Independent(Categorical(logits=torch.zeros(2, 3, 5)), 1))
        3
    """
    of_action = getattr(dist, "choices_of", None)
    if of_action is not None and action is not None:
        return of_action(action)
    own = getattr(dist, "num_choices", None)
    if own is not None:
        return own
    if isinstance(dist, LLMMaskedCategorical) and dist.position_level_masking:
        return dist.mask.long()
    count = 1
    while isinstance(dist, Independent):
        count *= dist.event_shape[: dist.reinterpreted_batch_ndims].numel()
        dist = dist.base_dist
    return count
