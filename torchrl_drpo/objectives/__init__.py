"""LossModules: one rule for the weights each."""

from torchrl_drpo.objectives.drpo import DRPOLoss
from torchrl_drpo.objectives.regression import BehaviorCloningLoss
from torchrl_drpo.objectives.repulsive import RepulsiveLoss

__all__ = ["BehaviorCloningLoss", "DRPOLoss", "RepulsiveLoss"]
