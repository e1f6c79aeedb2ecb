"""Offline to online: who is served what, what is drawn, and when it is looked at."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.reproduction.simulator.small_worlds import SEEDS, SETUP, make_policies, make_worlds
from torchrl_drpo.envs.streams import stream
from torchrl_drpo.functional.similarity import unit
from torchrl_drpo.reproduction.simulator.critics import CriticEnsemble
from torchrl_drpo.reproduction.simulator.online.audience import Audience, make_buffer
from torchrl_drpo.reproduction.simulator.online.served import run_served, shares
from torchrl_drpo.reproduction.simulator.runs import METHODS

NUMBERS = {"offline_steps": 4, "online_steps": 12, "serve_every": 3, "served": 8}


def run(**over: Any) -> dict[str, Any]:
    given = {"method": METHODS["DRPO"], "setup": SETUP, "seeds": list(SEEDS), **NUMBERS}
    return run_served(**{**given, "batch_size": 32, "evaluations": 4, **over})


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return run()


def test_the_buffer_holds_the_log_with_all_seeds_in_a_row():
    worlds = make_worlds()
    buffer = make_buffer(worlds, capacity=16, fraction=0.5)
    drawn = buffer.sample(32)
    assert drawn["action"].shape == (32, 2, 12)
    for number in range(2):
        log = worlds.log[number]
        for row in drawn[:4]:
            same = (log["action"] == row["action"][number]).all(-1)
            same &= log["reward"] == row["reward"][number]
            assert same.any()
    assert not drawn["online"].any()
    again = make_buffer(worlds, capacity=16, fraction=0.5).sample(32)
    assert torch.equal(again["action"], drawn["action"])  # seeded


def test_an_online_batch_has_the_share_that_was_asked_for():
    worlds, policies = make_worlds(), make_policies(make_worlds())
    buffer = make_buffer(worlds, capacity=16, fraction=0.75)
    served = Audience(worlds, 8).serve(policies)
    buffer.extend(served)
    drawn = buffer.sample(32)
    online = drawn["online"][:, 0] == 1
    assert online.sum() == 8
    known = {tuple(row) for row in served["observation"][:, 0].tolist()}
    assert {tuple(row) for row in drawn["observation"][online][:, 0].tolist()} <= known


def test_an_audience_is_shown_the_item_that_is_nearest_to_what_the_policy_samples():
    worlds = make_worlds()
    policies = make_policies(worlds)
    rows = Audience(worlds, 8).serve(policies)
    assert rows.batch_size == (8,)
    mean, sigma = policies.mean(rows["observation"].transpose(0, 1)), policies.sigma
    for number, (seed, world) in enumerate(zip(SEEDS, worlds.worlds, strict=True)):
        served = stream(seed, "served")
        states = world.draw_states(8, generator=served)
        assert torch.equal(rows["observation"][:, number], states)
        action = mean[number] + sigma[number] * torch.randn(8, 12, generator=served)
        nearest = (unit(action) @ unit(world.items).T).argmax(-1)
        assert torch.equal(rows["action"][:, number], world.items[nearest])
        latent = rows["latent_reward"][:, number]
        torch.testing.assert_close(latent, world.latent_reward(world.interest(states), nearest))
        noise = torch.randn(8, generator=served)
        observed = (latent + world.setting.reward_noise * noise).clamp(0, 1)
        torch.testing.assert_close(rows["reward"][:, number], observed)
    assert rows["online"].all()


def test_new_users_come_every_round_and_seeds_have_their_own():
    worlds = make_worlds()
    policies, audience = make_policies(worlds), Audience(worlds, 8)
    first, second = (audience.serve(policies)["observation"] for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[:, 0], first[:, 1])
    alone = make_worlds(SEEDS[1:])
    rows = Audience(alone, 8).serve(make_policies(alone))
    assert torch.equal(rows["observation"][:, 0], first[:, 1])


def test_shares_of_the_served_rows_are_counted():
    weight = torch.tensor([[2.0, 0.0, 1.0, -3.0, 1.0], [0.0, 0.0, 0.0, 0.0, -1.0]])
    online = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    counted = shares(weight, online)
    assert counted["passed"].tolist() == [0.5, 0.0]
    assert counted["attraction"].tolist() == [0.75, 0.0]


def test_curves_cover_both_phases_and_serving_begins_at_step_0(found):
    curves = found["curves"]
    assert [step for step, _ in curves["retrieved_reward"]] == [0, 4, 8, 12]
    for name in ("served_reward", "passed", "attraction"):
        assert [step for step, _ in curves[name]] == [4, 8, 12]
        assert all(len(values) == 2 for _, values in curves[name])
    assert found["metrics"]["retrieved_reward"] == curves["retrieved_reward"][-1][1]
    assert 0 <= min(found["metrics"]["passed"]) <= max(found["metrics"]["passed"]) <= 1
    json.dumps(found, allow_nan=False)


def test_the_late_window_is_of_the_online_steps():
    found = run(online_steps=20, evaluations=24)  # a look at every step
    points = dict(found["curves"]["retrieved_reward"])
    assert list(points) == list(range(-3, 21))
    for number in range(2):
        expected = math.fsum(points[step][number] for step in (17, 18, 19, 20)) / 4
        assert found["metrics"]["retrieved_reward"][number] == pytest.approx(expected, abs=2e-6)


def test_a_run_is_repeated_and_a_seed_does_not_depend_on_the_others(found):
    assert run() == found
    alone = run(seeds=list(SEEDS[1:]))
    for name, values in alone["metrics"].items():
        assert found["metrics"][name][1] == pytest.approx(values[0], rel=1e-3, abs=1e-5)


def test_critics_see_the_batch_of_the_step(monkeypatch: pytest.MonkeyPatch):
    seen: list[Tensor] = []
    plain = CriticEnsemble.forward

    def watch(self: CriticEnsemble, rows: Tensor) -> tuple[Tensor, Tensor]:
        if rows.shape[-1] == 22:  # state and action: Q, not V
            seen.append(rows)
        return plain(self, rows)

    monkeypatch.setattr(CriticEnsemble, "forward", watch)
    run(method=METHODS["IQL"], offline_steps=2, online_steps=2)
    assert [rows.shape for rows in seen] == [(2, 32, 22)] * 4
    assert len({float(rows.sum()) for rows in seen}) == 4
    users = make_worlds().log["observation"]
    from_log = [(rows[0, :, None, :10] == users[0]).all(-1).any(-1).sum() for rows in seen]
    assert min(from_log[:2]) == 32  # before anything is served
    assert max(from_log[2:]) < 32
