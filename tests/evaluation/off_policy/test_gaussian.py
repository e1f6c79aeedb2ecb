"""Gaussian policies over vectors: closed forms against quadrature and simulation, and decoding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict
from torch.distributions import Independent, Normal

from torchrl_drpo.evaluation.off_policy.estimators import ips, marginalised_ips, off_cem
from torchrl_drpo.evaluation.off_policy.gaussian import (
    DecodedPolicy,
    expected_effective_share,
    log_expected_squared_weight,
)
from torchrl_drpo.evaluation.off_policy.groups import ItemGroups
from torchrl_drpo.evaluation.off_policy.logs import LogKeys
from torchrl_drpo.evaluation.off_policy.policies import score_log
from torchrl_drpo.evaluation.off_policy.predictions import InnerProductReward
from torchrl_drpo.policies import MIPSDecoder
from torchrl_drpo.policies.gaussian import DiagonalNormal

SETTINGS = [(0.0, 1.0, 0.0, 1.0), (0.3, 0.6, -0.2, 1.1), (1.0, 1.3, 0.4, 1.0), (0.0, 0.2, 0.0, 2.0)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_expected_squared_weight_equals_quadrature(setting):
    m_e, s_e, m_b, s_b = torch.tensor(setting, dtype=torch.float64)
    at = torch.linspace(-60, 60, 2_000_001, dtype=torch.float64)
    log = 2 * Normal(m_e, s_e).log_prob(at) - Normal(m_b, s_b).log_prob(at)
    want = torch.trapezoid(log.exp(), at).item()
    got = log_expected_squared_weight(*(x.reshape(1) for x in (m_e, s_e, m_b, s_b)))
    assert got.exp().item() == pytest.approx(want, rel=1e-9)
    # dimensions multiply
    three = [x.repeat(3) for x in (m_e, s_e, m_b, s_b)]
    assert log_expected_squared_weight(*three).item() == pytest.approx(3 * math.log(want), abs=1e-8)


@pytest.mark.parametrize("dim", [2, 8, 16])
def test_weights_in_simulation(dim):
    g = torch.Generator().manual_seed(0)
    n = 60_000
    loc_b = torch.randn(n, dim, generator=g)
    loc_e = loc_b + 0.25 * torch.randn(n, dim, generator=g).clamp(-1.5, 1.5)
    s_b, s_e = torch.full((dim,), 0.8), torch.full((dim,), 0.7)
    action = loc_b + s_b * torch.randn(n, dim, generator=g)
    log = TensorDict({"action": action, "loc": loc_e}, [n])
    log["log_propensity"] = DiagonalNormal(loc_b, s_b).log_prob(action)
    log["next", "reward"] = action[:, :1]
    rows = score_log(lambda rows: DiagonalNormal(rows["loc"], s_e), log, density=True)
    found = ips(rows)
    assert found.diagnostics.mean_weight == pytest.approx(1, abs=0.05)
    assert found.diagnostics.mean_weight_error < 3
    share = expected_effective_share(loc_e, s_e, loc_b, s_b)
    assert found.diagnostics.effective_rows / n == pytest.approx(share, rel=0.15)
    assert found.low <= loc_e[:, 0].mean() <= found.high


def test_half_a_deviation_a_dimension():
    for dim in (4, 16, 32):
        loc = torch.zeros(10, dim)
        one = torch.ones(dim)
        share = expected_effective_share(loc + 0.5, one, loc, one)
        assert share == pytest.approx(math.exp(-dim / 4), rel=1e-6)
    # rows that cannot be told apart in logarithms do not overflow
    assert expected_effective_share(loc + 20, one, loc, one) == 0.0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"scale": torch.tensor([[1.0, 1.0], [1.0, 1.5]])}, r"dimension 1 .*1\.5.*row 1"),
        ({"scale": torch.tensor([1.0, 2**0.5])}, "dimension 1"),
        ({"behavior_scale": torch.tensor([0.5, 1.0])}, "dimension 0"),
        ({"scale": torch.tensor([1.0, 0.0])}, "scale must be above 0"),
        ({"behavior_scale": torch.tensor([1.0, -1.0])}, "behavior_scale must be above 0"),
    ],
)
def test_an_infinite_variance_is_told_before_any_data(change, match):
    given = {
        "loc": torch.zeros(2, 2),
        "scale": torch.ones(2),
        "behavior_loc": torch.zeros(2, 2),
        "behavior_scale": torch.ones(2),
    }
    with pytest.raises(ValueError, match=match):
        expected_effective_share(**{**given, **change})


def served_world(rows: int):
    """Vectors on a circle; the logger serves any item, the policy what lies near its draw."""
    g = torch.Generator().manual_seed(0)
    angle = torch.arange(60) * 2 * math.pi / 60
    items = torch.stack([angle.cos(), angle.sin()], -1)
    group = torch.arange(60) // 10
    towards = 2 * math.pi * torch.rand(rows, generator=g)
    loc = torch.stack([towards.cos(), towards.sin()], -1)
    action = torch.randint(60, (rows,), generator=g)
    reward = torch.rand(6, generator=g)
    log = TensorDict({"loc": loc, "item": action}, [rows])
    log["next", "reward"] = (torch.rand(rows, generator=g) < reward[group[action]]).float()[:, None]
    log["propensity"] = torch.full((rows,), 1 / 60)
    return log, items, ItemGroups(group), reward[group]


def test_what_a_policy_over_vectors_serves_is_counted():

    log, items, groups, reward = served_world(3_000)
    decoder = MIPSDecoder(items, metric="cosine")

    def gaussian(rows):
        return Independent(Normal(rows["loc"], 0.4), 1)

    def served(rows):
        return DecodedPolicy(gaussian(rows), decoder, draws=200)

    model = InnerProductReward(
        lambda rows: torch.ones(len(rows), 1), 0 * reward[:, None] + 0.5, action_key="item"
    )
    keys = LogKeys(action="item")
    rows = score_log(served, log, groups=groups, draws=50, reward_model=model, keys=keys)
    by_group = torch.full((len(rows),), math.log(10 / 60), dtype=torch.float64)
    rows = replace(rows, log_behavior_group=by_group)
    many = decoder.decode(gaussian(log).sample((400,)))[1].squeeze(-1)
    truth = reward[many].mean().item()
    shares = torch.stack([(groups.of(many) == c).double().mean(0) for c in range(6)])
    want = shares.gather(0, groups.of(log["item"])[None])[0]
    torch.testing.assert_close(rows.log_target_group.exp(), want, rtol=0, atol=0.2)
    assert (rows.log_target_group.exp() - want).mean().abs() < 0.005
    for estimator in (marginalised_ips, off_cem):
        found = estimator(rows)
        assert abs(found.value - truth) < 3 * found.standard_error
        assert found.diagnostics.mean_weight == pytest.approx(1, abs=0.1)
    assert marginalised_ips(rows).standard_error < ips(rows).standard_error


def test_draws_that_were_not_made_are_refused():
    gaussian = DiagonalNormal(torch.zeros(1, 2), torch.ones(2))
    served = DecodedPolicy(gaussian, MIPSDecoder(torch.eye(2)), draws=3)
    assert served.sample((2,)).shape == (2, 1)
    assert served.log_prob(torch.tensor([9])) == -torch.inf
    with pytest.raises(ValueError, match="more draws"):
        served.sample((4,))
    with pytest.raises(ValueError, match="at least 1"):
        DecodedPolicy(gaussian, MIPSDecoder(torch.eye(2)), draws=0)
