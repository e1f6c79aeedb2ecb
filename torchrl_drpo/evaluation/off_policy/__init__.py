"""Off-policy evaluation: what a policy would earn, from rows that another one logged.

Only probabilities of logged actions are needed, as logarithms; no table of rows by items is made
anywhere. Every estimate comes with an interval for what it converges to and with a verdict,
``usable``, ``weak`` or ``meaningless``, from what its weights say.
"""

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
from torchrl_drpo.evaluation.off_policy.rows import LoggedRows

__all__ = [
    "ESTIMATORS",
    "THRESHOLDS",
    "Diagnostics",
    "Difference",
    "Estimate",
    "LoggedRows",
    "against",
    "clipped_ips",
    "diagnose",
    "difference",
    "direct_method",
    "doubly_robust",
    "ips",
    "logging_value",
    "marginalised_ips",
    "off_cem",
    "optimistic_shrinkage",
    "self_normalised_doubly_robust",
    "snips",
    "subgaussian_doubly_robust",
    "subgaussian_ips",
    "switch_doubly_robust",
]
