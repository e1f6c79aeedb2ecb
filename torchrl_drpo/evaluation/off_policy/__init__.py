"""Off-policy evaluation: what a policy would earn, from rows that another one logged.

Only probabilities of logged actions are needed, as logarithms; no table of rows by items is made
anywhere. Every estimate comes with an interval for what it converges to and with a verdict,
``usable``, ``weak`` or ``meaningless``, from what its weights say.

The way through: :func:`score_log` makes rows of a policy and a log (where no propensity was
logged, with what :func:`fit_weights` or :func:`fit_behavior` made of it); an estimator of
:data:`ESTIMATORS` makes an :class:`Estimate` of the rows; :func:`against` compares estimates on the
same rows, :func:`choose_policy` chooses, and :func:`weight_bounds` says what propensities that are
wrong by a factor could do.
"""

from torchrl_drpo.evaluation.off_policy.balance import FittedWeights, fit_weights
from torchrl_drpo.evaluation.off_policy.behavior import FittedBehavior, fit_behavior
from torchrl_drpo.evaluation.off_policy.calibration import Calibration
from torchrl_drpo.evaluation.off_policy.choice import PolicyChoice, choose_policy
from torchrl_drpo.evaluation.off_policy.cloning import Cloning, make_logistic_actor
from torchrl_drpo.evaluation.off_policy.compare import (
    Difference,
    against,
    difference,
    logging_value,
)
from torchrl_drpo.evaluation.off_policy.diagnostics import THRESHOLDS, Diagnostics, diagnose
from torchrl_drpo.evaluation.off_policy.estimate import Estimate
from torchrl_drpo.evaluation.off_policy.estimators import (
    ESTIMATORS,
    clipped_ips,
    direct_method,
    doubly_robust,
    ips,
    marginalised_ips,
    off_cem,
    optimistic_shrinkage,
    self_normalised_doubly_robust,
    snips,
    subgaussian_doubly_robust,
    subgaussian_ips,
    switch_doubly_robust,
)
from torchrl_drpo.evaluation.off_policy.gaussian import DecodedPolicy, expected_effective_share
from torchrl_drpo.evaluation.off_policy.groups import ItemGroups, group_frequencies
from torchrl_drpo.evaluation.off_policy.logs import LogKeys, RowSample
from torchrl_drpo.evaluation.off_policy.policies import score_log
from torchrl_drpo.evaluation.off_policy.predictions import InnerProductReward
from torchrl_drpo.evaluation.off_policy.rows import LoggedRows
from torchrl_drpo.evaluation.off_policy.selection import (
    SelectionQuality,
    cross_validated,
    selection_quality,
    slope,
)
from torchrl_drpo.evaluation.off_policy.sensitivity import WeightBounds, weight_bounds
from torchrl_drpo.evaluation.off_policy.sequences import (
    SEQUENCE_ESTIMATORS,
    LoggedSessions,
    StepInputs,
    fitted_q,
    per_decision_is,
    ridge,
    sequential_direct_method,
    sequential_doubly_robust,
    trajectory_is,
    weighted_per_decision_is,
    weighted_sequential_doubly_robust,
    weighted_trajectory_is,
    with_fitted_q,
)
from torchrl_drpo.evaluation.off_policy.slates import (
    SLATE_ESTIMATORS,
    LoggedSlates,
    SlateWeights,
    SlotMoments,
    cascade_doubly_robust,
    independent_ips,
    ordered_slates,
    plackett_luce_log_probs,
    product_weights,
    pseudo_inverse,
    pseudo_inverse_weights,
    reward_interaction_ips,
    self_normalised_cascade_doubly_robust,
    self_normalised_independent_ips,
    self_normalised_pseudo_inverse,
    self_normalised_reward_interaction_ips,
    self_normalised_standard_ips,
    slot_moments,
    standard_ips,
)

__all__ = [
    "ESTIMATORS",
    "SEQUENCE_ESTIMATORS",
    "SLATE_ESTIMATORS",
    "THRESHOLDS",
    "Calibration",
    "Cloning",
    "DecodedPolicy",
    "Diagnostics",
    "Difference",
    "Estimate",
    "FittedBehavior",
    "FittedWeights",
    "InnerProductReward",
    "ItemGroups",
    "LogKeys",
    "LoggedRows",
    "LoggedSessions",
    "LoggedSlates",
    "PolicyChoice",
    "RowSample",
    "SelectionQuality",
    "SlateWeights",
    "SlotMoments",
    "StepInputs",
    "WeightBounds",
    "against",
    "cascade_doubly_robust",
    "choose_policy",
    "clipped_ips",
    "cross_validated",
    "diagnose",
    "difference",
    "direct_method",
    "doubly_robust",
    "expected_effective_share",
    "fit_behavior",
    "fit_weights",
    "fitted_q",
    "group_frequencies",
    "independent_ips",
    "ips",
    "logging_value",
    "make_logistic_actor",
    "marginalised_ips",
    "off_cem",
    "optimistic_shrinkage",
    "ordered_slates",
    "per_decision_is",
    "plackett_luce_log_probs",
    "product_weights",
    "pseudo_inverse",
    "pseudo_inverse_weights",
    "reward_interaction_ips",
    "ridge",
    "score_log",
    "selection_quality",
    "self_normalised_cascade_doubly_robust",
    "self_normalised_doubly_robust",
    "self_normalised_independent_ips",
    "self_normalised_pseudo_inverse",
    "self_normalised_reward_interaction_ips",
    "self_normalised_standard_ips",
    "sequential_direct_method",
    "sequential_doubly_robust",
    "slope",
    "slot_moments",
    "snips",
    "standard_ips",
    "subgaussian_doubly_robust",
    "subgaussian_ips",
    "switch_doubly_robust",
    "trajectory_is",
    "weight_bounds",
    "weighted_per_decision_is",
    "weighted_sequential_doubly_robust",
    "weighted_trajectory_is",
    "with_fitted_q",
]
