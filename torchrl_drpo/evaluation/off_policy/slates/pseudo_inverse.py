r"""PI: a slate's reward as a sum of unknown effects of items in slots, solved for.

Notation   1_s indicators of item k at position l, [L K]; Gamma_b(x) = E_b[1_s 1_s^T | x]; 1_e(x) =
           E_e[1_s | x]; the weight of a slate is 1_e^T Gamma_b^+ 1_s, and its mean is 1.

Only the slate's reward is read. Weights may lie below 0. Source: Swaminathan et al. 2017,
"Off-policy evaluation for slate recommendation" (arXiv 1605.04812), sec. 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.diagnostics import (
    Diagnostics,
    diagnose,
    distance_from_one,
)
from torchrl_drpo.evaluation.off_policy.estimate import Estimate, estimate_of
from torchrl_drpo.evaluation.off_policy.sequences.weights import plain_weights
from torchrl_drpo.evaluation.off_policy.slates.slates import LoggedSlates

#: Eigenvalues of Gamma_b below this share of the largest are taken for 0.
_RTOL = 1e-10
#: Rows whose matrices are inverted together.
_ROWS_AT_A_TIME = 1024


@dataclass(frozen=True)
class SlateWeights:
    """Weights of whole slates, of any sign.

    Attributes:
        weight: :math:`1_e^T Gamma_b^+ 1_s`, float64 ``[N]``.
        never_logged: share of the policy's items in slots that no mixture of the logging policy's
            slates makes up, where known; the reward that they would earn is lost.
    """

    weight: Tensor
    never_logged: float = float("nan")


def product_weights(slates: LoggedSlates) -> SlateWeights:
    r""":math:`1 - L + \sum_l w_l`, for a logging policy that fills each slot independently.

    Only then: a logging policy that never shows an item twice is not of this kind.

    Example:
        >>> slates = LoggedSlates(
        ...     torch.tensor([1.0]),
        ...     log_target_slot=torch.tensor([[1.0, 0.5]]).log(),
        ...     log_behavior_slot=torch.tensor([[0.5, 0.5]]).log(),
        ... )
        >>> product_weights(slates).weight.round(decimals=6)
        tensor([2.], dtype=torch.float64)
    """
    weight = torch.where(slates.mask, plain_weights(slates.log_slot_weights()), 0.0)
    return SlateWeights(1 - slates.lengths + weight.sum(-1))


def pseudo_inverse_weights(action: Tensor, target_slot: Tensor, pairs: Tensor) -> SlateWeights:
    """By the pseudo-inverse of each row's Gamma_b; with few candidates, for any logging policy.

    Args:
        action: candidates shown, int64 ``[N, L]``; -1 where a slate has ended.
        target_slot: 1_e: the policy's probability of candidate k at position l, ``[N, L, K]``; 0 in
            positions that a slate does not have.
        pairs: Gamma_b, ``[N, L * K, L * K]`` or the same for all ``[L * K, L * K]``: ``pairs`` of
            :func:`~torchrl_drpo.evaluation.off_policy.slates.candidates.slot_moments`.

    Raises:
        ValueError: for shapes that differ, or an item that the logging policy is said never to
            show in its slot.

    Example:
        >>> from torchrl_drpo.evaluation.off_policy.slates.candidates import (
        ...     ordered_slates,
        ...     plackett_luce_log_probs,
        ...     slot_moments,
        ... )
        >>> every = ordered_slates(3, 2)
        >>> log_prob = plackett_luce_log_probs(torch.zeros(3), every).sum(-1)
        >>> uniform = slot_moments(every, log_prob, 3)
        >>> same = uniform.slot.expand(6, 2, 3)
        >>> pseudo_inverse_weights(every, same, uniform.pairs).weight.round(decimals=6)
        tensor([1., 1., 1., 1., 1., 1.], dtype=torch.float64)
    """
    count, length, candidates = target_slot.shape
    size = length * candidates
    if action.shape != (count, length) or pairs.shape[-2:] != (size, size):
        raise ValueError(
            f"expected action [N, L], target_slot [N, L, K] and pairs [N, L K, L K], got "
            f"{tuple(action.shape)}, {tuple(target_slot.shape)} and {tuple(pairs.shape)}"
        )
    there = action >= 0
    shown = torch.nn.functional.one_hot(action.clamp_min(0), candidates) * there.unsqueeze(-1)
    shown, wanted = shown.flatten(1).double(), target_slot.detach().flatten(1).double()
    gamma = pairs.detach().double().expand(count, size, size)
    strange = ((gamma.diagonal(dim1=-2, dim2=-1) <= 0) & (shown > 0)).nonzero().tolist()
    if strange:
        row, cell = strange[0]
        raise ValueError(
            f"slate {row} shows candidate {cell % candidates} at position {cell // candidates}, "
            "where the logging policy is said never to show it"
        )
    weight, missing = [], 0.0
    for rows in torch.arange(count).split(_ROWS_AT_A_TIME):
        effect = torch.linalg.pinv(gamma[rows], rtol=_RTOL, hermitian=True) @ wanted[rows, :, None]
        weight.append((effect.squeeze(-1) * shown[rows]).sum(-1))
        missing += (gamma[rows] @ effect - wanted[rows, :, None]).abs().sum().item()
    lost = missing / wanted.sum().item()
    return SlateWeights(torch.cat(weight), 0.0 if lost < 1e-6 else min(lost, 1.0))


def pseudo_inverse(
    slates: LoggedSlates, weights: SlateWeights | None = None, *, confidence: float = 0.95
) -> Estimate:
    r"""PI, mean of :math:`1_e^\top \Gamma_b^+ 1_s \, r`, r a slate's sum of rewards.

    Unbiased where the slate's expected reward is a sum over slots, whichever sum.

    Args:
        slates: with slots' probabilities of both policies, unless ``weights`` are given.
        weights: of :func:`pseudo_inverse_weights`; :func:`product_weights` by default, which are
            right for a logging policy that fills each slot independently.
        confidence: of the interval.

    Example:
        >>> half = torch.full((400, 2), 0.5).log()
        >>> reward = torch.tensor([0.0, 1.0]).repeat(200)
        >>> print(pseudo_inverse(LoggedSlates(reward, None, None, half, half)))
        0.5 [0.4508, 0.5492] (usable)
    """
    weight, found = _diagnosed(slates, weights)
    terms = weight * slates.total()
    value = terms.mean().item()
    return estimate_of(
        "PI", value, terms - value, found, cluster=slates.cluster, confidence=confidence
    )


def self_normalised_pseudo_inverse(
    slates: LoggedSlates, weights: SlateWeights | None = None, *, confidence: float = 0.95
) -> Estimate:
    """SNPI, the sum of weighted rewards over the sum of weights; otherwise as PI."""
    weight, found = _diagnosed(slates, weights)
    mean = weight.mean()
    if not mean > 0:
        raise ValueError(
            f"the weights have mean {mean.item():.3g} where 1 is expected: too few slates for this "
            "policy, and nothing to divide by"
        )
    value = (weight @ slates.total() / weight.sum()).item()
    influence = weight * (slates.total() - value) / mean
    return estimate_of(
        "SNPI", value, influence, found, cluster=slates.cluster, confidence=confidence
    )


def _diagnosed(slates: LoggedSlates, weights: SlateWeights | None) -> tuple[Tensor, Diagnostics]:
    """The weights ``[N]``, and what they say: by their size, but for their mean."""
    given = product_weights(slates) if weights is None else weights
    weight = given.weight.detach().to("cpu", torch.float64)
    if weight.shape != (len(slates),):
        raise ValueError(f"{weight.numel()} weights for {len(slates)} slates")
    found = diagnose(
        weight.abs(), cluster=slates.cluster, never_logged=given.never_logged, unit="slate"
    )
    mean = weight.mean().item()
    far = distance_from_one(weight, slates.cluster)
    return weight, replace(found, mean_weight=mean, mean_weight_error=far)
