"""Weights by a classifier: against ratios of known densities, and what they refuse."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tensordict import TensorDict
from torch.distributions import Categorical, Independent, Normal

from torchrl_drpo.evaluation.off_policy import (
    ItemGroups,
    RowSample,
    doubly_robust,
    fit_weights,
    ips,
    score_log,
    snips,
)

STATES, ITEMS = 4, 6


def make_log(rows: int = 8_000, users: int | None = None) -> tuple[TensorDict, torch.Tensor]:
    """A log without propensities, and the policy ``[S, V]`` that wrote it."""
    behavior = torch.softmax(torch.randn(STATES, ITEMS), -1)
    state = torch.randint(STATES, (rows,))
    log = TensorDict({"state": state}, [rows])
    log["action"] = torch.multinomial(behavior[state], 1)[:, 0]
    expected = 0.2 + 0.6 * log["action"] / ITEMS
    log["next", "reward"] = (torch.rand(rows) < expected).float()
    if users is not None:
        log["user"] = torch.randint(users, (rows,))
    return log, behavior


def one_hot(rows):
    """Every state and action a feature of its own: the weight is that of the policies."""
    return torch.nn.functional.one_hot(rows["state"] * ITEMS + rows["action"], STATES * ITEMS)


def softmax_policy(seed: int = 5, sharpness: float = 1.0):
    logits = sharpness * torch.randn(STATES, ITEMS, generator=torch.Generator().manual_seed(seed))
    return lambda rows: Categorical(logits=logits[rows["state"]]), torch.softmax(logits, -1)


def test_with_all_features_the_weight_is_that_of_the_policies() -> None:
    log, behavior = make_log(30_000)
    policy, probs = softmax_policy()
    found = fit_weights(policy, log, features=one_hot, draws=8)
    at = log["state"], log["action"]
    want = (probs[at] / behavior[at]).double()
    apart = (found.log_ratio.exp() - want).abs()
    assert apart.mean() < 0.1 * want.mean()
    assert found.log_ratio.exp().mean() == pytest.approx(1, abs=0.03)
    # the cross entropy of the right weights, over all states and actions
    p, q = probs / STATES, behavior / STATES
    entropy = -(p * (p / (p + q)).log() + q * (q / (p + q)).log()).sum() / 2
    assert found.loss == pytest.approx(entropy.item(), abs=0.01)


def test_features_that_rewards_depend_on_are_enough() -> None:
    log, behavior = make_log(10_000)
    policy, _ = softmax_policy()
    # The reward depends on the item; the state would say more of the weights than is needed.
    fitted = fit_weights(policy, log, features=lambda rows: torch.eye(ITEMS)[rows["action"]])
    log["propensity"] = behavior[log["state"], log["action"]]
    known, found = (score_log(policy, log, behavior=b) for b in (None, fitted))
    for estimator in (ips, snips):
        interval = estimator(known)
        assert interval.low < estimator(found).value < interval.high
    assert ips(found).verdict == "weak"
    assert "fitted" in ips(found).to_json()["reasons"][0]


def test_equal_policies_have_weights_of_one() -> None:
    log, behavior = make_log()
    found = fit_weights(lambda rows: Categorical(probs=behavior[rows["state"]]), log)
    assert (found.log_ratio.exp() - 1).abs().mean() < 0.05
    assert found.loss == pytest.approx(math.log(2), abs=1e-3)


def test_actions_that_the_policy_never_takes_have_no_weight() -> None:
    log, behavior = make_log(10_000)
    logits = behavior.log().clone()
    logits[:, 0] = -torch.inf
    found = fit_weights(
        lambda rows: Categorical(logits=logits[rows["state"]]), log, features=one_hot
    )
    never = log["action"] == 0
    assert torch.equal(found.log_ratio == -torch.inf, never)
    want = 1 / (1 - behavior[log["state"], 0].double())
    assert (found.log_ratio.exp() / want - 1)[~never].abs().mean() < 0.1
    rows = score_log(lambda rows: Categorical(logits=logits[rows["state"]]), log, behavior=found)
    assert ips(rows).diagnostics.mean_weight == pytest.approx(1, abs=0.05)


def test_densities_of_vectors_are_told_apart() -> None:
    log = TensorDict({"action": torch.randn(8_000, 2)}, [8_000])
    log["next", "reward"] = log["action"].sum(-1)
    policy = lambda rows: Independent(Normal(torch.full((len(rows), 2), 0.3), 0.9), 1)  # noqa: E731
    found = fit_weights(policy, log, features=lambda rows: rows["action"])
    rows = score_log(policy, log, behavior=found, density=True)
    assert snips(rows).value == pytest.approx(0.6, abs=0.08)


def test_a_reward_model_is_a_feature_and_corrects() -> None:
    log, _ = make_log()

    class Model:
        in_keys = ("state", "action")

        def __call__(self, rows):
            return 0.2 + 0.6 * rows["action"] / ITEMS

        def predict_all(self, rows):
            return (0.2 + 0.6 * torch.arange(ITEMS) / ITEMS).expand(len(rows), -1)

    policy, probs = softmax_policy()
    found = fit_weights(policy, log, reward_model=Model())
    rows = score_log(policy, log, reward_model=Model(), behavior=found)
    truth = (probs @ (0.2 + 0.6 * torch.arange(ITEMS) / ITEMS))[log["state"]].mean().item()
    assert doubly_robust(rows).value == pytest.approx(truth, abs=0.02)
    assert ips(rows).value == pytest.approx(truth, abs=0.04)


def test_every_row_is_judged_by_a_model_of_other_users() -> None:
    # What a user saw is told by his number alone, to the log's rows and not to the policy's: a
    # model that had seen him would tell the two apart, one of other users cannot.
    log, _ = make_log(2_000, users=40)
    log["action"] = log["user"] % ITEMS
    policy, _ = softmax_policy(sharpness=0.0)
    hashed = torch.randn(40, ITEMS, 60)
    told = {}
    for grouped in (True, False):
        rows = log if grouped else log.clone().rename_key_("user", "person")
        found = fit_weights(
            policy,
            rows,
            features=lambda rows: hashed[
                rows.get("user", rows.get("person", None)), rows["action"]
            ],
            folds=4,
        )
        told[grouped] = found.loss
    assert told[False] < 0.3
    assert told[True] > 0.6


def test_it_belongs_to_its_policy_and_its_log_and_is_seeded() -> None:
    log, _ = make_log(600)
    policy, _ = softmax_policy()
    state = torch.get_rng_state()
    found = [fit_weights(policy, log, folds=2, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0].log_ratio, found[1].log_ratio)
    assert not torch.equal(found[0].log_ratio, found[2].log_ratio)
    with pytest.raises(ValueError, match="another policy"):
        score_log(softmax_policy(6)[0], log, behavior=found[0])
    with pytest.raises(ValueError, match="other actions"):
        score_log(policy, log[:300], behavior=found[0])
    with pytest.raises(ValueError, match="not of groups"):
        score_log(policy, log, behavior=found[0], groups=ItemGroups(torch.arange(ITEMS)))
    sample = RowSample(log, 400, seed=1)
    part = score_log(policy, sample, behavior=fit_weights(policy, sample, folds=2))
    assert part.fitted
    assert part.log_rows == 600
    said = json.loads(json.dumps(found[0].to_json(), allow_nan=False))
    assert said == {"weights": "fitted", "loss": found[0].loss, "folds": 2}
    assert "0.693: not at all" in str(found[0])


def test_what_has_no_weights_is_refused() -> None:
    log, _ = make_log(600)
    policy, _ = softmax_policy()
    with pytest.raises(ValueError, match="draws must be at least 1"):
        fit_weights(policy, log, draws=0)
    with pytest.raises(ValueError, match="features of row 7 are not finite"):
        fit_weights(
            policy, log, features=lambda rows: torch.where(torch.arange(600) == 7, torch.inf, 0.0)
        )
    with pytest.raises(ValueError, match="deterministic"):
        fit_weights(policy, log.clone().set("action", torch.full((600,), 2)))
