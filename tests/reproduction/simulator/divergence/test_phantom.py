"""What is measured beside the training, against autograd; and that it only watches."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from tests.reproduction.simulator.small_worlds import SEEDS, SETUP, make_policies, make_worlds
from torchrl_drpo.reproduction.simulator.divergence.phantom import Watched, run_watched
from torchrl_drpo.reproduction.simulator.rules import Signed
from torchrl_drpo.reproduction.simulator.runs import METHODS, run_method

SCHEDULE = {"steps": 12, "batch_size": 32, "evaluations": 4}


@pytest.fixture(scope="module")
def looked() -> tuple[Watched, object]:
    worlds = make_worlds()
    policies = make_policies(worlds)
    with torch.no_grad():
        policies.parameters["log_std"] += 0.3 * torch.randn(2, 1, 12)
    rule = Watched(Signed(), every=5, probe=200)
    rule.prepare(worlds, policies, 10)
    rule.look(0)
    return rule, worlds


def by_autograd(rule: Watched, worlds, number: int, side: str) -> tuple[float, float]:
    """Norms of one side's gradient, in the mean's parameters and in log sigma."""
    p = {n: v[number].detach().requires_grad_() for n, v in rule.policies.parameters.items()}
    log = worlds.log[number][:200]
    a = (log["reward"] - log["reward"].mean()) / log["reward"].std()
    a = a.clamp_min(0) if side == "positive" else a.clamp_max(0)
    mean = (log["observation"] @ p["w1"] + p["b1"]).relu() @ p["w2"] + p["b2"]
    log_prob = Normal(mean, p["log_std"].exp()).log_prob(log["action"]).sum(-1)
    (a * log_prob).mean().backward()
    of_mean = math.sqrt(sum(float(p[n].grad.square().sum()) for n in ("w1", "b1", "w2", "b2")))
    return of_mean, float(p["log_std"].grad.norm())


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_each_sides_gradient_is_autograds(looked, side: str):
    rule, worlds = looked
    for number in range(2):
        expected = by_autograd(rule, worlds, number, side)
        found = [float(rule.series[f"{side}_{part}"][0][number]) for part in ("mean", "sigma")]
        assert found == pytest.approx(expected, rel=1e-4)


def test_remoteness_and_scores_are_weighted_by_the_negative_mass(looked):
    rule, worlds = looked
    for number in range(2):
        log = worlds.log[number][:200]
        a = (log["reward"] - log["reward"].mean()) / log["reward"].std()
        mass = a.clamp_max(0) / a.clamp_max(0).sum()
        sigma = rule.policies.sigma[number, 0]
        z = (log["action"] - rule.policies.mean(rule.state)[number]) / sigma
        remote = (mass[:, None] * z.square()).sum(0)
        series = {name: float(values[0][number]) for name, values in rule.series.items()}
        assert series["remoteness"] == pytest.approx(float(remote.mean()), rel=1e-4)
        assert series["shrinking"] == pytest.approx(float((remote > 1).float().mean()))
        score = ((z / sigma).square().sum(-1) * mass).sum()
        trace = sigma.pow(-2).sum()
        assert series["off_policy"] == pytest.approx(float(score / trace), rel=1e-4)
        assert series["on_policy"] == pytest.approx(1.0, abs=0.15)  # 200 draws of the policy
        assert series["log_sigma"] == pytest.approx(float(sigma.log().mean()), rel=1e-4)


def test_the_sign_rule_is_judged_by_where_log_sigma_went():
    worlds = make_worlds()
    policies = make_policies(worlds)
    rule = Watched(Signed(), every=1, probe=200)
    rule.prepare(worlds, policies, 2)
    rule.look(0)
    assert rule.series["agreement"][0].isnan().all()  # nothing to compare with yet
    push, _ = rule._before
    log = worlds.log[0][:200]
    a = (log["reward"] - log["reward"].mean()) / log["reward"].std() / 200
    z = (log["action"] - policies.mean(rule.state)[0]) / policies.sigma[0]
    torch.testing.assert_close(push[0], (a[:, None] * (z.square() - 1)).sum(0))
    with torch.no_grad():  # three of twelve entries go against the push of the first seed
        step = 0.01 * push.sign()
        step[0, :3] *= -1
        policies.parameters["log_std"] += step.unsqueeze(1)
    rule.look(1)
    assert rule.series["agreement"][1].tolist() == [0.75, 1.0]
    assert rule.steps == [0, 1]


def test_watching_changes_nothing():
    given = {"setup": SETUP, "seeds": list(SEEDS), "schedule": SCHEDULE}
    for name in ("APG", "tapered"):
        watched = run_watched(method=METHODS[name], every=5, **given)
        plain = run_method(method=METHODS[name], **given)
        assert watched["metrics"] == plain["metrics"]
        assert watched["steps"] == [0, 5, 10, 12]
        assert all(len(looks) == 4 for looks in watched["series"].values())
        json.dumps(watched, allow_nan=False)


def test_numbers_keep_six_digits_and_what_is_none_becomes_null():
    watched = run_watched(
        method=METHODS["APG"], setup=SETUP, seeds=[3], schedule=SCHEDULE, every=12
    )
    assert watched["series"]["agreement"][0] == [None]
    (norm,) = watched["series"]["negative_mean"][0]
    assert norm == float(f"{norm:.6g}")


def test_a_probe_is_no_larger_than_the_log():
    worlds = make_worlds()
    rule = Watched(Signed(), every=1, probe=10_000)
    rule.prepare(worlds, make_policies(worlds), 1)
    assert rule.advantage.shape == (2, 300)
    means: Tensor = rule.advantage.sum(-1)
    torch.testing.assert_close(means, torch.zeros(2), rtol=0, atol=1e-5)
