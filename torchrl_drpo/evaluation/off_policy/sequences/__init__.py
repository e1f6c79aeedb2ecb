"""A policy's value over sessions: products of weights by step, in logarithms, and fitted q^."""

from torchrl_drpo.evaluation.off_policy.sequences.estimators import (
    SEQUENCE_ESTIMATORS,
    per_decision_is,
    sequential_direct_method,
    sequential_doubly_robust,
    trajectory_is,
    weighted_per_decision_is,
    weighted_sequential_doubly_robust,
    weighted_trajectory_is,
)
from torchrl_drpo.evaluation.off_policy.sequences.fitted_q import fitted_q, with_fitted_q
from torchrl_drpo.evaluation.off_policy.sequences.ridge import ridge
from torchrl_drpo.evaluation.off_policy.sequences.sessions import LoggedSessions
from torchrl_drpo.evaluation.off_policy.sequences.step_inputs import StepInputs

__all__ = [
    "SEQUENCE_ESTIMATORS",
    "LoggedSessions",
    "StepInputs",
    "fitted_q",
    "per_decision_is",
    "ridge",
    "sequential_direct_method",
    "sequential_doubly_robust",
    "trajectory_is",
    "weighted_per_decision_is",
    "weighted_sequential_doubly_robust",
    "weighted_trajectory_is",
    "with_fitted_q",
]
