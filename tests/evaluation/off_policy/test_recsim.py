"""Simulated logs without their propensities: what is fitted against what is known."""

from __future__ import annotations

import pytest
import torch
from torchrl.data.datasets import load_dataset

from torchrl_drpo import CatalogueCategorical, RecReplayBuffer, RecSimEnv
from torchrl_drpo.evaluation.off_policy import (
    Cloning,
    InnerProductReward,
    LogKeys,
    doubly_robust,
    fit_behavior,
    fit_weights,
    ips,
    make_logistic_actor,
    score_log,
    self_normalised_doubly_robust,
    snips,
    weight_bounds,
)
from torchrl_drpo.functional.similarity import unit
from torchrl_drpo.rewards import cross_fit_bilinear

ROWS, SHARPNESS = 8_000, 4.0
KEYS = LogKeys(action="item")


def open_log(name: str):
    """All rows of a simulated log, with their true propensities; and the log's world."""
    assert RecReplayBuffer  # its import registers the prefix
    buffer = load_dataset(
        f"rec:{name}", rows=ROWS, batch_size=8, columns=["item"], propensity=True, seed=0
    )
    return buffer[torch.arange(ROWS)], RecSimEnv("table", seed=0)


def make_policy(env: RecSimEnv, astray: float):
    """Items in the direction of a user's interest, led astray by a map of the state."""
    items = unit(env.items)
    other = torch.randn(10, items.shape[1], generator=torch.Generator().manual_seed(1))

    def policy(rows):
        state = rows["observation"]
        towards = unit(env.world.interest(state) + astray * unit(state @ other))
        return CatalogueCategorical(SHARPNESS * towards, items)

    policy.in_keys = ["observation"]
    return policy


def fit_reward(rows, env: RecSimEnv) -> InnerProductReward:
    """A cross-fitted bilinear model: each row by the model that has not seen it."""
    reward = rows["next", "reward"][:, 0]
    models, fold = cross_fit_bilinear(rows["observation"], rows["action"], reward)
    rows["fold"] = fold

    def of_fold(what, rows):
        found = torch.stack([what(model, rows["observation"]) for model in models])
        return found[rows["fold"], torch.arange(len(rows))]

    nothing = torch.zeros(env.items.shape[1])
    return InnerProductReward(
        lambda rows: of_fold(lambda model, state: model.slope(state), rows),
        unit(env.items),
        value=lambda rows: of_fold(
            lambda model, state: model(state, nothing.expand(len(state), -1)), rows
        ),
        action_key="item",
        in_keys=["observation", "fold"],
    )


def scored(name: str, astray: float):
    """The rows by true propensities, and by weights fitted without them."""
    rows, env = open_log(name)
    policy, model = make_policy(env, astray), fit_reward(rows, env)
    blind = rows.exclude("propensity")
    weights = fit_weights(policy, blind, reward_model=model, keys=KEYS)
    known = score_log(policy, rows, reward_model=model, keys=KEYS)
    return known, score_log(policy, blind, reward_model=model, behavior=weights, keys=KEYS)


@pytest.mark.parametrize(
    "name", ["recsim-medium", pytest.param("recsim-extreme", marks=pytest.mark.slow)]
)
def test_fitted_weights_lie_in_the_interval_of_the_true_ones(name: str) -> None:
    known, fitted = scored(name, astray=0.0)
    for estimator in (ips, snips, doubly_robust, self_normalised_doubly_robust):
        interval, found = estimator(known), estimator(fitted)
        assert interval.low < found.value < interval.high, found.name
        assert found.verdict == "weak"  # the propensities are fitted, and it says so
    assert fitted.log_ratio.exp().mean() == pytest.approx(1, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["recsim-medium", pytest.param("recsim-extreme", marks=pytest.mark.slow)]
)
def test_what_the_features_leave_out_is_a_few_percent(name: str) -> None:
    # A policy that follows something else, and a model that sees seven tenths of the interest: the
    # expert's and the popular items are better than either says, and the estimates a little high.
    known, fitted = scored(name, astray=1.0)
    assert ips(known).low < ips(fitted).value < ips(known).high
    for estimator in (snips, doubly_robust, self_normalised_doubly_robust):
        assert 1.0 < estimator(fitted).value / estimator(known).value < 1.05
    bounds = weight_bounds(fitted, 1.5, estimator="SNIPS")
    assert bounds.low < snips(known).value < bounds.high


def test_a_model_of_the_logger_that_is_wrong_is_called_meaningless() -> None:
    # A regression cannot be a mixture of chance, popularity and an expert over 5,000 items; its
    # weights do not have mean 1, and the verdict says so.
    rows, env = open_log("recsim-medium")
    fit = Cloning(
        lambda: make_logistic_actor(len(env.items), rows["observation"]),
        action_key="item",
        steps=150,
    )
    behavior = fit_behavior(rows.exclude("propensity"), fit, folds=2, keys=KEYS)
    assert behavior.calibration.error > 5 * behavior.calibration.error_by_chance
    policy = make_policy(env, 0.0)
    known = ips(score_log(policy, rows, keys=KEYS))
    found = ips(score_log(policy, rows, behavior=behavior, keys=KEYS))
    assert not known.low < found.value < known.high
    assert found.verdict == "meaningless"
