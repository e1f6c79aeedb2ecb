r"""No propensity was logged: importance weights fitted as such, by telling actions apart.

A model of the logging policy must get thousands of items' probabilities right, and an error there
is multiplied by the policy in question. A weight needs less. A classifier that tells the policy's
actions from the logged ones, by some features of state and action, has

.. math:: \operatorname{logit} P(\text{policy} | \phi(x, a)) = \log w(\phi),
          \qquad w(\phi) = \frac{p_e(\phi)}{p_b(\phi)}

and weighting by it is unbiased where rewards depend on state and action through the features alone.
The features are the policy's own log-probability, a reward model's prediction, and others that are
given. What they leave out cannot be seen in the weights: on simulated logs the estimates lie within
the intervals of true propensities where the policy follows what users like, and 1 to 5% too high
where it does not and the reward model is only seven tenths right. Say what a factor would do
(:func:`~torchrl_drpo.evaluation.off_policy.sensitivity.weight_bounds`).

Source: Sondhi, Arbour and Dimmery 2020, "Balanced off-policy evaluation in general action spaces"
(AISTATS); the ratio of features' densities is that of Saito and Joachims 2022 (MIPS).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.nn.functional import softplus

from torchrl_drpo.evaluation.off_policy import logs
from torchrl_drpo.evaluation.off_policy.actors import (
    Policy,
    distribution_of,
    evaluating,
    log_prob_of,
)
from torchrl_drpo.evaluation.off_policy.behavior import refuse_one_action
from torchrl_drpo.evaluation.off_policy.groups import ItemGroups
from torchrl_drpo.evaluation.off_policy.logs import Log, LogKeys
from torchrl_drpo.evaluation.off_policy.predictions import RewardModel, predicted
from torchrl_drpo.rewards import assign_folds

#: From rows, whose actions may be the policy's, to numbers that describe state and action.
Features = Callable[[TensorDictBase], Tensor]
STEPS, BATCH, CHECK_EVERY, PATIENCE, HELD_OUT = 1_500, 512, 25, 10, 8


@dataclass(frozen=True)
class FittedWeights:
    """Importance weights of one policy on one log's rows, by models that have not seen them.

    Attributes:
        log_ratio: logarithm of the weights, float64 ``[N]``; ``-inf`` where the policy would never
            act so.
        log_target: of the logged actions under the policy, by which it is recognised.
        action: the rows' actions, by which the log is.
        loss: cross entropy of the classifiers on rows that they have not seen, in nats; log 2
            where the policy's actions and the logged ones are all alike.
        folds: of the cross-fitting.
    """

    log_ratio: Tensor
    log_target: Tensor
    action: Tensor
    loss: float
    folds: int

    def columns(
        self, log: Log, keys: LogKeys, groups: ItemGroups | None, log_target: Tensor
    ) -> dict[str, Tensor]:
        """Both policies' columns: densities with respect to the logging policy, whose own is 1.

        Raises:
            ValueError: for another log or policy, or groups.
        """
        if groups is not None:
            raise ValueError(
                "fitted weights are of actions and not of groups of them: score without groups, or "
                "fit a model of the logging policy with fit_behavior(..., groups=groups)"
            )
        logs.check_same_actions(log, keys, self.action, "these weights")
        both = log_target.isfinite() & self.log_target.isfinite()
        apart = (log_target - self.log_target)[both].abs()
        if (
            not torch.equal(log_target.isfinite(), self.log_target.isfinite())
            or (apart > 1e-3).any()
        ):
            raise ValueError(
                "these weights were fitted to another policy; weights are of one policy on one log"
            )
        return {"log_target": self.log_ratio, "log_behavior": torch.zeros_like(self.log_ratio)}

    def to_json(self) -> dict[str, Any]:
        """As strict JSON data, but for the rows."""
        return {"weights": "fitted", "loss": self.loss, "folds": self.folds}

    def __str__(self) -> str:
        return (
            f"fitted weights: the policy's actions are told from the logged ones with "
            f"{self.loss:.3f} nats (0.693: not at all)"
        )


def _cross_fitted(
    logged: Tensor, wanted: Tensor, possible: Tensor, fold: Tensor, width: int
) -> tuple[Tensor, float]:
    """Log-odds ``[N]`` of each row by a classifier of the other folds, and their mean loss.

    Args:
        logged: numbers of the logged actions, ``[N, F]``.
        wanted: of the policy's, ``[draws, N, F]``.
        possible: whether the policy may take the logged action, ``[N]``.
        fold: of each row, ``[N]``.
        width: of the classifiers' hidden layer.
    """
    found, loss = torch.empty(len(logged), dtype=torch.float64), 0.0
    for number in range(int(fold.max()) + 1):
        mine, others = fold == number, fold != number
        model = _classifier(logged[others], wanted[:, others], possible[others], width)
        found[mine] = model(logged[mine])[:, 0].double()
        told = _loss(model, logged[mine], wanted[:, mine], possible[mine])
        loss += told.item() * mine.double().mean().item()
    return found, loss


@torch.no_grad()
def fit_weights(
    policy: Policy,
    log: Log,
    *,
    reward_model: RewardModel | None = None,
    features: Features | None = None,
    draws: int = 4,
    folds: int = 5,
    width: int = 32,
    seed: int = 0,
    unseen: bool = False,
    keys: LogKeys | None = None,
    block: int = 8192,
) -> FittedWeights:
    """Fits one classifier a fold, and asks each about the rows of its fold.

    Args:
        policy: the policy in question.
        log: rows of batch size [N], a buffer, or a :class:`RowSample`; they are read into memory.
        reward_model: whose prediction is a feature; without one the policy's own log-probability
            must say all that rewards depend on, unless ``features`` does.
        features: further numbers of rows, ``[n, F]``.
        draws: of the policy a row, at least 1.
        folds: K, at least 2; rows of one cluster (user, session) lie in one.
        width: of each classifier's hidden layer.
        seed: of folds, draws and classifiers; torch's random state is left as it was.
        unseen: whether the rows are new to every member of a cross-fitted reward model.
        keys: where the rows have what.
        block: rows asked about together.

    Returns:
        What :func:`score_log` takes as ``behavior``, for this policy and log.

    Raises:
        ValueError: for features that are not finite, or a logger that shows one action throughout
            or at each state.

    Example:
        >>> from tensordict import TensorDict
        >>> from torch.distributions import Categorical
        >>> rows = TensorDict({"action": torch.arange(3_000) % 3}, [3_000])  # all alike
        >>> policy = Categorical(probs=torch.tensor([0.2, 0.2, 0.6])).expand([3_000])
        >>> fitted = fit_weights(policy, rows, folds=2)
        >>> truth = torch.tensor([0.6, 0.6, 1.8])[rows["action"]]
        >>> bool((fitted.log_ratio.exp() - truth).abs().max() < 0.3)
        True
    """
    keys = keys or LogKeys()
    if draws < 1:
        raise ValueError(f"draws must be at least 1 a row, got {draws}")
    rows = logs.gathered(log)
    action = logs.actions_of(rows, keys)
    refuse_one_action(rows, action, None)
    refuse_one_action(rows, action, getattr(policy, "in_keys", None))
    fold = assign_folds(len(rows), folds, group=logs.cluster_of(rows, keys), seed=seed)
    size = len(rows) if isinstance(policy, torch.distributions.Distribution) else block
    own, theirs = [], []
    with torch.random.fork_rng(), evaluating(policy, reward_model, features):
        torch.manual_seed(seed)
        for part in rows.split(size):
            dist, inputs = distribution_of(policy, part), part.copy()

            def described(shown: Tensor, inputs: TensorDictBase = inputs, dist=dist) -> Tensor:
                inputs.set(keys.action, shown)
                columns = [log_prob_of(dist, shown).unsqueeze(-1)]
                if reward_model is not None:
                    value = predicted(reward_model, inputs, unseen=unseen)
                    columns.append(value.cpu().unsqueeze(-1))
                if features is not None:
                    columns.append(features(inputs).reshape(len(inputs), -1).double().cpu())
                return torch.cat(columns, -1)

            drawn = dist.sample((draws,))
            theirs.append(torch.stack([described(each) for each in drawn]))
            own.append(described(logs.actions_of(part, keys)))
        logged, wanted = torch.cat(own), torch.cat(theirs, 1)
        log_target = logged[:, 0].clone()
        logged[log_target == -torch.inf] = wanted[0, log_target == -torch.inf]
        _check_finite(logged, wanted)
        scale = wanted.flatten(0, 1)
        mean, spread = scale.mean(0), scale.std(0).clamp_min(1e-9)
        logged, wanted = ((each - mean) / spread for each in (logged, wanted))
        possible = log_target > -torch.inf
        found, loss = _cross_fitted(logged.float(), wanted.float(), possible, fold, width)
    found[~possible] = -torch.inf
    return FittedWeights(found, log_target, action.reshape(-1).cpu(), loss / 2, folds)


def _loss(model: nn.Module, logged: Tensor, wanted: Tensor, possible: Tensor) -> Tensor:
    """Cross entropy of both kinds, each alike; actions that are impossible are known to be so."""
    return (softplus(model(logged)[:, 0]) * possible).mean() + softplus(-model(wanted)).mean()


@torch.enable_grad()
def _classifier(logged: Tensor, wanted: Tensor, possible: Tensor, width: int) -> nn.Module:
    """Fitted by AdamW, stopped by held-out rows; features ``[n, F]`` and ``[k, n, F]``."""
    order = torch.randperm(len(logged))
    held, learned = order[: len(order) // HELD_OUT], order[len(order) // HELD_OUT :]
    last = nn.Linear(width, 1)
    nn.init.zeros_(last.weight)  # all weights alike, until rows say otherwise
    model = nn.Sequential(nn.Linear(logged.shape[-1], width), nn.Tanh(), last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    best, kept, since = math.inf, model.state_dict(), 0
    for step in range(STEPS + 1):
        if step % CHECK_EVERY == 0:
            with torch.no_grad():
                value = _loss(model, logged[held], wanted[:, held], possible[held]).item()
            since += 1
            if value < best:
                best, since = value, 0
                kept = {name: each.clone() for name, each in model.state_dict().items()}
            if since >= PATIENCE:
                break
        rows = learned[torch.randint(len(learned), (BATCH,))]
        optimizer.zero_grad(set_to_none=True)
        _loss(model, logged[rows], wanted[:, rows], possible[rows]).backward()
        optimizer.step()
    model.load_state_dict(kept)
    return model


def _check_finite(*features: Tensor) -> None:
    for each in features:
        bad = ~each.isfinite().all(-1)
        if bad.any():
            row = int(bad.nonzero()[0, -1])
            raise ValueError(
                f"features of row {row} are not finite: {each[bad][0].tolist()} (the policy's "
                "log-probability, then the reward model's prediction and what features= gives)"
            )
