from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from torchrl_drpo.envs import RecSimEnv, RecSimSetting, Scenario, behavior
from torchrl_drpo.envs.behavior import (
    EXPERT,
    POPULARITY,
    RANDOM,
    expert_probability,
    mixture_propensity,
    popularity_probability,
    sample_items,
)
from torchrl_drpo.envs.world import RecSimWorld

TABLE = RecSimSetting.preset("table")
SMALL = dataclasses.replace(
    TABLE, num_items=60, action_dim=12, num_clusters=4, expert_neighbours=4, popularity_draws=3
)


def one_user(world, seed=0):
    state = world.draw_states(1, generator=torch.Generator().manual_seed(seed))
    return world.interest(state)


def every_item(world, interest):
    items = torch.arange(world.setting.num_items)
    return interest.expand(len(items), -1), items


def count_top_k(world, interest, item, draws, seed):
    """P(item among the expert's k nearest) by counting, in numpy."""
    rng = np.random.default_rng(seed)
    directions = world.items.numpy() / np.linalg.norm(world.items.numpy(), axis=-1, keepdims=True)
    setting, hits = world.setting, np.zeros(len(item))
    for _ in range(draws // 500):
        noise = rng.normal(size=(500, setting.action_dim)) / np.sqrt(setting.action_dim)
        shift = setting.expert_noise * noise @ directions.T
        for row, (u, i) in enumerate(zip(interest.numpy(), item.tolist(), strict=True)):
            score = directions @ u + shift
            ahead = (score > score[:, [i]]).sum(-1)
            hits[row] += (ahead < setting.expert_neighbours).sum()
    return hits / (draws // 500 * 500)


def test_popularity_is_exact_against_all_draws():
    world = RecSimWorld(dataclasses.replace(SMALL, num_items=7), seed=0)
    interest, items = every_item(world, one_user(world))
    score = (world.items @ interest[0]).numpy()
    expected = np.zeros(7)
    for draw in itertools.product(range(7), repeat=3):
        expected[max(draw, key=lambda i: score[i])] += np.prod(world.popularity.numpy()[list(draw)])
    actual = popularity_probability(world, interest, items)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


def test_popularity_sums_to_one_over_a_large_catalogue():
    world = RecSimWorld(TABLE, seed=0)
    probability = popularity_probability(world, *every_item(world, one_user(world)))
    # Two items whose float32 scores tie count each other as no better.
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert probability.min() >= 0


@pytest.mark.parametrize("noise", [0.3, 1.5])
def test_expert_is_counting_in_a_small_world(noise):
    world = RecSimWorld(dataclasses.replace(SMALL, expert_noise=noise), seed=1)
    interest, items = every_item(world, one_user(world))
    counted = count_top_k(world, interest, items, 20_000, seed=0)
    actual = 4 * expert_probability(world, interest, items, draws=4096).numpy()
    error = np.sqrt(counted * (1 - counted) / 20_000 + 0.4**2 / 4096 * actual + 1e-7)
    assert np.abs((actual - counted) / error).max() < 5
    assert actual.sum() == pytest.approx(4.0, abs=0.12)  # four standard errors at noise 1.5


def test_expert_is_counting_in_the_papers_world():
    world = RecSimWorld(TABLE, seed=0)
    generator = torch.Generator().manual_seed(2)
    interest = world.interest(world.draw_states(12, generator=generator))
    rank = torch.tensor([0, 3, 9, 15, 30, 60]).repeat(2)
    nearest = world.decoder.decode(interest, 61)[1]
    item = nearest.gather(1, rank.unsqueeze(-1)).squeeze(-1)
    counted = count_top_k(world, interest, item, 4000, seed=0)
    actual = 10 * expert_probability(world, interest, item, draws=512).numpy()
    np.testing.assert_allclose(actual, counted, atol=0.035)  # 4 standard errors of the counting
    default = 10 * expert_probability(world, interest, item).numpy()
    np.testing.assert_allclose(default, counted, atol=0.06)


def test_expert_sums_to_one_and_far_items_get_nothing():
    world = RecSimWorld(TABLE, seed=0)
    interest = one_user(world)
    probability = expert_probability(world, *every_item(world, interest), draws=512)
    # Over worlds and users the sum's standard error is .013 at 128 draws, half of it here.
    assert probability.sum().item() == pytest.approx(1.0, abs=0.025)
    score = world.items @ interest[0]
    assert probability[score.argmin()] == 0
    assert probability.max() <= 0.1


def test_an_expert_without_noise_takes_the_nearest():
    world = RecSimWorld(dataclasses.replace(SMALL, expert_noise=0.0), seed=1)
    interest, items = every_item(world, one_user(world))
    expected = torch.zeros(60, dtype=torch.float64)
    expected[(world.items @ interest[0]).topk(4).indices] = 0.25
    torch.testing.assert_close(expert_probability(world, interest, items), expected)


@pytest.mark.parametrize(("num_items", "expected_sum"), [(4, 1.0), (5, 1.0)])
def test_an_expert_with_hardly_a_choice(num_items, expected_sum):
    world = RecSimWorld(dataclasses.replace(SMALL, num_items=num_items), seed=1)
    probability = expert_probability(world, *every_item(world, one_user(world)), draws=2048)
    assert probability.sum().item() == pytest.approx(expected_sum, abs=0.01)
    assert probability.max() <= 0.25


def test_a_twin_item_does_not_break_the_expert():
    world = RecSimWorld(SMALL, seed=1)
    world.items[1] = world.items[0]
    probability = expert_probability(world, *every_item(world, one_user(world)), draws=2048)
    assert torch.isfinite(probability).all()
    assert probability.sum().item() == pytest.approx(1.0, abs=0.02)


def test_blocks_do_not_change_a_propensity(monkeypatch):
    world = RecSimWorld(SMALL, seed=1)
    interest, items = every_item(world, one_user(world))
    scenario = Scenario.preset("medium")
    whole = mixture_propensity(world, interest, items, scenario)
    monkeypatch.setattr(behavior, "_BLOCK", 3000)
    torch.testing.assert_close(mixture_propensity(world, interest, items, scenario), whole)


@pytest.mark.parametrize("scenario", ["medium", "extreme"])
@pytest.mark.parametrize("user", [0, 1, 2])
def test_items_are_drawn_with_their_propensities(scenario, user):
    world, shares, n = RecSimWorld(SMALL, seed=3), Scenario.preset(scenario), 40_000
    interest = one_user(world, seed=user)
    item, _ = sample_items(
        world, interest.expand(n, -1), shares, torch.Generator().manual_seed(user)
    )
    counts = item.bincount(minlength=60).numpy()
    propensity = mixture_propensity(world, *every_item(world, interest), shares, draws=8192)
    expected = propensity.double().numpy()
    assert expected.sum() == pytest.approx(1.0, abs=1e-3)
    assert stats.chisquare(counts, n * expected / expected.sum()).pvalue > 1e-4


def test_a_wrong_propensity_would_be_noticed():
    # The test above has power: the other scenario's propensities fail it.
    world, n = RecSimWorld(SMALL, seed=3), 40_000
    interest = one_user(world)
    item, _ = sample_items(
        world,
        interest.expand(n, -1),
        Scenario(expert=0.08, popularity=0.05, random=0.87),
        torch.Generator().manual_seed(0),
    )
    expected = mixture_propensity(
        world, *every_item(world, interest), Scenario.preset("extreme"), draws=8192
    ).double()
    counts = item.bincount(minlength=60).numpy()
    assert stats.chisquare(counts, (n * expected / expected.sum()).numpy()).pvalue < 1e-6


def test_components_have_their_shares_and_their_quality():
    env = RecSimEnv("table", seed=0)
    log = env.simulate_log(20_000, "medium", propensity=False)
    shares = log["component"].bincount(minlength=3) / 20_000
    np.testing.assert_allclose(shares.numpy(), [0.1, 0.6, 0.3], atol=0.015)
    means = [log["latent_reward"][log["component"] == c].mean().item() for c in range(3)]
    assert means[EXPERT] > means[POPULARITY] + 0.05 > means[RANDOM] + 0.1
    assert means[RANDOM] == pytest.approx(0.147, abs=0.005)


@pytest.mark.parametrize("shares", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_a_single_logger_is_a_scenario_too(shares):
    world = RecSimWorld(SMALL, seed=3)
    interest = one_user(world).expand(50, -1)
    scenario = Scenario(*map(float, shares))
    item, component = sample_items(world, interest, scenario, torch.Generator().manual_seed(0))
    assert component.unique().tolist() == [shares.index(1)]
    propensity = mixture_propensity(world, interest, item, scenario)
    assert 0 < propensity.min() <= propensity.max() <= 1


@pytest.mark.parametrize("scenario", ["medium", "extreme"])
def test_inverse_propensities_average_to_the_catalogue(scenario):
    # E[1 / p(i)] under the logging policy is the number of items, whatever the policy is.
    log = RecSimEnv("table", seed=0).simulate_log(3000, scenario, seed=1)
    weight = 1 / log["propensity"].double()
    error = weight.std() / np.sqrt(3000)
    assert abs(weight.mean().item() - 5000) < 4 * error
