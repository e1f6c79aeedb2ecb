"""Estimators of slates: by enumeration of all slates, by plain formulas, and by OBP's values."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor

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


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def drawn(slates: int = 50, length: int = 4, **options) -> LoggedSlates:
    def column(seed: int) -> Tensor:
        return random(slates, length, seed=seed)

    def log(seed: int) -> Tensor:
        return (0.2 + 0.8 * torch.sigmoid(column(seed))).log()

    given = {
        "reward": column(1),
        "log_target": log(2), "log_behavior": log(3),
        "log_target_slot": log(4), "log_behavior_slot": log(5),
        "prediction": column(6), "value": column(7),
    }  # fmt: skip
    return LoggedSlates(**(given | options))


UNEQUAL = torch.arange(4) < torch.tensor([4, 1, 3, 2, 4]).repeat(10).unsqueeze(-1)


def by_formula(name: str, s: LoggedSlates) -> float:
    m = s.mask.numpy()
    r, q, v = (np.where(m, c.numpy(), 0) for c in (s.reward, s.prediction, s.value))
    step = np.where(m, (s.log_target - s.log_behavior).exp().numpy(), 1)
    slot = np.where(m, (s.log_target_slot - s.log_behavior_slot).exp().numpy(), 1)
    down = step.cumprod(1)
    above = np.concatenate([np.ones((len(m), 1)), down[:, :-1]], 1)
    whole, linear = down[:, -1:], 1 - m.sum(1) + (slot * m).sum(1)
    terms = {
        "SIPS": whole * r,
        "SNSIPS": whole * r / whole.mean(),
        "RIPS": down * r,
        "SNRIPS": down * r / down.mean(0),
        "cascade-DR": down * (r - q) + above * v,
        "SN cascade-DR": down * (r - q) / down.mean(0) + above * v / above.mean(0),
        "IIPS": slot * r,
        "SNIIPS": slot * r / slot.mean(0),
        "PI": linear[:, None] * r,
        "SNPI": linear[:, None] * r / linear.mean(),
    }
    return float(terms[name].sum(1).mean())


@pytest.mark.parametrize("mask", [None, UNEQUAL])
@pytest.mark.parametrize("name", SLATE_ESTIMATORS)
def test_value_is_the_formula_whatever_the_padding_holds(name: str, mask: Tensor | None) -> None:
    slates = drawn(mask=mask)
    estimate = SLATE_ESTIMATORS[name](slates)
    assert estimate.name == name
    assert estimate.value == pytest.approx(by_formula(name, slates), rel=1e-12)
    assert estimate.standard_error == pytest.approx(
        (estimate.influence.std() / math.sqrt(50)).item(), rel=1e-9
    )
    padded = {
        column: torch.cat(
            [torch.where(slates.mask, getattr(slates, column), math.nan), torch.full((50, 2), 7.0)],
            1,
        )
        for column in (
            "reward",
            "log_target",
            "log_behavior",
            "log_target_slot",
            "log_behavior_slot",
            "prediction",
            "value",
        )
    }
    wide = torch.cat([slates.mask, torch.zeros(50, 2, dtype=torch.bool)], 1)
    again = SLATE_ESTIMATORS[name](LoggedSlates(**padded, mask=wide))
    assert again.value == pytest.approx(estimate.value, rel=1e-12)
    assert again.standard_error == pytest.approx(estimate.standard_error, rel=1e-12)


@pytest.mark.parametrize("name", [n for n in SLATE_ESTIMATORS if n.startswith("SN")])
def test_ratios_have_the_standard_error_of_ratios(name: str) -> None:
    # A constant reward in every slot: the ratio is that constant in every log, without any error.
    slates = drawn(
        reward=torch.ones(50, 4), prediction=torch.zeros(50, 4), value=torch.zeros(50, 4)
    )
    estimate = SLATE_ESTIMATORS[name](slates)
    assert estimate.value == pytest.approx(4)
    assert estimate.standard_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", SLATE_ESTIMATORS)
def test_one_position_is_importance_sampling(name: str) -> None:
    slates = drawn(length=1, prediction=torch.zeros(50, 1), value=torch.zeros(50, 1))
    slates = replace(
        slates, log_target_slot=slates.log_target, log_behavior_slot=slates.log_behavior
    )
    expected = SLATE_ESTIMATORS["SNSIPS" if name.startswith("SN") else "SIPS"](slates)
    estimate = SLATE_ESTIMATORS[name](slates)
    assert estimate.value == pytest.approx(expected.value, rel=1e-12)
    assert estimate.standard_error == pytest.approx(expected.standard_error, rel=1e-12)


def test_users_slates_vary_as_a_whole() -> None:
    twice = drawn(25).take(torch.arange(50) // 2)
    one = reward_interaction_ips(replace(twice, cluster=torch.arange(50) // 2))
    assert one.standard_error == pytest.approx(reward_interaction_ips(drawn(25)).standard_error)
    assert one.diagnostics.units == 25


def test_a_position_without_overlap_is_an_error_and_the_worst_one_speaks() -> None:
    slates = drawn()
    log = slates.log_target_slot.clone()
    log[1:, 2] = -torch.inf
    assert independent_ips(replace(slates, log_target_slot=log)).verdict == "meaningless"
    log[:, 2] = -torch.inf
    with pytest.raises(ValueError, match="at position 2 none of the 50 logged items"):
        independent_ips(replace(slates, log_target_slot=log))
    with pytest.raises(ValueError, match="no overlap"):
        standard_ips(replace(slates, log_target=log))


def test_thirty_items_near_probability_1e_6_stay_finite() -> None:
    slates = drawn(length=30)
    logs = {
        name: getattr(slates, name) / 10 + math.log(1e-6) for name in ("log_target", "log_behavior")
    }
    found = reward_interaction_ips(replace(slates, **logs))
    assert math.isfinite(found.value)
    assert standard_ips(replace(slates, **logs)).diagnostics.effective_rows > 1


def test_logs_of_whole_slates_serve_the_estimators_of_whole_slates() -> None:
    slates = drawn()
    whole = replace(
        slates, log_target=slates.log_target.sum(-1), log_behavior=slates.log_behavior.sum(-1)
    )
    assert standard_ips(whole).value == pytest.approx(standard_ips(slates).value)
    with pytest.raises(ValueError, match="needs `log_target` by position"):
        reward_interaction_ips(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": torch.ones(())}, r"slates need rewards \[N, L\] or \[N\]"),
        ({"log_behavior": None}, "log_target and log_behavior come together"),
        ({"log_target_slot": torch.zeros(50, 3)}, "log_target_slot has shape"),
        ({"log_behavior_slot": torch.full((50, 4), -torch.inf)}, "of slate 0, position 0 is -inf"),
        ({"log_target": torch.full((50, 4), 0.5)}, "are these probabilities"),
        ({"prediction": torch.ones(50)}, r"prediction has shape \(50,\)"),
        (
            {"mask": torch.tensor([0, 1, 1, 1]).expand(50, 4)},
            "slate 0 has no position at its start",
        ),
        ({"cluster": torch.ones(3)}, "cluster has 3 entries for 50 slates"),
    ],
)
def test_columns_that_are_none_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(**change)


@pytest.mark.parametrize("name", SLATE_ESTIMATORS)
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="this estimator needs `log_target"):
        SLATE_ESTIMATORS[name](LoggedSlates(torch.ones(5, 2)))


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
