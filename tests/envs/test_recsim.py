from __future__ import annotations

import copy
import dataclasses
import warnings

import numpy as np
import pytest
import torch
from torchrl.envs import StepCounter, TransformedEnv
from torchrl.envs.utils import check_env_specs

from torchrl_drpo.envs import RecSimEnv, RecSimSetting, Scenario, SessionSetting
from torchrl_drpo.policies.gaussian import make_gaussian_actor

SMALL = dataclasses.replace(RecSimSetting(), num_items=300, action_dim=16)
SESSION = SessionSetting()


def equal(left, right):
    return bool((left == right).all())


@pytest.mark.parametrize("batch_size", [(), (5,), (2, 3)])
@pytest.mark.parametrize("session", [None, SESSION], ids=["one-step", "session"])
def test_specs_hold(batch_size, session):
    env = RecSimEnv(SMALL, session=session, batch_size=batch_size)
    check_env_specs(env, break_when_any_done="both")


def test_one_step_ends_every_episode():
    env = RecSimEnv(SMALL, batch_size=[7], seed=0)
    rollout = env.rollout(5, break_when_any_done=False)
    assert rollout["next", "terminated"].all()
    assert equal(rollout["next", "observation"], rollout["observation"])
    # auto-reset brings another user each time
    assert not equal(rollout["observation"][:, 1:], rollout["observation"][:, :-1])


def test_the_reward_is_that_of_the_item_nearest_by_direction():
    env = RecSimEnv(dataclasses.replace(SMALL, reward_noise=0.0), batch_size=[50], seed=0)
    td = env.reset()
    td["action"] = 5 * torch.randn(50, 16)
    reward = env.step(td)["next", "reward"].squeeze(-1)
    nearest = torch.cosine_similarity(td["action"].unsqueeze(1), env.items, dim=-1).argmax(-1)
    interest = env.world.interest(td["observation"])
    cosine = torch.cosine_similarity(env.items[nearest].double(), interest.double(), dim=-1)
    torch.testing.assert_close(reward.double(), torch.exp(-(1 - cosine) / 0.5), rtol=1e-5, atol=0)


def test_a_nan_action_earns_nan_and_leaves_the_others_alone():
    env = RecSimEnv(SMALL, batch_size=[3], seed=0)
    td = env.reset()
    td["action"] = torch.randn(3, 16)
    td["action"][1, 4] = torch.nan
    reward = env.step(td)["next", "reward"].squeeze(-1)
    assert reward.isnan().tolist() == [False, True, False]


def test_a_seed_decides_rollouts_and_logs():
    def run(env):
        first = env.rollout(3, policy=_towards_the_first_item(env), break_when_any_done=False)
        return first, env.simulate_log(40, "medium")

    def users(user_seed):
        return run(RecSimEnv(SMALL, session=SESSION, batch_size=[4], user_seed=user_seed))

    one, two, other = users(9), users(9), users(10)
    assert all(equal(a, b) for a, b in zip(one, two, strict=True))
    assert not equal(one[1]["observation"], other[1]["observation"])


def _towards_the_first_item(env):
    return lambda td: td.set("action", env.items[0].expand(*td.batch_size, -1))


def test_set_seed_restarts_users_and_keeps_the_world():
    env = RecSimEnv(SMALL, batch_size=[4], seed=0)
    items = env.items.clone()
    env.set_seed(5)
    first = env.reset()["observation"]
    assert not equal(first, env.reset()["observation"])
    env.set_seed(5)
    assert equal(first, env.reset()["observation"])
    assert equal(items, env.items)


@pytest.mark.parametrize("seed", [0, 1])
def test_users_are_independent_of_the_world_of_the_same_seed(seed):
    env = RecSimEnv("table", seed=seed)
    draws = env.draw_states(128, seed=seed).view(10, 128)
    cosine = torch.cosine_similarity(draws, env.world.centres, dim=-1)
    assert cosine.abs().max() < 0.5  # 1.0 if the centres were made of the users' numbers


def test_a_seeded_log_depends_on_nothing_else():
    env = RecSimEnv(SMALL, seed=0)
    log = env.simulate_log(50, "extreme", seed=3)
    env.rollout(1)
    assert equal(log, env.simulate_log(50, "extreme", seed=3))
    bare = env.simulate_log(50, "extreme", seed=3, propensity=False)
    assert equal(log.exclude("propensity"), bare)
    assert equal(env.draw_states(4, seed=1), env.draw_states(4, seed=1))
    assert not equal(env.draw_states(4), env.draw_states(4))


def test_who_gives_a_seed_neither_reads_nor_moves_the_global_random_state():
    def work():
        env = RecSimEnv(SMALL, session=SESSION, batch_size=[4], seed=0)
        env.draw_states(3, seed=2)
        env.set_seed(1)
        td = env.reset()
        td["action"] = torch.ones(4, 16)
        return env.step(td), env.simulate_log(60, "medium")

    before = torch.get_rng_state()
    first = work()
    assert equal(before, torch.get_rng_state())
    torch.manual_seed(77)
    assert all(equal(a, b) for a, b in zip(first, work(), strict=True))


def test_a_copy_goes_on_alike_and_apart():
    env = RecSimEnv(SMALL, batch_size=[4], user_seed=0)
    twin = copy.deepcopy(env)
    assert equal(env.reset(), twin.reset())
    env.reset()
    twin.reset()
    assert equal(env.reset(), twin.reset())


