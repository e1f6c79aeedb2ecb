"""LossModules: one rule for the weights each."""

from torchrl_drpo.objectives.asymmetric import AsymRELoss, TOPRLoss
from torchrl_drpo.objectives.crr import CRRLoss
from torchrl_drpo.objectives.drpo import DRPOLoss, DRPOQLoss
from torchrl_drpo.objectives.events import CollapseEvent, CollapseEvents
from torchrl_drpo.objectives.gbpo import GBPOLoss
from torchrl_drpo.objectives.guided import GuidedLoss
from torchrl_drpo.objectives.monitor import PhantomGradientMonitor
from torchrl_drpo.objectives.places import AllPlaces
from torchrl_drpo.objectives.proximal import BPPOLoss, ECPOLoss
from torchrl_drpo.objectives.regression import AdaptiveBCLoss, AWRLoss, BehaviorCloningLoss
from torchrl_drpo.objectives.repulsive import RepulsiveLoss

__all__ = [
    "AWRLoss",
    "AdaptiveBCLoss",
    "AllPlaces",
    "AsymRELoss",
    "BPPOLoss",
    "BehaviorCloningLoss",
    "CRRLoss",
    "CollapseEvent",
    "CollapseEvents",
    "DRPOLoss",
    "DRPOQLoss",
    "ECPOLoss",
    "GBPOLoss",
    "GuidedLoss",
    "PhantomGradientMonitor",
    "RepulsiveLoss",
    "TOPRLoss",
]
