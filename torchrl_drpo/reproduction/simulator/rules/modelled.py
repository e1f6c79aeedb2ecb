"""Rules that ask a reward model first: another quality signal, or better actions to clone.

The model is cross-fitted: no row is judged by a model that saw it.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble, Scores
from torchrl_drpo.reproduction.simulator.rules.base import Rule
from torchrl_drpo.reproduction.simulator.worlds import Worlds
from torchrl_drpo.rewards.uphill import cross_fit_bilinear, out_of_fold, uphill_actions


class _Prepared(Rule):
    """A rule on a log that a reward model has looked at.

    Args:
        base: the rule.
        folds: of the cross-fitting.
    """

    def __init__(self, base: Rule, *, folds: int = 5) -> None:
        super().__init__(base.quality)
        self.base, self.folds = base, folds

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Fits the models seed by seed, writes what they say, and prepares the rule."""
        found = [self._judge(log) for log in worlds.log.unbind(0)]
        predicted, slope = (torch.stack(column) for column in zip(*found, strict=True))
        self._write(worlds.log, predicted, slope)
        self.base.prepare(worlds, policies, steps)

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """The rule's."""
        return self.base.weigh(batch, step)

    def reweigh(self, weight: Tensor, scores: Scores, batch: TensorDict, step: int) -> Tensor:
        """The rule's."""
        return self.base.reweigh(weight, scores, batch, step)

    def report(self) -> dict[str, Tensor]:
        """The rule's."""
        return self.base.report()

    def _judge(self, log: TensorDict) -> tuple[Tensor, Tensor]:
        columns = log["observation"], log["action"]
        models, fold = cross_fit_bilinear(*columns, log["reward"], folds=self.folds)
        return out_of_fold(models, fold, *columns)

    def _write(self, log: TensorDict, predicted: Tensor, slope: Tensor) -> None:
        raise NotImplementedError


class Predicted(_Prepared):
    """The base rule on ``predicted_reward``: taper-Q, and DRPO-Q with a cross-fitted Q."""

    def _write(self, log: TensorDict, predicted: Tensor, slope: Tensor) -> None:
        log["predicted_reward"] = predicted


class Uphill(_Prepared):
    """The base rule on actions that were moved up the reward model's slope.

    Args:
        base: the rule.
        step: in units of the actions' norm.
        folds: of the cross-fitting.
    """

    def __init__(self, base: Rule, *, step: float = 0.3, folds: int = 5) -> None:
        super().__init__(base, folds=folds)
        self.step = step

    def _write(self, log: TensorDict, predicted: Tensor, slope: Tensor) -> None:
        pairs = zip(log["action"], slope, strict=True)
        log["action"] = torch.stack([uphill_actions(a, u, self.step) for a, u in pairs])
