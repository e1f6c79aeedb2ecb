"""The simulator in several workers: one world, different users, and seeds that say which."""

from __future__ import annotations

import dataclasses
import sys
from functools import partial

import pytest
import torch
from torchrl.envs import ParallelEnv, SerialEnv
from torchrl.envs.utils import check_env_specs

from torchrl_drpo.envs import RecSimEnv, RecSimSetting, SessionSetting

SMALL = dataclasses.replace(RecSimSetting(), num_items=300, action_dim=16)


def users_of(env, steps=2):
    """The users that each worker serves, ``[workers, steps, state]``."""
    try:
        return env.rollout(steps, break_when_any_done=False)["observation"]
    finally:
        env.close(raise_if_closed=False)


def make_env(**options):
    return RecSimEnv(SMALL, **options)


def parallel(**options):
    return ParallelEnv(2, make_env, **options)


WORKERS = {
    "serial": lambda: SerialEnv(2, make_env),
    "serial, one world": lambda: SerialEnv(2, partial(make_env, seed=3)),
    "fork": lambda: parallel(mp_start_method="fork"),
    "spawn": parallel,
}


#: A minute for two processes that import TorchRL; and forks are for Linux.
MARKS = {
    "spawn": [pytest.mark.slow],
    "fork": [pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")],
}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("kind", [pytest.param(k, marks=MARKS.get(k, [])) for k in WORKERS])
def test_workers_serve_different_users_and_the_same_again_under_a_seed(kind):
    first, second = users_of(WORKERS[kind]())
    assert not torch.isclose(first, second).any()
    runs = []
    for _ in range(2):
        env = WORKERS[kind]()
        following = env.set_seed(5)
        runs.append(users_of(env))
    assert torch.equal(*runs)
    assert not torch.isclose(*runs[0]).any()
    # TorchRL's chain: each worker's seed follows from the one before, the last is handed back.
    alone, seed = [], 5
    for _ in range(2):
        env = make_env()
        seed = env.set_seed(seed)
        alone.append(users_of(env))
    assert seed == following
    assert torch.equal(runs[0], torch.stack(alone))


def test_unseeded_environments_follow_torchs_seed():
    def run():
        torch.manual_seed(4)
        return [users_of(RecSimEnv(SMALL)) for _ in range(2)]

    (first, second), again = run(), run()
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.isclose(first, second).any()


def test_specs_hold_side_by_side():
    check_env_specs(SerialEnv(2, partial(make_env, session=SessionSetting())))