@pytest.mark.parametrize("n", [1, 17, 400])
def test_a_one_step_log_has_the_promised_rows(n):
    env = RecSimEnv(SMALL, seed=0)
    log = env.simulate_log(n, "extreme")
    shapes = {key: tuple(value.shape) for key, value in log.items(True, True)}
    flat = dict.fromkeys(["item", "component", "latent_reward", "propensity"], (n,))
    ends = {("next", key): (n, 1) for key in ("reward", "done", "terminated")}
    states = {"observation": (n, 10), ("next", "observation"): (n, 10), "action": (n, 16)}
    assert shapes == flat | ends | states
    assert log.batch_size == (n,)
    assert log["next", "terminated"].all()
    assert equal(log["action"], env.items[log["item"]])
    interest = env.world.interest(log["observation"])
    assert equal(log["latent_reward"], env.world.latent_reward(interest, log["item"]))
    assert 0 < log["propensity"].min() <= log["propensity"].max() <= 1


@pytest.mark.parametrize("n", [1, 2, 53, 1000])
def test_a_session_log_is_whole_sessions_in_order(n):
    env = RecSimEnv(SMALL, session=SESSION, seed=0)
    log = env.simulate_log(n, "medium", propensity=False)
    trajectory, step = log["trajectory_id"], log["step"]
    assert len(log) == n
    starts = torch.cat([torch.tensor([True]), trajectory[1:] != trajectory[:-1]])
    assert equal(starts, step == 0)
    assert equal((trajectory[1:] - trajectory[:-1]), starts[1:].long())  # 0, 1, 2, ...
    assert equal((step[1:] - step[:-1])[~starts[1:]], torch.ones(()))
    # within a session the next state is the next row's state; it has moved
    inside = (~starts).nonzero().squeeze(-1)
    assert equal(log["next", "observation"][inside - 1], log["observation"][inside])
    assert not equal(log["observation"], log["next", "observation"])
    # a session ends with its user leaving; the last row of the log ends it in any case
    ends = torch.cat([starts[1:], torch.tensor([True])])
    assert equal(log["next", "done"].squeeze(-1), ends)
    assert equal(log["next", "terminated"].squeeze(-1)[:-1], ends[:-1])


def test_session_lengths_follow_the_leaving_law():
    # Without satisfaction a session's length is geometric: mean 1 / p, variance (1 - p) / p^2.
    p = 0.25
    env = RecSimEnv(SMALL, session=SessionSetting(leave_probability=p, satisfaction=0.0), seed=0)
    log = env.simulate_log(20_000, "extreme", propensity=False)
    lengths = log["trajectory_id"].bincount()[:-1].double()
    error = np.sqrt((1 - p) / p**2 / len(lengths))
    assert abs(lengths.mean().item() - 1 / p) < 4 * error


def test_a_good_item_keeps_the_user_longer():
    setting = dataclasses.replace(SMALL, delta=2.0)
    session = SessionSetting(leave_probability=0.5, satisfaction=0.9)
    env = RecSimEnv(setting, session=session, seed=0)
    good = env.simulate_log(4000, Scenario(1.0, 0.0, 0.0), propensity=False)
    poor = env.simulate_log(4000, Scenario(0.0, 0.0, 1.0), propensity=False)
    assert good["trajectory_id"].max() < 0.9 * poor["trajectory_id"].max()


def test_a_session_longer_than_the_log_is_cut():
    env = RecSimEnv(SMALL, session=SessionSetting(leave_probability=1e-9), seed=0)
    log = env.simulate_log(12, "extreme")
    assert log["step"].tolist() == list(range(12))
    assert log["next", "done"].squeeze(-1).tolist() == [False] * 11 + [True]
    assert not log["next", "terminated"].any()


def test_session_propensities_belong_to_the_drifted_interest():
    env = RecSimEnv(SMALL, session=SessionSetting(drift=0.5), seed=0)
    weight = 1 / env.simulate_log(4000, "medium")["propensity"].double()
    # E[1 / p] is the number of items (see test_behavior).
    assert abs(weight.mean().item() - 300) < 4 * weight.std().item() / np.sqrt(4000)


def test_torchrl_collects_and_transforms_it():
    env = TransformedEnv(
        RecSimEnv(SMALL, session=SESSION, batch_size=[4], seed=0), StepCounter(max_steps=3)
    )
    actor = make_gaussian_actor(10, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchrl's own, on import and when a collector is made
        from torchrl.collectors import Collector

        collector = Collector(env, actor, frames_per_batch=40, total_frames=80)
    batches = list(collector)
    collector.shutdown()
    assert [batch.numel() for batch in batches] == [40, 40]
    assert batches[0]["next", "step_count"].max() <= 3
    assert torch.isfinite(batches[0]["next", "reward"]).all()


@pytest.mark.gpu
def test_everything_lives_on_the_device():
    env = RecSimEnv(SMALL, session=SESSION, batch_size=[4], seed=0, device="cuda")
    assert equal(env.items.cpu(), RecSimEnv(SMALL, seed=0).items)
    check_env_specs(env)
    for tensor in env.simulate_log(100, "medium").values(True, True):
        assert tensor.device.type == "cuda"
    moved = RecSimEnv(SMALL, batch_size=[4], seed=0).to("cuda")
    assert moved.reset()["observation"].device.type == "cuda"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "n must be a finite number above 0, got 0"),
        ({"n": -3}, "n must be .* got -3"),
        ({"n": 5, "scenario": "hard"}, "unknown scenario 'hard'"),
        ({"n": 5, "propensity_draws": 0}, "propensity_draws must be"),
    ],
)
def test_an_impossible_log_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RecSimEnv(SMALL).simulate_log(**arguments)


def test_impossible_environments_and_actions_are_refused():
    with pytest.raises(ValueError, match="unknown setting 'tables'"):
        RecSimEnv("tables")
    env = RecSimEnv(SMALL, batch_size=[3])
    td = env.reset()
    td["action"] = torch.randn(3, 15)
    with pytest.raises(ValueError, match=r"query must be .* \[\*B, 16\].* \(3, 15\)"):
        env.step(td)
