"""Critics of many seeds against autograd, and the weights that follow from them against sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.reproduction.simulator.small_worlds import (
    SEEDS,
    batch_of,
    make_policies,
    make_worlds,
    rows_of,
)
from torchrl_drpo import ExponentialTaper
from torchrl_drpo.envs.streams import stream_seed
from torchrl_drpo.functional.weights import crr_weights
from torchrl_drpo.reproduction.simulator.critics import CriticEnsemble
from torchrl_drpo.reproduction.simulator.rules import (
    ExpectileAdvantage,
    LearnedTop,
    PolicyAdvantage,
    TopFraction,
)

STEPS = 12


@pytest.fixture
def worlds():
    return make_worlds()


def plain_critic(seed: int, inputs: int, part: str) -> nn.Sequential:
    torch.manual_seed(stream_seed(seed, part))
    return nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 1))


def assert_same(critic: CriticEnsemble, number: int, network: nn.Sequential) -> None:
    first, last = network[0], network[2]
    expected = {"w1": first.weight.T, "b1": first.bias[None], "w2": last.weight.T, "b2": last.bias}
    for name, value in expected.items():
        found = critic.parameters[name][number].detach()
        torch.testing.assert_close(found, value.detach().view_as(found), rtol=1e-4, atol=1e-5)


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """E |tau - 1[u < 0]| u^2, as in IQL, eq. 5."""
    return (torch.abs(expectile - (error < 0).float()) * error.square()).mean()


def test_q_and_v_are_trained_as_autograd_would(worlds):
    rule, policies = ExpectileAdvantage(expectile=0.8), make_policies(worlds)
    rule.prepare(worlds, policies, STEPS)
    batches = [rows_of(worlds, seed=step) for step in range(STEPS)]
    weights = [rule.weigh(batch_of(worlds, row), step) for step, row in enumerate(batches)]
    for number, seed in enumerate(SEEDS):
        log = worlds.log[number]
        state, action, reward = log["observation"], log["action"], log["reward"]
        q, v = plain_critic(seed, 22, "q"), plain_critic(seed, 10, "v")
        steps_of_q, steps_of_v = (torch.optim.Adam(n.parameters(), lr=3e-4) for n in (q, v))
        start = q[0].weight.detach().clone()
        for step, row in enumerate(batches):
            s, a, r = (column[row[number]] for column in (state, action, reward))
            value = q(torch.cat([s, a], -1)).squeeze(-1)
            error = value.detach() - v(s).squeeze(-1)
            advantage = error.detach()
            expected = (3.0 * advantage).exp().clamp_max(100.0) / len(r)
            torch.testing.assert_close(weights[step][number], expected, rtol=1e-4, atol=1e-6)
            for optimizer, loss in (
                (steps_of_q, (value - r).square().mean()),
                (steps_of_v, expectile_loss(error, 0.8)),
            ):
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        assert (q[0].weight - start).abs().mean() > 1e-3  # else the comparison says nothing
        assert_same(rule.q, number, q)
        assert_same(rule.v, number, v)


def test_critics_of_the_same_seed_do_not_start_alike():
    q, v = CriticEnsemble([0, 1], 10, part="q"), CriticEnsemble([0, 1], 10, part="v")
    assert not torch.equal(q.parameters["w1"], v.parameters["w1"])
    assert not torch.equal(q.parameters["w1"][0], q.parameters["w1"][1])
    alone = CriticEnsemble([1], 10, part="q")
    assert torch.equal(alone.parameters["w1"][0], q.parameters["w1"][1])


def test_making_critics_leaves_the_global_state_alone():
    before = torch.random.get_rng_state()
    CriticEnsemble([5], 4, part="q")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_iql_caps_its_weights(worlds):
    rule = ExpectileAdvantage(inverse_temperature=1e4, max_weight=7.0)
    rule.prepare(worlds, make_policies(worlds), 1)
    weight = rule.weigh(batch_of(worlds, rows_of(worlds)), 0)
    assert weight.max() == 7.0 / 40
    assert weight.min() < 1e-6


def test_crr_weighs_by_the_lead_over_the_policys_own_actions(worlds):
    rule, policies = PolicyAdvantage(temperature=0.5, samples=3), make_policies(worlds)
    rule.prepare(worlds, policies, 1)
    for group in rule.q.optimizer.param_groups:
        group["lr"] = 0.1  # after such a step, the next critic would say something else
    before = {name: value.detach().clone() for name, value in rule.q.parameters.items()}
    row = rows_of(worlds)
    weight = rule.weigh(batch_of(worlds, row), 0)
    generator = torch.Generator().manual_seed(103)
    noises = [torch.randn(40, 12, generator=generator) for _ in range(3)]
    state, action = worlds.read(row)
    for number in range(2):
        p = {name: value[number] for name, value in before.items()}

        def q(s: Tensor, a: Tensor, p: dict[str, Tensor] = p) -> Tensor:
            hidden = (torch.cat([s, a], -1) @ p["w1"] + p["b1"]).relu()
            return (hidden @ p["w2"] + p["b2"]).squeeze(-1)

        mean, sigma = policies.mean(state)[number], policies.sigma[number]
        own = [q(state[number], mean + noise * sigma) for noise in noises]
        advantage = q(state[number], action[number]) - torch.stack(own).mean(0)
        expected = crr_weights(advantage, mode="exponential", temperature=0.5) / 40
        torch.testing.assert_close(weight[number], expected)
        assert expected.std() > 1e-4


def test_learned_top_is_the_filter_on_the_learned_advantage(worlds):
    taper = ExponentialTaper(threshold=0.5)
    options = {"kappa": 0.2, "weighting": "linear", "taper": taper}
    rule, plain = LearnedTop(**options), ExpectileAdvantage(expectile=0.7)
    policies, row = make_policies(worlds), rows_of(worlds)
    for one in (rule, plain):
        one.prepare(worlds, policies, 1)
    advantage = plain._advantage(batch_of(worlds, row))
    top = TopFraction(quality="learned", **options)
    top.prepare(worlds, policies, 1)
    batch = batch_of(worlds, row)
    expected = top.weigh(batch.copy().set("learned", advantage), 0)
    found = rule.weigh(batch, 0)
    torch.testing.assert_close(found, expected)
    scores = policies.score(*worlds.read(row))
    faded = rule.reweigh(found, scores, batch, 0)
    torch.testing.assert_close(faded, top.reweigh(expected, scores, batch, 0))
    assert not torch.equal(faded, found)  # its rejected rows are tapered, as DRPO's are
    assert torch.equal(rule.report()["kappa"], torch.full((2,), 0.2))
