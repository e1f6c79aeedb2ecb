r"""Estimators of a policy's value from logged slates, from the fewest assumptions to the most.

Notation   a_l the item at position l, r_l its reward; w_{1:l} = prod_{j <= l} pi_e(a_j|x, a_<j) /
           pi_b(a_j|x, a_<j); w_l = pi_e(a_l|x) / pi_b(a_l|x); means are over the N slates.

=============  ==============================================  =====================
estimator      unbiased where a reward depends on              weights
=============  ==============================================  =====================
SIPS           the whole slate                                 of the slate
RIPS           the items down to its own position              down to the position
cascade-DR     the same                                        the same, and q^
IIPS           the item at its own position                    of the slot
PI             nothing by position: slate reward additive      sums over slots
=============  ==============================================  =====================

Each returns an :class:`~torchrl_drpo.evaluation.off_policy.Estimate` whose rows are slates. The
self-normalised forms have the standard error of a ratio; in them a slate that ends before position
l keeps the weight of its last one (RIPS, cascade-DR), or counts with weight 1 (IIPS). The verdict
of RIPS and cascade-DR is that of whole slates' weights, which their last position has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.diagnostics import Diagnostics
from torchrl_drpo.evaluation.off_policy.estimate import Estimate, estimate_of
from torchrl_drpo.evaluation.off_policy.sequences import estimators as sequential
from torchrl_drpo.evaluation.off_policy.sequences.weights import (
    diagnose_products,
    plain_weights,
    ratio_of_means,
)
from torchrl_drpo.evaluation.off_policy.slates.pseudo_inverse import (
    pseudo_inverse,
    self_normalised_pseudo_inverse,
)
from torchrl_drpo.evaluation.off_policy.slates.slates import LoggedSlates


def standard_ips(slates: LoggedSlates, *, confidence: float = 0.95) -> Estimate:
    r"""SIPS, mean of :math:`w_{1:L} \sum_l r_l`: importance sampling of whole slates.

    Source: McInerney et al. 2020, "Counterfactual evaluation of slate recommendations with
    sequential reward interactions" (arXiv 2007.12986), eq. 1.

    Example:
        >>> half = torch.full((400, 2), 0.5).log()
        >>> reward = torch.tensor([0.0, 1.0]).repeat(200).unsqueeze(-1).expand(-1, 2)
        >>> print(standard_ips(LoggedSlates(reward, half, half)))
        1 [0.9016, 1.098] (usable)
    """
    return _named("SIPS", sequential.trajectory_is(slates.wholes(), confidence=confidence))


def self_normalised_standard_ips(slates: LoggedSlates, *, confidence: float = 0.95) -> Estimate:
    r"""SNSIPS, :math:`\sum w_{1:L} r / \sum w_{1:L}`, r a slate's sum of rewards."""
    found = sequential.weighted_trajectory_is(slates.wholes(), confidence=confidence)
    return _named("SNSIPS", found)


def reward_interaction_ips(slates: LoggedSlates, *, confidence: float = 0.95) -> Estimate:
    r"""RIPS, mean of :math:`\sum_l w_{1:l} r_l`: users look from the top down.

    Its conditionals come with every autoregressive policy. Source: McInerney et al. 2020
    (arXiv 2007.12986), eq. 3 and 4.
    """
    return _named("RIPS", sequential.per_decision_is(slates.sequences(), confidence=confidence))


def self_normalised_reward_interaction_ips(
    slates: LoggedSlates, *, confidence: float = 0.95
) -> Estimate:
    r"""SNRIPS, :math:`\sum_l \sum_i w_{1:l} r_l / \sum_i w_{1:l}`."""
    found = sequential.weighted_per_decision_is(slates.sequences(), confidence=confidence)
    return _named("SNRIPS", found)


def cascade_doubly_robust(slates: LoggedSlates, *, confidence: float = 0.95) -> Estimate:
    r"""Mean of :math:`\sum_l [w_{1:l} (r_l - \hat q_l) + w_{1:l-1} \hat V_l]`.

    Unbiased where RIPS is, whatever q^ is, and with less variance where q^ is good: the rewards
    expected *from position l on*, given the items above. Source: Kiyohara et al. 2022, "Doubly
    robust off-policy evaluation for ranking policies under the cascade behavior model"
    (arXiv 2202.01562), sec. 3.1.
    """
    found = sequential.sequential_doubly_robust(slates.sequences(), confidence=confidence)
    return _named("cascade-DR", found)


def self_normalised_cascade_doubly_robust(
    slates: LoggedSlates, *, confidence: float = 0.95
) -> Estimate:
    r"""Cascade-DR with :math:`w_{1:l} / \overline{w_{1:l}}` for each weight."""
    found = sequential.weighted_sequential_doubly_robust(slates.sequences(), confidence=confidence)
    return _named("SN cascade-DR", found)


def independent_ips(slates: LoggedSlates, *, confidence: float = 0.95) -> Estimate:
    r"""IIPS, mean of :math:`\sum_l w_l r_l`: each position for itself.

    Its verdict is that of the position whose weights are worth the fewest slates. Source: Li et
    al. 2018, "Offline evaluation of ranking policies with click models" (arXiv 1804.10488);
    McInerney et al. 2020 (arXiv 2007.12986), eq. 2.
    """
    log_weight, found = _slots(slates)
    terms = (plain_weights(log_weight) * slates.by_position("reward", "rewards")).sum(-1)
    value = terms.mean().item()
    return estimate_of(
        "IIPS", value, terms - value, found, cluster=slates.cluster, confidence=confidence
    )


def self_normalised_independent_ips(slates: LoggedSlates, *, confidence: float = 0.95) -> Estimate:
    r"""SNIIPS, :math:`\sum_l \sum_i w_l r_l / \sum_i w_l`."""
    log_weight, found = _slots(slates)
    ratio, deviation = ratio_of_means(log_weight, slates.by_position("reward", "rewards"))
    return estimate_of(
        "SNIIPS",
        ratio.sum().item(),
        deviation.sum(-1),
        found,
        cluster=slates.cluster,
        confidence=confidence,
    )


#: By name, every estimator of slates, in the order of tables.
SLATE_ESTIMATORS: dict[str, Callable[..., Estimate]] = {
    "SIPS": standard_ips,
    "SNSIPS": self_normalised_standard_ips,
    "RIPS": reward_interaction_ips,
    "SNRIPS": self_normalised_reward_interaction_ips,
    "cascade-DR": cascade_doubly_robust,
    "SN cascade-DR": self_normalised_cascade_doubly_robust,
    "IIPS": independent_ips,
    "SNIIPS": self_normalised_independent_ips,
    "PI": pseudo_inverse,
    "SNPI": self_normalised_pseudo_inverse,
}


def _slots(slates: LoggedSlates) -> tuple[Tensor, Diagnostics]:
    """Logarithms of the slots' weights, and what those of the worst slot say."""
    log_weight = slates.log_slot_weights()
    never = (log_weight.max(0).values == -torch.inf).nonzero().flatten().tolist()
    if never:
        raise ValueError(
            f"at position {never[0]} none of the {len(slates)} logged items is one that the policy "
            "would show there: there is no overlap, and nothing can be said of its value"
        )
    found = [
        diagnose_products(slot, slates.cluster, unit="slate") for slot in log_weight.unbind(-1)
    ]
    return log_weight, min(found, key=lambda each: each.effective_rows)


def _named(name: str, estimate: Estimate) -> Estimate:
    """An estimate of sequences as one of slates."""
    return replace(estimate, name=name, diagnostics=replace(estimate.diagnostics, unit="slate"))
