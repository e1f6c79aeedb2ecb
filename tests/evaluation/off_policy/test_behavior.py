"""Fitted propensities: each row by a model that has not seen it, against frequencies by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tensordict import TensorDict
from torch.distributions import Categorical

from torchrl_drpo import CatalogueCategorical
from torchrl_drpo.evaluation.off_policy import (
    Cloning,
    ItemGroups,
    RowSample,
    fit_behavior,
    ips,
    make_logistic_actor,
    marginalised_ips,
    score_log,
    snips,
)
from torchrl_drpo.rewards import assign_folds

STATES, ITEMS = 3, 8


def make_log(rows: int = 3_000, users: int | None = None) -> tuple[TensorDict, torch.Tensor]:
    """A log without propensities, and the policy ``[S, V]`` that wrote it."""
    policy = torch.softmax(torch.randn(STATES, ITEMS), -1)
    state = torch.randint(STATES, (rows,))
    log = TensorDict({"state": state, "action": torch.multinomial(policy[state], 1)[:, 0]}, [rows])
    log["next", "reward"] = (torch.rand(rows) < (1 + log["action"]) / 10).float()
    if users is not None:
        log["user"] = torch.randint(users, (rows,))
    return log, policy


def frequencies(rows: TensorDict):
    """The policy of a state's actions, counted with one more of each."""
    count = torch.ones(STATES, ITEMS)
    count.index_put_((rows["state"], rows["action"]), torch.ones(len(rows)), accumulate=True)
    return lambda rows: Categorical(probs=count[rows["state"]])


def by_hand(log: TensorDict, folds: int, group: torch.Tensor | None) -> torch.Tensor:
    """The same of all rows in other folds, row by row in float64."""
    fold = assign_folds(len(log), folds, group=group, seed=0)
    out = torch.empty(len(log)).double()
    for i, (state, action) in enumerate(zip(log["state"], log["action"], strict=True)):
        others = (fold != fold[i]) & (log["state"] == state)
        same = (others & (log["action"] == action)).sum() + 1
        out[i] = (same.double() / (others.sum() + ITEMS)).log()
    return out


@pytest.mark.parametrize("users", [None, 40])
def test_every_row_is_judged_by_a_model_of_the_other_folds(users: int | None) -> None:
    log, _ = make_log(400, users)
    found = fit_behavior(log, frequencies, folds=4, floor=0, block=37)
    want = by_hand(log, 4, log.get("user", None))
    torch.testing.assert_close(found.log_propensity, want, rtol=0, atol=1e-6)
    assert found.log_likelihood == pytest.approx(want.mean().item(), abs=1e-6)
    assert (found.floor, found.clip_rate, found.folds) == (0.0, 0.0, 4)


def test_rows_of_one_user_are_never_in_two_folds() -> None:
    log, _ = make_log(400, users=30)
    learned: list[set[int]] = []
    asked: list[set[int]] = []

    def fit(rows):
        learned.append(set(rows["user"].tolist()))
        policy, mine = frequencies(rows), set()
        asked.append(mine)

        def at(rows):
            mine.update(rows["user"].tolist())
            return policy(rows)

        return at

    fit_behavior(log, fit, folds=3)
    assert len(learned) == 3
    assert all(not (a & b) for a, b in zip(learned, asked, strict=True))
    assert set().union(*asked) == set(log["user"].tolist())


def test_propensities_below_the_floor_are_raised_to_it() -> None:
    log, _ = make_log(400)
    free = fit_behavior(log, frequencies, floor=0)
    found = fit_behavior(log, frequencies, floor=0.1)
    torch.testing.assert_close(found.log_propensity, free.log_propensity.clamp_min(math.log(0.1)))
    below = (free.log_propensity < math.log(0.1)).double().mean().item()
    assert 0 < found.clip_rate == below
    assert found.log_likelihood == free.log_likelihood  # before clipping
    default = fit_behavior(log, frequencies)
    assert default.floor == pytest.approx(0.01 / ITEMS)


