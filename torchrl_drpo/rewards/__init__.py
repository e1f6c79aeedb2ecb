"""Reward models of logged rows: fitted in closed form or by regression, and cross-fitted."""

from torchrl_drpo.rewards.annotated import AnnotatedBuffer
from torchrl_drpo.rewards.cross_fit import CrossFittedReward, assign_folds
from torchrl_drpo.rewards.regression import RewardRegression

__all__ = ["AnnotatedBuffer", "CrossFittedReward", "RewardRegression", "assign_folds"]
