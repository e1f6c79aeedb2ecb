"""What one block of a log's rows tells of a policy: the columns of evaluation, block by block."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torch.distributions import Distribution

from torchrl_drpo.evaluation.off_policy import logs
from torchrl_drpo.evaluation.off_policy.actors import Policy, distribution_of, log_prob_of
from torchrl_drpo.evaluation.off_policy.catalogue import (
    at_rows,
    catalogue_sums,
    is_enumerable,
    num_actions,
    scores_of,
)
from torchrl_drpo.evaluation.off_policy.groups import ItemGroups
from torchrl_drpo.evaluation.off_policy.logs import Log, LogKeys
from torchrl_drpo.evaluation.off_policy.predictions import (
    RewardModel,
    predicted,
    reward_tiles,
    state_keys,
)

Columns = dict[str, Tensor]


def log_columns(rows: TensorDictBase, keys: LogKeys) -> Columns:
    """Of the log alone: ``reward``, and ``cluster`` where it has one."""
    reward = rows.get(keys.reward, None)
    if reward is None:
        raise KeyError(
            f"the rows have no reward {keys.reward!r}; they have "
            f"{sorted(map(str, rows.keys(True, True)))}"
        )
    out = {"reward": logs.one_a_row(reward, rows, "the reward")}
    cluster = logs.cluster_of(rows, keys)
    return out if cluster is None else out | {"cluster": cluster}


def logging_columns(
    rows: TensorDictBase, behavior: Policy | None, groups: ItemGroups | None, keys: LogKeys
) -> Columns:
    """Of the logging policy: ``log_behavior`` as logged, or all from the policy itself."""
    if behavior is None:
        return {"log_behavior": logs.log_propensity_of(rows, keys)}
    action = logs.actions_of(rows, keys)
    first, again = logs.distinct(rows, getattr(behavior, "in_keys", None))
    dist = distribution_of(behavior, rows if first is None else rows[first])
    if not is_enumerable(dist):
        dist = dist if again is None else distribution_of(behavior, rows)
        return {"log_behavior": log_prob_of(dist, action)}
    lse = catalogue_sums(dist).log_normaliser
    if again is not None:
        dist, lse = at_rows(dist, again), lse[again]
    out = {"log_behavior": scores_of(dist, action).cpu() - lse}
    if groups is not None:
        out["log_behavior_group"] = groups.log_prob(dist, action, lse)
    return out


@dataclass
class TargetColumns:
    """Of the policy in question; see :func:`score_log` for the attributes.

    Called with a block of rows, gives ``log_target`` and, as far as asked for, ``prediction``,
    ``value``, ``log_target_group`` and ``outside``, the policy's share of items (and, behind it, of
    items of groups) that the whole log never shows, ``[n, 1 or 2]``.
    """

    policy: Policy
    log: Log
    model: RewardModel | None
    draws: int | None
    groups: ItemGroups | None
    unseen: bool
    keys: LogKeys
    _sets: Tensor | None = field(default=None, init=False)

    def __call__(self, rows: TensorDictBase) -> Columns:
        """See the class."""
        action, out = logs.actions_of(rows, self.keys), {}
        if self.model is not None:
            out["prediction"] = predicted(self.model, rows, unseen=self.unseen)
        # Draws are not shared between rows: their noise would be common to them.
        first, again = logs.distinct(rows, None if self.draws else self._state_keys())
        states = rows if first is None else rows[first]
        dist = distribution_of(self.policy, states)
        if self.draws is None and is_enumerable(dist):
            return out | self._summed(dist, states, action, again)
        dist = dist if again is None else distribution_of(self.policy, rows)
        out["log_target"] = log_prob_of(dist, action)
        if self.groups is not None:
            out["log_target_group"] = self.groups.log_prob(dist, action)
        if self.draws is not None:
            return out | self._drawn(dist, rows, self.draws)
        if self.model is not None:
            raise ValueError(
                f"the expectation of a reward model under a {type(dist).__name__} takes draws of "
                "the policy: say draws=64, or more"
            )
        return out

    def _summed(
        self, dist: Distribution, states: TensorDictBase, action: Tensor, again: Tensor | None
    ) -> Columns:
        """By one pass over the catalogue at the states that differ."""
        tiles = None
        if self.model is not None:
            tiles = reward_tiles(self.model, states, num_actions(dist), unseen=self.unseen)
            if tiles is None:
                raise ValueError(
                    "the reward model predicts one action at a time; give draws=64 of the policy, "
                    "or a model with tiles(rows), such as InnerProductReward"
                )
        reward, at_a_time = tiles or (None, None)
        inside = self._logged_sets(num_actions(dist))
        inside = None if inside is None else inside[:, : num_actions(dist)]
        sums = catalogue_sums(dist, reward=reward, inside=inside, rows_at_a_time=at_a_time)
        found = {"lse": sums.log_normaliser, "value": sums.value}
        found["outside"] = None if sums.outside is None else sums.outside.T
        out = {name: each for name, each in found.items() if each is not None}
        if again is not None:
            dist, out = at_rows(dist, again), {name: each[again] for name, each in out.items()}
        lse = out.pop("lse")
        out["log_target"] = scores_of(dist, action).cpu() - lse
        if self.groups is not None:
            out["log_target_group"] = self.groups.log_prob(dist, action, lse)
        return out

    def _drawn(self, dist: Distribution, rows: TensorDictBase, draws: int) -> Columns:
        """By draws of the policy at every row."""
        drawn = dist.sample(torch.Size([draws]))
        out: Columns = {}
        if self.model is not None:
            inputs, total = rows.copy(), torch.zeros(len(rows), dtype=torch.float64)
            for action in drawn:
                inputs.set(self.keys.action, action)
                total += predicted(self.model, inputs, unseen=self.unseen).cpu()
            out["value"] = total / draws
        are_items = drawn.ndim == 2 and not drawn.is_floating_point()
        inside = self._logged_sets(0) if are_items else None
        if inside is not None:
            known = inside.shape[-1]
            item = drawn.cpu()
            shown = (item < known) & inside[:, item.clamp_max(known - 1)]
            out["outside"] = (~shown).double().mean(1).T
        return out

    def _logged_sets(self, num_items: int) -> Tensor | None:
        """Items, and items of groups, that the whole log shows: bool ``[1 or 2, V]``."""
        if self._sets is None:
            count = num_items if self.groups is None else self.groups.num_items
            seen = logs.logged_items(self.log, self.keys, count)
            if seen is None:
                return None
            self._sets = seen.unsqueeze(0)
            if self.groups is not None:
                of_item = self.groups.of(torch.arange(count))
                shown = torch.bincount(of_item[seen], minlength=len(self.groups)) > 0
                self._sets = torch.stack([seen, shown[of_item]])
        return self._sets

    def _state_keys(self) -> list[NestedKey] | None:
        """Entries that decide what is summed over the catalogue; ``None`` where nobody knows."""
        of_policy = getattr(self.policy, "in_keys", None)
        of_model = [] if self.model is None else state_keys(self.model, self.keys.action)
        return None if of_policy is None or of_model is None else [*of_policy, *of_model]