def test_groups_are_clipped_as_their_items_are() -> None:
    log, _ = make_log(600)
    one = ItemGroups(torch.arange(ITEMS))
    found = fit_behavior(log, frequencies, groups=one, floor=0.1)
    torch.testing.assert_close(found.log_group_propensity, found.log_propensity, rtol=0, atol=1e-6)
    target = Categorical(logits=torch.zeros(600, ITEMS))
    rows = score_log(target, log, behavior=found, groups=one)
    assert marginalised_ips(rows).value == pytest.approx(ips(rows).value, rel=1e-6)
    pairs = ItemGroups(torch.arange(ITEMS) // 2)
    found = fit_behavior(log, frequencies, groups=pairs, floor=0.1)
    free = fit_behavior(log, frequencies, groups=pairs, floor=0)
    want = free.log_group_propensity.clamp_min(math.log(0.2))
    torch.testing.assert_close(found.log_group_propensity, want)
    fold = assign_folds(600, 5, seed=0)
    i = 7
    probs = frequencies(log[fold != fold[i]])(log[i : i + 1]).probs[0].double()
    first = int(log["action"][i]) // 2 * 2
    want_one = probs[first : first + 2].sum().log().item()
    assert free.log_group_propensity[i].item() == pytest.approx(want_one, abs=1e-6)


def test_a_fit_to_enough_rows_is_the_logging_policy() -> None:
    log, policy = make_log(30_000)
    log["observation"] = torch.eye(STATES)[log["state"]]
    fit = Cloning(lambda: make_logistic_actor(ITEMS, log["observation"]), patience=10)
    found = fit_behavior(log, fit, folds=2)
    want = policy[log["state"], log["action"]].double()
    torch.testing.assert_close(found.log_propensity.exp(), want, rtol=0.1, atol=0.01)
    assert found.calibration.error < 0.02
    target = Categorical(logits=torch.randn(STATES, ITEMS)[log["state"]])
    fitted = snips(score_log(target, log, behavior=found))
    known = snips(score_log(target, log.set("propensity", want)))
    assert known.low < fitted.value < known.high
    assert known.verdict == "usable"
    assert fitted.verdict == "weak"  # and says why
    assert "fitted" in fitted.to_json()["reasons"][0]


def test_it_is_seeded_and_leaves_the_random_state_alone() -> None:
    log, _ = make_log(400)
    state = torch.get_rng_state()
    found = [fit_behavior(log, frequencies, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0].log_propensity, found[1].log_propensity)
    assert found[0].calibration == found[1].calibration
    assert not torch.equal(found[0].log_propensity, found[2].log_propensity)


def test_it_belongs_to_the_log_that_it_was_fitted_to() -> None:
    log, _ = make_log(400)
    sample = RowSample(log, 300, seed=1)
    target = Categorical(logits=torch.zeros(300, ITEMS))
    found = fit_behavior(sample, frequencies)
    rows = score_log(lambda rows: Categorical(logits=torch.zeros(len(rows), ITEMS)), sample,
                     behavior=found)  # fmt: skip
    assert rows.fitted
    assert torch.equal(rows.log_behavior, found.log_propensity)
    with pytest.raises(ValueError, match="other actions"):
        score_log(target, log[:300], behavior=found)
    groups = ItemGroups(torch.arange(ITEMS) % 2)
    with pytest.raises(ValueError, match="log_behavior_group"):
        marginalised_ips(score_log(target, log[sample.index], behavior=found, groups=groups))
    grouped = fit_behavior(sample, frequencies, groups=groups)
    with pytest.raises(ValueError, match="other groups"):
        score_log(target, log[sample.index], behavior=grouped, groups=ItemGroups(torch.arange(8)))


def test_what_it_says_is_strict_json() -> None:
    log, _ = make_log(400)
    found = fit_behavior(log, frequencies)
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert said["propensities"] == "fitted"
    assert said["log_likelihood"] == found.log_likelihood
    assert said["calibration"]["error"] == found.calibration.error
    assert "0.0% clipped" in str(found)

    def impossible(rows):
        logits = torch.zeros(ITEMS)
        logits[int(log["action"][0])] = -torch.inf
        return lambda rows: Categorical(logits=logits.expand(len(rows), -1))

    excluded = fit_behavior(log, impossible)
    assert json.loads(json.dumps(excluded.to_json(), allow_nan=False))["log_likelihood"] is None
    assert excluded.clip_rate > 0
    assert excluded.log_propensity.isfinite().all()


def always(*actions: int):
    log, _ = make_log(400)
    return log.set("action", torch.tensor(actions)[log["state"] % len(actions)])


def by_state(rows: TensorDict):
    """What :func:`frequencies` fits, as an actor that says what it reads."""
    policy = frequencies(rows)

    class Actor:
        in_keys = ("state",)

        def get_dist(self, rows):
            return policy(rows)

    return Actor()


def test_loggers_without_chance_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same action \(399 repeats\)"):
        fit_behavior(always(4), frequencies)
    with pytest.raises(ValueError, match="whenever a state repeats"):
        fit_behavior(always(4, 2, 7), by_state)
    # A state that never repeats: only the model's certainty shows it.
    x = torch.randn(2_000, 1)
    log = TensorDict({"observation": x, "action": (x[:, 0] > 0).long()}, [2_000])
    items = torch.tensor([[-1.0], [1.0]])

    def sure(rows):
        return lambda rows: CatalogueCategorical(100 * rows["observation"], items)

    with pytest.raises(ValueError, match="no chance"):
        fit_behavior(log, sure)
    # One row in ten at random is chance enough.
    some = torch.rand(2_000) < 0.1
    log["action"][some] = torch.randint(2, (int(some.sum()),))
    table = torch.tensor([[0.95, 0.05], [0.05, 0.95]])

    def wide(rows):
        return lambda rows: Categorical(table[(rows["observation"][:, 0] > 0).long()])

    assert fit_behavior(log, wide).clip_rate == 0.0


def test_few_repeats_decide_nothing() -> None:
    log, _ = make_log(19)
    log["action"][:] = 3
    assert fit_behavior(log, frequencies, folds=2).log_likelihood < 0
