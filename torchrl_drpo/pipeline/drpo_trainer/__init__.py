"""TorchRL's `Trainer`, ready for the objectives of this package: offline, and on to online."""

from .config import DRPOTrainerConfig
from .trainer import DRPOTrainer

__all__ = ["DRPOTrainer", "DRPOTrainerConfig"]
