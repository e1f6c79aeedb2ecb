"""How far a logged action is from the policy: the distribution's business, asked in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from torchrl_drpo.functional.diagnostics import taper_active_fraction
from torchrl_drpo.functional.remoteness import categorical_remoteness, gaussian_remoteness

RemotenessKind = Literal["auto", "per_dimension"]


def remoteness_and_score(
    dist: Distribution,
    action: Tensor,
    log_prob: Tensor,
    kind: RemotenessKind = "auto",
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Remoteness D of each logged action and the magnitude of its score, both detached.

    A location and a scale make a distribution a Gaussian: D is the squared Mahalanobis distance,
    and the score with respect to the mean, in units of sigma, has length sqrt(D). A distribution
    with a ``remoteness(action)`` method says itself; for all others D is the surprisal, for
    sequences of tokens (semantic IDs) its mean over the tokens that count. Their score with
    respect to the chosen logit is 1 - pi(a).

    Args:
        dist: the policy's distribution, of batch shape ``[*B]``.
        action: the logged actions.
        log_prob: their log-probability, ``[*B]``, or ``[B]`` summed over a trajectory's steps; a
            trajectory's D is then the mean over its valid steps.
        kind: ``"per_dimension"`` divides a Gaussian's D by the dimension of the action.
        mask: valid steps.

    Returns:
        Two tensors of ``log_prob``'s shape.

    Raises:
        ValueError: for ``"per_dimension"`` with a policy that is not Gaussian.
    """
    if hasattr(dist, "loc") and hasattr(dist, "scale"):
        cheap = getattr(dist, "squared_distance", None)  # from the log-density
        if cheap is not None and dist.batch_shape == log_prob.shape:
            distance = cheap(log_prob).detach()
        else:
            distance = gaussian_remoteness(action, dist.loc, dist.scale)
            distance = _as_samples(distance, log_prob, mask)
        score = distance.sqrt()
        if kind == "per_dimension":
            distance = distance / action.shape[-1]
        return distance, score
    if kind == "per_dimension":
        raise ValueError(
            f"remoteness='per_dimension' is for Gaussian policies, got {type(dist).__name__}; "
            "use 'auto'"
        )
    own = getattr(dist, "remoteness", None)
    if own is not None:
        distance = _as_samples(own(action).detach(), log_prob, mask)
    else:
        distance = categorical_remoteness(log_prob) / _tokens_in(dist, log_prob, mask)
    return distance, -torch.expm1(log_prob)


def taper_negatives(
    weight: Tensor, taper: Callable[[Tensor], Tensor], distance: Tensor
) -> tuple[Tensor, Tensor]:
    """Signed weights with the negative ones tapered, and on what share the taper was active."""
    factor, negative = taper(distance), weight < 0
    active = taper_active_fraction(factor, negative)
    return torch.where(negative, weight * factor, weight), active


def check_remoteness_kind(kind: str) -> None:
    """Raises ``ValueError`` for an unknown kind."""
    if kind not in ("auto", "per_dimension"):
        raise ValueError(f"remoteness must be 'auto' or 'per_dimension', got {kind!r}")


def check_negative_scale(scale: float) -> None:
    """Raises ``ValueError`` for a factor on repulsion that is negative or not finite."""
    if not 0 <= scale < math.inf:
        raise ValueError(f"negative_scale must be finite and >= 0, got {scale}")


def _as_samples(distance: Tensor, log_prob: Tensor, mask: Tensor | None) -> Tensor:
    """One number a sample: at trajectory level the mean over the valid steps."""
    if distance.shape == log_prob.shape:
        return distance
    if mask is None:
        return distance.flatten(1).mean(1)
    valid = mask.flatten(1)
    return torch.where(valid, distance.flatten(1), 0.0).sum(1) / valid.sum(1).clamp_min(1)


def _tokens_in(dist: Distribution, log_prob: Tensor, mask: Tensor | None) -> Tensor | int:
    """How many choices each entry of ``log_prob`` adds up: an action's tokens, over its steps."""
    valid = getattr(dist, "mask", None)  # of a sequence of tokens
    if valid is not None:
        tokens = valid.sum(-1)
    elif dist.batch_shape == log_prob.shape:
        return max(dist.event_shape.numel(), 1)
    else:
        tokens = log_prob.new_full(dist.batch_shape, dist.event_shape.numel())
    if tokens.shape != log_prob.shape:
        if mask is not None:
            tokens = torch.where(mask, tokens, 0)
        tokens = tokens.flatten(log_prob.ndim).sum(-1)
    return tokens.clamp_min(1)
