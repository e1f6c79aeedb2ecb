from __future__ import annotations

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo.envs import RecSimEnv
from torchrl_drpo.evaluation import simulator
from torchrl_drpo.functional.similarity import cosine_reward, unit
from torchrl_drpo.policies.gaussian import make_gaussian_actor


def users(n: int = 12, items: int = 30, dim: int = 6):
    generator = torch.Generator().manual_seed(3)
    interest = torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=-1)
    action = 3 * torch.randn(n, dim, generator=generator)
    return action, interest, torch.randn(items, dim, generator=generator)


def by_hand(action, interest, items, delta):
    """Every figure in float64 numpy, one user after another."""
    action, interest, items = (x.double().numpy() for x in (action, interest, items))

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    def reward(a, u):
        return np.exp(-(1 - cosine(a, u)) / (2 * delta**2))

    out = {"retrieved": [], "raw": [], "oracle": [], "random": [], "distance": []}
    for a, u in zip(action, interest, strict=True):
        rewards = [reward(e, u) for e in items]
        out["retrieved"].append(rewards[int(np.argmax([cosine(a, e) for e in items]))])
        out["raw"].append(reward(a, u))
        out["oracle"].append(max(rewards))
        out["random"].append(np.mean(rewards))
        out["distance"].append(np.sqrt(np.mean((a - items[int(np.argmax(rewards))]) ** 2)))
    return out


@pytest.mark.parametrize("delta", [0.35, 0.5])
def test_every_figure_is_the_hand_computation(delta):
    action, interest, items = users()
    expected = by_hand(action, interest, items, delta)
    actual = {
        "retrieved": simulator.retrieved_reward(action, interest, items, delta=delta),
        "raw": simulator.raw_reward(action, interest, delta=delta),
        "oracle": simulator.oracle_reward(interest, items, delta=delta),
        "random": simulator.random_reward(interest, items, delta=delta),
        "distance": simulator.action_distance(action, interest, items),
    }
    for name, value in actual.items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=2e-5, err_msg=name)


def test_blocks_do_not_change_the_random_reward(monkeypatch):
    _, interest, items = users()
    whole = simulator.random_reward(interest, items, delta=0.5)
    monkeypatch.setattr(simulator, "_BLOCK", 70)
    torch.testing.assert_close(simulator.random_reward(interest, items, delta=0.5), whole)


@pytest.mark.parametrize(
    ("setting", "random", "oracle"), [("table", 0.147, 0.44), ("collapse", 0.046, None)]
)
def test_the_ends_of_the_published_tables_come_out(setting, random, oracle):
    ends = []
    for seed in range(10):
        env = RecSimEnv(setting, seed=seed)
        interest, delta = env.world.interest(env.draw_states(400, seed=seed)), env.setting.delta
        ends.append(
            (
                simulator.random_reward(interest, env.items, delta=delta).mean().item(),
                simulator.oracle_reward(interest, env.items, delta=delta).mean().item(),
            )
        )
    measured = np.mean(ends, axis=0)
    # Over ten worlds the standard errors are .0003 and .0006 (random) and .005 (oracle).
    assert measured[0] == pytest.approx(random, abs=0.003)
    if oracle is not None:
        assert measured[1] == pytest.approx(oracle, abs=0.02)


def test_a_policy_is_judged_by_its_mean_action():
    env = RecSimEnv("table", seed=0)
    actor = make_gaussian_actor(10, 128)
    state = env.draw_states(50, seed=1)
    interest = env.world.interest(state)
    delta = env.setting.delta
    first = simulator.evaluate_policy(actor, state, interest, env.items, delta=delta)
    assert first == simulator.evaluate_policy(actor, state, interest, env.items, delta=delta)
    mean = actor.get_dist(TensorDict({"observation": state}, [50])).mean
    expected = simulator.retrieved_reward(mean, interest, env.items, delta=delta).mean()
    assert first["retrieved_reward"] == pytest.approx(expected.item(), rel=1e-6)
    assert first["ecpm"] == pytest.approx(5 * first["retrieved_reward"], rel=1e-6)


def test_a_diverged_policy_is_scored_while_its_action_is_finite():
    _, interest, items = users()
    far = simulator.raw_reward(1e30 * interest, interest, delta=0.5)
    torch.testing.assert_close(far, torch.ones(len(interest)))
    broken = interest.clone()
    broken[4, 2] = torch.nan
    with pytest.raises(ValueError, match=r"row \(4, 2\) holds nan.*the policy has diverged"):
        simulator.retrieved_reward(broken, interest, items, delta=0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"interest": torch.ones(12, 5)}, r"one shape \[N, d\], got \(12, 6\) and \(12, 5\)"),
        ({"action": torch.ones(6), "interest": torch.ones(6)}, r"one shape \[N, d\]"),
        ({"items": torch.ones(30, 5)}, r"items must have shape \[V, 6\]"),
        ({"delta": 0.0}, "delta must be a finite number above 0"),
    ],
)
def test_bad_input_is_named(change, message):
    action, interest, items = users()
    arguments = {"action": action, "interest": interest, "items": items, "delta": 0.5} | change
    with pytest.raises(ValueError, match=message):
        simulator.retrieved_reward(**arguments)


def test_unit_and_cosine_reward_are_their_formulas():
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(unit(x), x / x.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(
        cosine_reward(torch.tensor([1.0, -1.0]), 0.5), torch.tensor([1.0, np.exp(-4.0)]).float()
    )
