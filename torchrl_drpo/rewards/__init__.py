"""Reward models of logged rows: fitted in closed form or by regression, and cross-fitted.

Any objective takes what they say for its quality or its advantage
(``loss.set_keys(quality="predicted_reward")``); :class:`~torchrl_drpo.GuidedLoss` takes the model
itself. Which one:

- :class:`CrossFittedReward` over :class:`RewardRegression`: any network of state and action, any
  action space; needs tens of thousands of rows. ``drpo train`` fits one to a catalogue log for
  ``guided`` and the objectives that end in ``-q``.
- :class:`CatalogueReward`: the cross-fitted model of two towers that the command fits, which scores
  a whole catalogue at once; :func:`~torchrl_drpo.policies.tilted.make_tilted_actor` multiplies a
  trained policy by it.
- :func:`cross_fit_bilinear`: a closed form for states and actions that are vectors; better than a
  network on thousands of noisy rows. :func:`uphill_log` makes a recipe of it for Gaussian
  policies; ``drpo reproduce beyond`` holds that against DRPO and the baselines.
"""

from torchrl_drpo.rewards.annotated import AnnotatedBuffer
from torchrl_drpo.rewards.bilinear import BilinearReward, fit_bilinear_reward
from torchrl_drpo.rewards.catalogue import CatalogueReward
from torchrl_drpo.rewards.cross_fit import CrossFittedReward
from torchrl_drpo.rewards.folds import assign_folds
from torchrl_drpo.rewards.recipe import uphill_log
from torchrl_drpo.rewards.regression import RewardRegression
from torchrl_drpo.rewards.uphill import cross_fit_bilinear, out_of_fold, uphill_actions

__all__ = [
    "AnnotatedBuffer",
    "BilinearReward",
    "CatalogueReward",
    "CrossFittedReward",
    "RewardRegression",
    "assign_folds",
    "cross_fit_bilinear",
    "fit_bilinear_reward",
    "out_of_fold",
    "uphill_actions",
    "uphill_log",
]
