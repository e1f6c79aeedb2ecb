"""A policy's value over slates: what is shown together, from whole slates down to slots."""

from torchrl_drpo.evaluation.off_policy.slates.candidates import (
    SlotMoments,
    ordered_slates,
    plackett_luce_log_probs,
    slot_moments,
)
from torchrl_drpo.evaluation.off_policy.slates.estimators import (
    SLATE_ESTIMATORS,
    cascade_doubly_robust,
    independent_ips,
    reward_interaction_ips,
    self_normalised_cascade_doubly_robust,
    self_normalised_independent_ips,
    self_normalised_reward_interaction_ips,
    self_normalised_standard_ips,
    standard_ips,
)
from torchrl_drpo.evaluation.off_policy.slates.pseudo_inverse import (
    SlateWeights,
    product_weights,
    pseudo_inverse,
    pseudo_inverse_weights,
    self_normalised_pseudo_inverse,
)
from torchrl_drpo.evaluation.off_policy.slates.slates import LoggedSlates

__all__ = [
    "SLATE_ESTIMATORS",
    "LoggedSlates",
    "SlateWeights",
    "SlotMoments",
    "cascade_doubly_robust",
    "independent_ips",
    "ordered_slates",
    "plackett_luce_log_probs",
    "product_weights",
    "pseudo_inverse",
    "pseudo_inverse_weights",
    "reward_interaction_ips",
    "self_normalised_cascade_doubly_robust",
    "self_normalised_independent_ips",
    "self_normalised_pseudo_inverse",
    "self_normalised_reward_interaction_ips",
    "self_normalised_standard_ips",
    "slot_moments",
    "standard_ips",
]
