"""Rules that ask a reward model: for another quality, for better actions to clone, or at serving.

What is trained on asks models that are cross-fitted: no row is judged by one that saw it. What is
asked at serving is one model of all rows, for the users are new to it.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble, Scores
from torchrl_drpo.reproduction.simulator.rules.base import Rule
from torchrl_drpo.reproduction.simulator.worlds import Worlds
from torchrl_drpo.rewards.bilinear import BilinearReward, fit_bilinear_reward
from torchrl_drpo.rewards.explained import explained_variance
from torchrl_drpo.rewards.uphill import cross_fit_bilinear, out_of_fold, uphill_actions


class _Upon(Rule):
    """A rule upon another, which it trains and serves by, where it says nothing else.

    Args:
        base: the other.
    """

    def __init__(self, base: Rule) -> None:
        super().__init__(base.quality)
        self.base = base

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """The base's."""
        self.base.prepare(worlds, policies, steps)

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """The base's."""
        return self.base.weigh(batch, step)

    def reweigh(self, weight: Tensor, scores: Scores, batch: TensorDict, step: int) -> Tensor:
        """The base's."""
        return self.base.reweigh(weight, scores, batch, step)

    def serve(self, mean: Tensor, users: Tensor) -> Tensor:
        """The base's."""
        return self.base.serve(mean, users)

    def report(self) -> dict[str, Tensor]:
        """The base's."""
        return self.base.report()


class _Prepared(_Upon):
    """A rule on a log that a cross-fitted reward model has looked at.

    Args:
        base: the rule.
        folds: of the cross-fitting.
    """

    def __init__(self, base: Rule, *, folds: int = 5) -> None:
        super().__init__(base)
        self.folds = folds

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Fits the models seed by seed, writes what they say, and prepares the rule."""
        found = [self._judge(log) for log in worlds.log.unbind(0)]
        predicted, slope = (torch.stack(column) for column in zip(*found, strict=True))
        pairs = zip(predicted, worlds.log["reward"], strict=True)
        self.explained = [explained_variance(q, r) for q, r in pairs]
        self._write(worlds.log, predicted, slope)
        super().prepare(worlds, policies, steps)

    def report(self) -> dict[str, Tensor]:
        """The rule's, and how much the models explain, with the standard error."""
        shares, errors = (torch.stack(column) for column in zip(*self.explained, strict=True))
        known = {"explained_variance": shares, "explained_variance_error": errors}
        return super().report() | known

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


class UphillAtServing(_Upon):
    """The base rule's policies, whose means are moved up a reward model's slope where they serve.

    One model of all rows and no second training: the step could be chosen at serving.

    Args:
        base: the rule that trains.
        step: as :func:`~torchrl_drpo.rewards.uphill_actions` takes it, of the log's actions and
            the log's slopes.
    """

    def __init__(self, base: Rule, *, step: float = 0.3) -> None:
        super().__init__(base)
        self.step = step

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Fits a model of all rows, seed by seed, measures their slopes, and prepares the rule."""
        self.models = _models_of_all_rows(worlds)
        self.lengths = []
        for model, log in zip(self.models, worlds.log, strict=True):
            size = log["action"].norm(dim=-1).square().mean().sqrt()
            self.lengths.append(size / model.slope(log["observation"]).norm(dim=-1).mean())
        super().prepare(worlds, policies, steps)

    def serve(self, mean: Tensor, users: Tensor) -> Tensor:
        """The base's action, moved."""
        parts = zip(self.models, self.lengths, users, strict=True)
        moves = torch.stack([length * model.slope(states) for model, length, states in parts])
        return super().serve(mean, users) + self.step * moves


class DirectMethod(Rule):
    """No policy at all: whoever comes is served the item that a reward model says is best.

    The model is linear in the action's direction, and its slope the direction that it likes best;
    the item nearest to that is its best item, for all items have one norm.
    """

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Fits a model of all rows, seed by seed."""
        self.models = _models_of_all_rows(worlds)

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """Nothing is learned."""
        return torch.zeros_like(batch[self.quality])

    def serve(self, mean: Tensor, users: Tensor) -> Tensor:
        """The slope at every user."""
        pairs = zip(self.models, users, strict=True)
        return torch.stack([model.slope(states) for model, states in pairs])


def _models_of_all_rows(worlds: Worlds) -> list[BilinearReward]:
    columns = (worlds.log[name] for name in ("observation", "action", "reward"))
    return [fit_bilinear_reward(*rows) for rows in zip(*columns, strict=True)]
