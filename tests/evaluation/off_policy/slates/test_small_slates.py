"""Estimators on slates of few items: by enumeration of all slates, and by OBP's values."""

from __future__ import annotations

import math
import warnings
from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.evaluation.off_policy.slates.draws import random
from torchrl_drpo.evaluation.off_policy.slates import (
    SLATE_ESTIMATORS,
    LoggedSlates,
    cascade_doubly_robust,
    independent_ips,
    ordered_slates,
    plackett_luce_log_probs,
    pseudo_inverse,
    pseudo_inverse_weights,
    reward_interaction_ips,
    slot_moments,
    standard_ips,
)

K, L = 4, 3
UNBIASED = ["SIPS", "RIPS", "cascade-DR", "IIPS", "PI"]


class Enumerated:
    """Every slate that a logging policy can show, once, and both policies' chances of it.

    ``kind``: ``"luce"`` draws items without repetition, ``"product"`` fills slots independently.
    Probabilities are multiplied out here, in loops.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        every = permutations(range(K), L) if kind == "luce" else product(range(K), repeat=L)
        self.slates = list(every)
        self.scores = {"target": random(L, K, seed=1).exp(), "behavior": random(L, K, seed=2).exp()}
        self.chance = {
            who: [math.prod(self.conditional(who, s)) for s in self.slates] for who in self.scores
        }
        assert sum(self.chance["behavior"]) == pytest.approx(1)

    def policy(self, who: str, above: tuple[int, ...]) -> list[float]:
        row = self.scores[who][0 if self.kind == "luce" else len(above)].tolist()
        left = [0.0 if self.kind == "luce" and a in above else row[a] for a in range(K)]
        return [each / sum(left) for each in left]

    def conditional(self, who: str, slate: tuple[int, ...]) -> list[float]:
        return [self.policy(who, slate[:at])[a] for at, a in enumerate(slate)]

    def slot(self, who: str, at: int, item: int) -> float:
        pairs = zip(self.slates, self.chance[who], strict=True)
        return sum(chance for slate, chance in pairs if slate[at] == item)

    def logged(self, reward: list[list[float]], whole: bool = False) -> LoggedSlates:
        def table(function, who: str) -> Tensor:
            return torch.tensor([function(who, s) for s in self.slates], dtype=torch.float64).log()

        def slots(who: str, slate: tuple[int, ...]) -> list[float]:
            return [self.slot(who, at, item) for at, item in enumerate(slate)]

        q = {
            s[:at]: float(random(1, seed=hash(s[:at]) % 9973))
            for s in self.slates
            for at in range(1, L + 1)
        }
        q_of = [[q[s[: at + 1]] for at in range(L)] for s in self.slates]
        value = [
            [
                sum(
                    p * q.get((*s[:at], a), 0.0)
                    for a, p in enumerate(self.policy("target", s[:at]))
                )
                for at in range(L)
            ]
            for s in self.slates
        ]
        columns = torch.tensor(reward, dtype=torch.float64)
        return LoggedSlates(
            reward=columns.sum(-1) if whole else columns,
            log_target=table(self.conditional, "target"),
            log_behavior=table(self.conditional, "behavior"),
            log_target_slot=table(slots, "target"),
            log_behavior_slot=table(slots, "behavior"),
            prediction=torch.tensor(q_of, dtype=torch.float64),
            value=torch.tensor(value, dtype=torch.float64),
        )


def effects(reaches: str, slates: list[tuple[int, ...]]) -> list[list[float]]:
    """A reward at every position, of what it depends on."""
    seen = {
        "whole": lambda s, at: (at, s),
        "above": lambda s, at: (at, s[: at + 1]),
        "slot": lambda s, at: (at, s[at]),
    }[reaches]
    return [[float(random(1, seed=hash(seen(s, at)) % 99_991)) for at in range(L)] for s in slates]


def found(name: str, world: Enumerated, logged: LoggedSlates) -> float:
    """The estimator's expectation over the logging policy's slates."""
    weights = None
    if name == "PI" and world.kind == "luce":
        every = ordered_slates(K, L)
        moments = {
            who: slot_moments(every, torch.tensor(world.chance[who], dtype=torch.float64).log(), K)
            for who in world.chance
        }
        target = moments["target"].slot.expand(len(every), L, K)
        weights = pseudo_inverse_weights(every, target, moments["behavior"].pairs)
    estimator = SLATE_ESTIMATORS[name]
    estimate = estimator(logged) if weights is None else estimator(logged, weights)
    each = estimate.influence + estimate.value
    return (torch.tensor(world.chance["behavior"], dtype=torch.float64) @ each).item()


@pytest.mark.parametrize("kind", ["luce", "product"])
@pytest.mark.parametrize("name", UNBIASED)
@pytest.mark.parametrize("reaches", ["whole", "above", "slot"])
def test_unbiased_under_its_assumption_and_not_beyond(name: str, kind: str, reaches: str) -> None:
    world = Enumerated(kind)
    reward = effects(reaches, world.slates)
    truth = sum(p * sum(r) for p, r in zip(world.chance["target"], reward, strict=True))
    holds = {
        "SIPS": ["whole", "above", "slot"],
        "RIPS": ["above", "slot"],
        "cascade-DR": ["above", "slot"],
        "IIPS": ["slot"],
        "PI": ["slot"],
    }[name]
    error = abs(found(name, world, world.logged(reward)) - truth)
    if reaches in holds:
        assert error < 1e-10
    else:
        assert error > 1e-3


def test_pi_needs_the_slates_reward_alone() -> None:
    world = Enumerated("product")
    reward = effects("slot", world.slates)
    whole = world.logged(reward, whole=True)
    assert pseudo_inverse(whole).value == pytest.approx(pseudo_inverse(world.logged(reward)).value)
    assert standard_ips(whole).value == pytest.approx(standard_ips(world.logged(reward)).value)
    for by_position in (reward_interaction_ips, cascade_doubly_robust, independent_ips):
        with pytest.raises(ValueError, match="this estimator needs `reward` by position"):
            by_position(whole)


OBP = {
    "SIPS": "SlateStandardIPS",
    "SNSIPS": "SelfNormalizedSlateStandardIPS",
    "RIPS": "SlateRewardInteractionIPS",
    "SNRIPS": "SelfNormalizedSlateRewardInteractionIPS",
    "IIPS": "SlateIndependentIPS",
    "SNIIPS": "SelfNormalizedSlateIndependentIPS",
    "cascade-DR": "SlateCascadeDoublyRobust",
}


@pytest.mark.parametrize("name", OBP)
def test_equal_lengths_are_obps_value(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports'
        theirs = pytest.importorskip("obp.ope", exc_type=ImportError)
    n = 40
    action = torch.stack(
        [torch.randperm(K, generator=torch.Generator().manual_seed(i))[:L] for i in range(n)]
    )
    reward = (random(n, L, seed=3) > 0).double()
    log = {who: torch.zeros(n, L).double() for who in ("target", "behavior")}
    slot = {who: torch.zeros(n, L).double() for who in log}
    every = ordered_slates(K, L)
    choice = torch.zeros(n, L, K).double()
    for i in range(n):
        for j, who in enumerate(log):
            logits = random(K, seed=100 * i + j)
            log[who][i] = plackett_luce_log_probs(logits, action[i : i + 1])[0]
            marginal = slot_moments(every, plackett_luce_log_probs(logits, every).sum(-1), K).slot
            slot[who][i] = marginal.gather(1, action[i].unsqueeze(-1)).squeeze(-1).log()
            if who == "target":
                left = logits.expand(L, K).clone()
                for at in range(1, L):
                    left[at:, action[i, at - 1]] = -torch.inf
                choice[i] = left.softmax(-1)
    q = random(n, L, K, seed=4)
    flat = {
        "slate_id": np.repeat(np.arange(n), L),
        "position": np.tile(np.arange(L), n),
        "action": action.flatten().numpy(),
        "reward": reward.flatten().numpy(),
    }

    def spread(values: Tensor) -> np.ndarray:
        return values.exp().expand(n, L).flatten().numpy()

    joint, down = (
        {who: f(each) for who, each in log.items()}
        for f in (lambda x: x.sum(-1, keepdim=True), lambda x: x.cumsum(-1))
    )
    chances = {
        "SIPS": ("pscore", "evaluation_policy_pscore", joint),
        "RIPS": ("pscore_cascade", "evaluation_policy_pscore_cascade", down),
        "IIPS": ("pscore_item_position", "evaluation_policy_pscore_item_position", slot),
        "cascade-DR": ("pscore_cascade", "evaluation_policy_pscore_cascade", down),
    }[name.removeprefix("SN")]
    flat |= {chances[0]: spread(chances[2]["behavior"]), chances[1]: spread(chances[2]["target"])}
    estimator = getattr(theirs, OBP[name])
    if name == "cascade-DR":
        flat |= {
            "q_hat": q.flatten().numpy(),
            "evaluation_policy_action_dist": choice.flatten().numpy(),
        }
        value = estimator(len_list=L, n_unique_action=K).estimate_policy_value(**flat)
    else:
        value = estimator(len_list=L).estimate_policy_value(**flat)
    slates = LoggedSlates(
        reward,
        log["target"],
        log["behavior"],
        slot["target"],
        slot["behavior"],
        prediction=q.gather(-1, action.unsqueeze(-1)).squeeze(-1),
        value=(choice * q).sum(-1),
    )
    assert SLATE_ESTIMATORS[name](slates).value == pytest.approx(float(value), rel=1e-6)
