"""Stacked worlds against the package's simulator, seed by seed."""

from __future__ import annotations

import math

import pytest
import torch

from tests.reproduction.simulator.small_worlds import SEEDS, SETUP, make_worlds, rows_of
from torchrl_drpo.envs.settings import RecSimSetting, Scenario
from torchrl_drpo.envs.simulate import simulate_log
from torchrl_drpo.envs.streams import stream, stream_seed
from torchrl_drpo.envs.world import RecSimWorld
from torchrl_drpo.evaluation.simulator import (
    action_distance,
    oracle_reward,
    random_reward,
    raw_reward,
    retrieved_reward,
)
from torchrl_drpo.reproduction.simulator.worlds import Setup, Worlds


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    return make_worlds()


def test_each_seed_is_the_simulators_own_world_log_and_users(worlds):
    setting = Setup(**SETUP).world
    for number, seed in enumerate(SEEDS):
        world = RecSimWorld(setting, seed=stream_seed(seed, "world"))
        assert torch.equal(worlds.worlds[number].items, world.items)
        g = stream(seed, "log")
        log = simulate_log(world, 300, Scenario.preset("extreme"), generator=g, propensity=False)
        for name in ("observation", "action", "latent_reward", "component"):
            assert torch.equal(worlds.log[name][number], log[name])
        assert torch.equal(worlds.log["reward"][number], log["next", "reward"].squeeze(-1))
        users = world.draw_states(9, generator=stream(seed, "users"))
        assert torch.equal(worlds.users[number], users)
        torch.testing.assert_close(worlds.interest[number], world.interest(users))


def test_a_seeds_numbers_do_not_depend_on_the_others(worlds):
    alone = make_worlds(SEEDS[1:])
    for name, column in alone.log.items():
        assert torch.equal(worlds.log[name][1], column[0])
    assert torch.equal(worlds.users[1], alone.users[0])
    assert worlds.ends()["oracle"][1] == alone.ends()["oracle"][0]


def test_reading_rows_is_indexing(worlds):
    row = rows_of(worlds)
    for number in range(2):
        for found, name in zip(worlds.read(row), ("observation", "action"), strict=True):
            assert torch.equal(found[number], worlds.log[name][number][row[number]])


def test_actions_are_judged_as_the_package_judges_them(worlds):
    action = 3 * torch.randn(2, 9, 12, generator=torch.Generator().manual_seed(0))
    found = worlds.evaluate(action)
    delta = worlds.setup.world.delta
    for number, world in enumerate(worlds.worlds):
        interest = worlds.interest[number]
        expected = {
            "retrieved_reward": retrieved_reward(
                action[number], interest, world.items, delta=delta
            ),
            "raw_reward": raw_reward(action[number], interest, delta=delta),
            "action_distance": action_distance(action[number], interest, world.items),
        }
        for name, values in expected.items():
            assert found[name][number] == pytest.approx(values.mean().item(), rel=1e-5)


def test_a_policy_that_is_not_finite_is_worth_nothing_that_could_be_averaged(worlds):
    action = torch.ones(2, 9, 12)
    action[1, 4, 7] = math.inf
    for values in worlds.evaluate(action).values():
        assert math.isfinite(values[0])
        assert math.isnan(values[1])


def test_the_ends_are_a_random_and_the_best_item(worlds):
    ends = worlds.ends()
    for number, world in enumerate(worlds.worlds):
        delta, interest = world.setting.delta, worlds.interest[number]
        oracle = oracle_reward(interest, world.items, delta=delta).mean().item()
        chance = random_reward(interest, world.items, delta=delta).mean().item()
        assert (ends["oracle"][number], ends["random"][number]) == (oracle, chance)
        best = worlds.evaluate(torch.stack([worlds._best[number]] * 2) * math.sqrt(12))
        assert best["retrieved_reward"][number] == pytest.approx(oracle, rel=1e-5)
        assert best["action_distance"][number] == pytest.approx(0, abs=1e-5)


def test_a_setup_says_how_many_rows_and_who_filled_them():
    assert Setup().rows == 3_000
    assert Setup(setting="collapse").rows == 10_000
    assert Setup(log_size=5).rows == 5
    assert Setup().mixture == Scenario.preset("extreme")
    shares = Setup(scenario=None, shares=(0.2, 0.3, 0.5))
    assert shares.mixture == Scenario(0.2, 0.3, 0.5)
    changed = Setup(setting="collapse", changes={"reward_noise": 0.7}).world
    assert changed.reward_noise == 0.7
    assert changed.delta == RecSimSetting.preset("collapse").delta
    with pytest.raises(ValueError, match="needs a scenario or the shares"):
        Setup(scenario=None).mixture  # noqa: B018
    with pytest.raises(ValueError, match="must sum to 1"):
        Setup(scenario=None, shares=(0.2, 0.3, 0.4)).mixture  # noqa: B018
