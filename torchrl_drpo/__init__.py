"""Learn a recommender from logs: optimistic DRPO and its family as TorchRL losses.

The method is that of arXiv 2602.10430. Most users want ``from torchrl_drpo import DRPOLoss``.
"""

from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.tapers import ExponentialTaper, HardCutoff, ReciprocalTaper
from torchrl_drpo.objectives import (
    AdaptiveBCLoss,
    AsymRELoss,
    AWRLoss,
    BehaviorCloningLoss,
    BPPOLoss,
    CRRLoss,
    DRPOLoss,
    DRPOQLoss,
    ECPOLoss,
    GBPOLoss,
    RepulsiveLoss,
    TOPRLoss,
)
from torchrl_drpo.policies.gaussian import make_gaussian_actor

__version__ = "0.1.0"

__all__ = [
    "AWRLoss",
    "AdaptiveBCLoss",
    "AdaptiveKappa",
    "AsymRELoss",
    "BPPOLoss",
    "BehaviorCloningLoss",
    "CRRLoss",
    "DRPOLoss",
    "DRPOQLoss",
    "ECPOLoss",
    "ExponentialTaper",
    "GBPOLoss",
    "HardCutoff",
    "ReciprocalTaper",
    "RepulsiveLoss",
    "TOPRLoss",
    "make_gaussian_actor",
]
