"""DRPO: the loss, its form on a learned quality signal, and what both are made of."""

from torchrl_drpo.objectives.drpo.loss import DRPOLoss
from torchrl_drpo.objectives.drpo.q import DRPOQLoss

__all__ = ["DRPOLoss", "DRPOQLoss"]
