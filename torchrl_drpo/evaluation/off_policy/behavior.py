r"""No propensity was logged: a model of the logging policy, cross-fitted, and what it is worth.

Every row's propensity is that of a model which has not seen the row, nor any row of the same user.
What follows from it is marked as fitted wherever it goes. It is only as good as the model: look at
its calibration, and at :func:`~torchrl_drpo.evaluation.off_policy.sensitivity.weight_bounds` for
what a factor would do. A logger without chance cannot be evaluated on, and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.evaluation.off_policy import logs
from torchrl_drpo.evaluation.off_policy.actors import (
    Policy,
    distribution_of,
    evaluating,
    log_prob_of,
)
from torchrl_drpo.evaluation.off_policy.calibration import Calibration, calibrate
from torchrl_drpo.evaluation.off_policy.catalogue import is_enumerable, num_actions
from torchrl_drpo.evaluation.off_policy.groups import ItemGroups
from torchrl_drpo.evaluation.off_policy.logs import Log, LogKeys
from torchrl_drpo.rewards import assign_folds

#: Fewest rows that repeat a state from which "one action a state" is concluded.
REPEATS = 20
#: A logger whose actions are foreseen with this mean probability has no chance in it.
CERTAIN = 0.99
#: Propensities below this share of the uniform probability are raised to it.
FLOOR = 0.01


@dataclass(frozen=True)
class FittedBehavior:
    """Propensities of one log's rows, by models that have not seen them.

    Attributes:
        log_propensity: logarithm, after clipping, float64 ``[N]``.
        log_group_propensity: of the logged actions' groups, float64 ``[N]``, where groups were
            given; after clipping at the floor times the items of the group.
        action: the rows' actions, by which the log is recognised.
        groups: the groups.
        calibration: observed against predicted, before clipping.
        log_likelihood: mean over the rows before clipping, in nats.
        floor: propensities below it were raised to it; 0 for none.
        clip_rate: share of the rows whose propensity was raised.
        folds: of the cross-fitting.
    """

    log_propensity: Tensor
    log_group_propensity: Tensor | None
    action: Tensor
    groups: ItemGroups | None
    calibration: Calibration
    log_likelihood: float
    floor: float
    clip_rate: float
    folds: int

    def columns(self, log: Log, keys: LogKeys, groups: ItemGroups | None) -> dict[str, Tensor]:
        """The logging policy's columns for the log that this was fitted to.

        Raises:
            ValueError: for another log, or other groups.
        """
        logs.check_same_actions(log, keys, self.action, "these propensities")
        out = {"log_behavior": self.log_propensity}
        if groups is None or self.log_group_propensity is None or self.groups is None:
            return out
        if not torch.equal(groups.of(self.action), self.groups.of(self.action)):
            raise ValueError("these propensities were fitted with other groups of items")
        return out | {"log_behavior_group": self.log_group_propensity}

    def to_json(self) -> dict[str, Any]:
        """As strict JSON data, but for the rows."""
        return {
            "propensities": "fitted",
            "log_likelihood": self.log_likelihood if math.isfinite(self.log_likelihood) else None,
            "floor": self.floor,
            "clip_rate": self.clip_rate,
            "folds": self.folds,
            "calibration": self.calibration.to_json(),
        }

    def __str__(self) -> str:
        return f"fitted propensities: {self.calibration}, {self.clip_rate:.1%} clipped"


def _check_numbers(floor: float | None, draws: int) -> None:
    if floor is not None and not 0 <= floor <= 1:
        raise ValueError(f"floor must be a probability in [0, 1], got {floor}")
    if draws < 1:
        raise ValueError(f"draws must be at least 1 a row, got {draws}")


@torch.no_grad()
def fit_behavior(
    log: Log,
    fit: Callable[[TensorDictBase], Policy],
    *,
    folds: int = 5,
    groups: ItemGroups | None = None,
    floor: float | None = None,
    draws: int = 4,
    seed: int = 0,
    keys: LogKeys | None = None,
    block: int = 8192,
) -> FittedBehavior:
    """Fits one model of the logging policy a fold, and asks each about the rows of its fold.

    Args:
        log: rows of batch size [N], a buffer, or a :class:`RowSample`; they are read into memory.
        fit: from rows to a policy that explains their actions:
            :class:`~torchrl_drpo.evaluation.off_policy.cloning.Cloning`, or a function.
        folds: K, at least 2; rows of one cluster (user, session) lie in one.
        groups: of items, whose propensities are wanted beside those of the items.
        floor: propensities below it are raised to it: the model cannot tell 1e-9 from 1e-7, and
            weights would. By default a hundredth of the uniform probability; 0 for none.
        draws: of the model a row, for its calibration.
        seed: of folds and draws; torch's random state is left as it was.
        keys: where the rows have what.
        block: rows asked about together.

    Returns:
        What :func:`score_log` takes as ``behavior``.

    Raises:
        ValueError: for a logger without chance: one action throughout, or at each state; or one
            whose actions the model foresees with certainty.

    Example:
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo.evaluation.off_policy import Cloning, make_logistic_actor
        >>> rows = TensorDict({"observation": torch.randn(600, 1)}, [600])
        >>> rows["action"] = (rows["observation"][:, 0] + torch.randn(600) > 0).long()
        >>> actor = lambda: make_logistic_actor(2, rows["observation"])
        >>> fitted = fit_behavior(rows, Cloning(actor, steps=100), folds=2)
        >>> fitted.log_likelihood > -0.693, fitted.clip_rate
        (True, 0.0)
    """
    keys = keys or LogKeys()
    _check_numbers(floor, draws)
    rows = logs.gathered(log)
    action = logs.actions_of(rows, keys)
    refuse_one_action(rows, action, None)
    fold = assign_folds(len(rows), folds, group=logs.cluster_of(rows, keys), seed=seed)
    logged = torch.empty(len(rows), dtype=torch.float64)
    drawn = torch.empty(draws, len(rows), dtype=torch.float64)
    of_group = None if groups is None else torch.empty_like(logged)
    least = floor
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for number in range(folds):
            policy = fit(rows[(fold != number).to(rows.device or "cpu")])
            if number == 0:
                refuse_one_action(rows, action, getattr(policy, "in_keys", None))
            with evaluating(policy):
                for mine in (fold == number).nonzero()[:, 0].split(block):
                    dist = distribution_of(policy, rows[mine])
                    logged[mine] = log_prob_of(dist, action[mine])
                    drawn[:, mine] = dist.log_prob(dist.sample((draws,))).double().cpu()
                    if groups is not None and of_group is not None:
                        of_group[mine] = groups.log_prob(dist, action[mine])
                    if least is None:
                        least = FLOOR / num_actions(dist) if is_enumerable(dist) else 0.0
    foreseen = logged.exp().mean().item()
    if not action.is_floating_point() and foreseen > CERTAIN:
        raise ValueError(
            f"a model that had not seen them foresees the logged actions with probability "
            f"{foreseen:.4f}: the logger has no chance in it, and its log says nothing of any "
            "other action; evaluate on a log with randomised actions"
        )
    lowest = math.log(least) if least else -math.inf
    if groups is not None and of_group is not None:
        # As the items are: a group of one must not part from its item.
        members = torch.bincount(groups.of(torch.arange(groups.num_items)))
        of_group = of_group.maximum(lowest + members[groups.of(action.cpu())].double().log())
    return FittedBehavior(
        log_propensity=logged.clamp_min(lowest),
        log_group_propensity=of_group,
        action=action.reshape(-1).cpu(),
        groups=groups,
        calibration=calibrate(logged, drawn),
        log_likelihood=logged.mean().item(),
        floor=least or 0.0,
        clip_rate=(logged < lowest).double().mean().item(),
        folds=folds,
    )


def refuse_one_action(
    rows: TensorDictBase, action: Tensor, keys: Sequence[NestedKey] | None
) -> None:
    """Refuses a log in which every state that repeats shows one action (or all do, without keys).

    Raises:
        ValueError: such a logger is deterministic, as far as the log goes.
    """
    if keys is None:
        repeats, same = len(rows) - 1, action == action[:1]
    else:
        first, again = logs.distinct(rows, keys)
        if first is None or again is None:
            return
        repeats, same = len(rows) - len(first), action == action[first][again]
    if repeats >= REPEATS and same.all():
        what = "the same action" if keys is None else "the same action whenever a state repeats"
        raise ValueError(
            f"the log shows {what} ({repeats:,} repeats): its logger is deterministic, and nothing "
            "can be said of any other action; evaluate on a log with randomised actions"
        )
