"""How far a logged action is from the policy: the distribution's business, asked in one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from torchrl_drpo.distributed.whole_batch import WholeBatch
from torchrl_drpo.distributions.base_space import choices, is_discrete, whitened
from torchrl_drpo.functional.remoteness import categorical_remoteness

RemotenessKind = Literal["auto", "per_dimension"]


def remoteness_and_score(
    dist: Distribution,
    action: Tensor,
    log_prob: Tensor,
    batch: torch.Size,
    kind: RemotenessKind = "auto",
    mask: Tensor | None = None,
    *,
    needed: bool = True,
) -> tuple[Tensor, Tensor]:
    """Remoteness D of each logged action and the magnitude of its score, both detached.

    A distribution with a ``remoteness(action)`` method says itself. Of one that is Gaussian in its
    base space (before a tanh, say) D is the squared Mahalanobis distance there, and the score with
    respect to the mean, in units of sigma, has length sqrt(D). Of discrete actions D is the
    surprisal, for sequences of tokens (semantic IDs) its mean over the tokens that count; the
    score with respect to the chosen logit is 1 - pi(a). Nothing else has a remoteness: a density
    says how likely an action is, not how far away.

    Args:
        dist: the policy's distribution.
        action: the logged actions.
        log_prob: their log-probability, ``[*B]``, or ``[B]`` summed over a trajectory's steps; a
            trajectory's D is then the mean over its valid steps.
        batch: shape of the batch, ``[*B]``, or ``[B, T]`` for trajectories.
        kind: ``"per_dimension"`` divides a Gaussian's D by the dimension of the action.
        mask: valid steps.
        needed: whether somebody reads D. Where nobody does, both are NaN of a policy without.

    Returns:
        Two tensors of ``log_prob``'s shape.

    Raises:
        ValueError: for ``"per_dimension"`` with a policy that is not Gaussian, and for a policy
            without remoteness where it is needed.
    """
    own = getattr(dist, "remoteness", None)
    if own is None:
        distance = _squared_distance(dist, action, log_prob, batch, kind, mask)
        if distance is not None:
            return distance, distance.sqrt()
    if kind == "per_dimension":
        raise ValueError(
            f"remoteness='per_dimension' is for Gaussian policies, got {type(dist).__name__}; "
            "use 'auto'"
        )
    if own is not None:
        distance = _as_samples(own(action).detach(), log_prob, mask)
    elif is_discrete(dist, action):
        count = choices_in(dist, log_prob, batch, mask, action)
        distance = categorical_remoteness(log_prob) / count
    elif needed:
        raise ValueError(
            f"{type(dist).__name__} has no remoteness that a taper could read: it is neither "
            "Gaussian in its base space nor discrete; give it a method remoteness(action) that "
            "returns one number a row, or leave the taper out"
        )
    else:
        unknown = torch.full_like(log_prob, math.nan)
        return unknown, unknown
    return distance, -torch.expm1(log_prob)


def _squared_distance(
    dist: Distribution,
    action: Tensor,
    log_prob: Tensor,
    batch: torch.Size,
    kind: RemotenessKind,
    mask: Tensor | None,
) -> Tensor | None:
    """A Gaussian's D, of ``log_prob``'s shape; ``None`` for any other distribution."""
    cheap = getattr(dist, "squared_distance", None)  # from the log-density
    if cheap is not None and dist.batch_shape == log_prob.shape:
        distance, size = cheap(log_prob).detach(), dist.event_shape.numel()
    else:
        z = whitened(dist, action)
        if z is None:
            return None
        size = z.shape[len(batch) :].numel()
        distance = z.square() if z.shape == batch else z.square().flatten(len(batch)).sum(-1)
        distance = _as_samples(distance, log_prob, mask)
    return distance / size if kind == "per_dimension" else distance


def taper_negatives(
    weight: Tensor, taper: Callable[[Tensor], Tensor], distance: Tensor, whole: WholeBatch
) -> tuple[Tensor, Tensor]:
    """Signed weights with the negative ones tapered, and on what share the taper was active."""
    factor, negative = taper(distance), weight < 0
    active, negatives = whole.sums(((factor.detach() < 1) & negative).sum(), negative.sum())
    active = active / negatives.clamp_min(1)
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


def choices_in(
    dist: Distribution,
    log_prob: Tensor,
    batch: torch.Size,
    mask: Tensor | None,
    action: Tensor | None = None,
) -> Tensor | int:
    """How many choices each entry of ``log_prob`` adds up: an action's, over its valid steps.

    Args:
        dist: the policy's distribution.
        log_prob: ``[*B]``, or ``[B]`` summed over a trajectory's steps.
        batch: shape of the batch, ``[*B]``, or ``[B, T]`` for trajectories.
        mask: valid steps.
        action: the actions, where they may be of several lengths.

    Returns:
        One number for all, or a tensor of ``log_prob``'s shape; at least 1.
    """
    count = choices(dist, action)
    if isinstance(count, int):
        if dist.batch_shape == log_prob.shape:
            return count
        count = log_prob.new_full(dist.batch_shape, count)
    if count.shape != batch:
        count = count.flatten(len(batch)).sum(-1)
    if count.shape != log_prob.shape:
        count = (count if mask is None else torch.where(mask, count, 0)).flatten(1).sum(1)
    return count.clamp_min(1)
