r"""From a policy and a log to what estimators see: one number a row for each quantity.

The logged actions' probabilities come from the policy's own distribution. Over a catalogue one pass
of tiles gives the normaliser, and with it :math:`\hat V`, the groups' probabilities and the share
of the policy on items that no row shows; of other policies draws give them. Nothing of shape
[rows, items] exists as a whole.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from torchrl_drpo.evaluation.off_policy import logs
from torchrl_drpo.evaluation.off_policy.actors import Policy, evaluating
from torchrl_drpo.evaluation.off_policy.balance import FittedWeights
from torchrl_drpo.evaluation.off_policy.behavior import FittedBehavior
from torchrl_drpo.evaluation.off_policy.columns import (
    Columns,
    TargetColumns,
    log_columns,
    logging_columns,
)
from torchrl_drpo.evaluation.off_policy.groups import ItemGroups
from torchrl_drpo.evaluation.off_policy.logs import Log, LogKeys
from torchrl_drpo.evaluation.off_policy.predictions import RewardModel, check_reads_action
from torchrl_drpo.evaluation.off_policy.rows import LoggedRows


@torch.no_grad()
def score_log(
    policy: Policy,
    log: Log,
    *,
    reward_model: RewardModel | None = None,
    draws: int | None = None,
    behavior: Policy | FittedBehavior | FittedWeights | None = None,
    groups: ItemGroups | None = None,
    density: bool = False,
    unseen: bool = False,
    seed: int = 0,
    keys: LogKeys | None = None,
    block: int = 8192,
) -> LoggedRows:
    r"""The rows of a log under a policy, for any estimator.

    Args:
        policy: the policy in question. Modules are asked in evaluation mode; a function sees to
            that by itself.
        log: rows of batch size [N]; a buffer or a part of one; a :class:`RowSample` of either; or
            blocks of rows, such as ``buffer.batches(8192)``.
        reward_model: for :math:`\hat q` and :math:`\hat V`; see the module ``predictions``.
        draws: :math:`\hat V` is the mean of the model over so many draws of the policy at each row;
            their noise is a part of the rows' variance and so of every standard error. ``None``
            adds up over the whole catalogue, which for two towers is faster, too.
        behavior: the logging policy itself, or what
            :func:`~torchrl_drpo.evaluation.off_policy.behavior.fit_behavior` or
            :func:`~torchrl_drpo.evaluation.off_policy.balance.fit_weights` made of this very log;
            the rows' own propensities are not read then.
        groups: of items, for MIPS and OffCEM.
        density: whether actions are vectors and propensities densities.
        unseen: whether the rows are new to every member of a cross-fitted reward model.
        seed: of the draws; torch's random state is left as it was.
        keys: where the rows have what.
        block: rows taken together.

    Returns:
        The rows, in the log's order.

    Raises:
        KeyError: for rows without propensity, or without what policy and model read.
        ValueError: for numbers that no estimate can be made of, a logger that always took one
            action, or an exact :math:`\hat V` that policy or model do not offer.

    Example:
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import make_catalogue_actor
        >>> from torchrl_drpo.evaluation.off_policy.estimators import doubly_robust
        >>> from torchrl_drpo.evaluation.off_policy.predictions import InnerProductReward
        >>> log = TensorDict({"action": torch.arange(300) % 5, "user": torch.arange(300)}, [300])
        >>> log["observation", "history"] = torch.full((300, 3), -1)
        >>> log["next", "reward"] = (log["action"] == 2).float().unsqueeze(-1)
        >>> log["propensity"] = torch.full((300,), 0.2)
        >>> model = InnerProductReward(lambda rows: torch.ones(len(rows), 1), torch.ones(5, 1) / 5)
        >>> rows = score_log(make_catalogue_actor(5, dim=4), log, reward_model=model)
        >>> round(rows.value.mean().item(), 4), rows.never_logged
        (0.2, 0.0)
        >>> doubly_robust(rows).verdict
        'usable'
    """
    keys = keys or LogKeys()
    if draws is not None and draws < 1:
        raise ValueError(f"draws must be at least 1 a row, got {draws}")
    if reward_model is not None:
        check_reads_action(reward_model, keys.action)
    size = logs.row_count(log) if isinstance(policy, Distribution) else block
    if size is None:
        raise TypeError("a distribution holds all rows at once: give the log as one TensorDict")
    fitted = isinstance(behavior, FittedBehavior | FittedWeights)
    target = TargetColumns(policy, log, reward_model, draws, groups, unseen, keys)
    parts: list[Columns] = []
    with torch.random.fork_rng(), evaluating(policy, behavior, reward_model):
        torch.manual_seed(seed)
        for rows in logs.blocks(log, size):
            check_density(logs.actions_of(rows, keys), density=density)
            found = log_columns(rows, keys) | target(rows)
            if not fitted:
                found |= logging_columns(rows, behavior, groups, keys)
            parts.append({name: each.cpu() for name, each in found.items()})
    if not parts:
        raise ValueError("off-policy evaluation needs at least one logged row, got none")
    columns = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    outside = columns.pop("outside", torch.full((1, 1), math.nan)).mean(0)
    if isinstance(behavior, FittedBehavior):
        columns |= behavior.columns(log, keys, groups)
    elif isinstance(behavior, FittedWeights):
        columns |= behavior.columns(log, keys, groups, columns["log_target"])
    everything = logs.whole(log)
    scored = LoggedRows(
        **columns,
        density=density or isinstance(behavior, FittedWeights),
        fitted=fitted,
        never_logged=outside[0].item(),
        never_logged_group=outside[-1].item() if groups is not None else math.nan,
        log_rows=None if everything is log else len(everything),
    )
    refuse_certain_logger(scored)
    return scored


def check_density(action: Tensor, *, density: bool) -> None:
    """Refuses to take the probability of an item for a density at its vector, or the reverse.

    Raises:
        ValueError: unless actions are vectors exactly where densities are meant.
    """
    if action.is_floating_point() and not density:
        raise ValueError(
            "the actions are vectors: say density=True where the log's propensities are densities "
            "at them; where they are probabilities of items, evaluate a policy over items, with "
            "LogKeys(action=...) for where the rows have the item"
        )
    if density and not action.is_floating_point():
        raise ValueError(f"density=True is for actions that are vectors, got {action.dtype}")


def refuse_certain_logger(rows: LoggedRows) -> None:
    """Refuses a log whose every action was certain, unless the policy is as certain of them.

    Raises:
        ValueError: nothing is known then of any other action.
    """
    if rows.density or (rows.log_behavior < 0).any() or (rows.log_target == 0).all():
        return
    raise ValueError(
        "the logging policy took every logged action with probability 1: it was deterministic, and "
        "its log says nothing of what any other action would have earned; evaluate on a log with "
        "randomised actions"
    )
