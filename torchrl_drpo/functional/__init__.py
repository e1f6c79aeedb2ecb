"""Pure functions: tensors in, tensors out; no TensorDict, no state."""

from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.diagnostics import (
    categorical_score_norm,
    effective_sample_size,
    gaussian_score,
    gaussian_score_norm,
    negative_mass_ratio,
    repulsion_to_attraction,
    taper_active_fraction,
    taper_retention,
)
from torchrl_drpo.functional.dro_programs import (
    kl_dro_weights,
    optimistic_dro_weights,
    optimistic_value,
    top_fraction_threshold,
)
from torchrl_drpo.functional.groups import group_centred, group_minimum, group_moments
from torchrl_drpo.functional.proximal import (
    clipped_surrogate,
    ecpo_surrogate,
    gbpo_surrogate,
    gbpo_weights,
)
from torchrl_drpo.functional.reductions import centred, weighted_moments, weighted_nll
from torchrl_drpo.functional.remoteness import (
    categorical_remoteness,
    gaussian_remoteness,
    sequence_remoteness,
)
from torchrl_drpo.functional.selection import kappa_step, select_top
from torchrl_drpo.functional.tapers import (
    ExponentialTaper,
    HardCutoff,
    ReciprocalTaper,
    exponential_strength,
    exponential_taper,
    hard_cutoff,
    reciprocal_strength,
    reciprocal_taper,
)
from torchrl_drpo.functional.weights import (
    asymmetric_weights,
    crr_weights,
    exponential_weights,
    signed_weights,
    topr_weights,
)

__all__ = [
    "AdaptiveKappa",
    "ExponentialTaper",
    "HardCutoff",
    "ReciprocalTaper",
    "asymmetric_weights",
    "categorical_remoteness",
    "categorical_score_norm",
    "centred",
    "clipped_surrogate",
    "crr_weights",
    "ecpo_surrogate",
    "effective_sample_size",
    "exponential_strength",
    "exponential_taper",
    "exponential_weights",
    "gaussian_remoteness",
    "gaussian_score",
    "gaussian_score_norm",
    "gbpo_surrogate",
    "gbpo_weights",
    "group_centred",
    "group_minimum",
    "group_moments",
    "hard_cutoff",
    "kappa_step",
    "kl_dro_weights",
    "negative_mass_ratio",
    "optimistic_dro_weights",
    "optimistic_value",
    "reciprocal_strength",
    "reciprocal_taper",
    "repulsion_to_attraction",
    "select_top",
    "sequence_remoteness",
    "signed_weights",
    "taper_active_fraction",
    "taper_retention",
    "top_fraction_threshold",
    "topr_weights",
    "weighted_moments",
    "weighted_nll",
]
