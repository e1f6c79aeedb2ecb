"""Every estimator against its formula, written anew, and against other programs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.evaluation.off_policy.worlds import draw, logged
from torchrl_drpo.evaluation.off_policy import ESTIMATORS, LoggedRows
from torchrl_drpo.evaluation.off_policy import estimators as ope

GROUPS = torch.tensor([0, 0, 1, 1, 1, 2])


def by_hand(world: dict, groups: torch.Tensor = GROUPS) -> dict[str, float]:
    """Sums over rows in plain Python, cap 5, strengths 100 and .05."""
    terms: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    weights = []
    for i in range(len(world["reward"])):
        s, a, r = int(world["state"][i]), int(world["action"][i]), float(world["reward"][i])
        pe, pb, q = (world[n][s].tolist() for n in ("target", "behavior", "model"))
        w = pe[a] / pb[a]
        v = sum(p * x for p, x in zip(pe, q, strict=True))
        mine = [j for j in range(6) if groups[j] == groups[a]]
        g = sum(pe[j] for j in mine) / sum(pb[j] for j in mine)
        sub, shrunk = w / (0.95 + 0.05 * w), 100 * w / (w * w + 100)
        weights.append(w)
        terms["IPS"].append(w * r)
        terms["clipped IPS"].append(min(w, 5) * r)
        terms["DM"].append(v)
        terms["DR"].append(v + w * (r - q[a]))
        terms["SNDR"].append(w * (r - q[a]))
        terms["Switch-DR"].append(v + (w if w <= 10 else 0) * (r - q[a]))
        terms["DRos"].append(v + shrunk * (r - q[a]))
        terms["sub-Gaussian IPS"].append(sub * r)
        terms["sub-Gaussian DR"].append(v + sub * (r - q[a]))
        terms["MIPS"].append(g * r)
        terms["OffCEM"].append(v + g * (r - q[a]))
    n, total = len(weights), math.fsum(weights)
    out = {name: math.fsum(each) / n for name, each in terms.items() if each}
    out["SNIPS"] = math.fsum(terms["IPS"]) / total
    out["SNDR"] = out["DM"] + math.fsum(terms["SNDR"]) / total
    return out


@pytest.mark.parametrize("seed", range(3))
def test_every_estimator_is_its_formula(seed: int) -> None:
    world = draw(seed=seed)
    rows, expected = logged(world, GROUPS), by_hand(world)
    found = {name: estimator(rows).value for name, estimator in ESTIMATORS.items()}
    assert found == pytest.approx(expected, rel=1e-12)


def test_groups_of_one_item_are_the_items() -> None:
    rows = logged(draw(), torch.arange(6))
    assert ope.marginalised_ips(rows).value == pytest.approx(ope.ips(rows).value, rel=1e-12)
    assert ope.off_cem(rows).value == pytest.approx(ope.doubly_robust(rows).value, rel=1e-12)
    one = logged(draw(), torch.zeros(6).long())  # one group: every weight is 1
    assert ope.marginalised_ips(one).value == pytest.approx(one.reward.mean().item())


def test_unbiased_over_the_whole_support() -> None:
    """Expectations over every state and action, weighted as the logging policy draws them."""
    world = draw()
    state, action = torch.meshgrid(torch.arange(3), torch.arange(6), indexing="ij")
    whole = {**world, "state": state.flatten(), "action": action.flatten()}
    whole["reward"] = world["expected"].flatten()
    rows = logged(whole)
    share = world["behavior"].flatten() / 3
    truth = (world["target"] * world["expected"]).sum().item() / 3
    for terms in (
        rows.log_ratio.exp() * rows.reward,
        rows.value + rows.log_ratio.exp() * rows.residual(),
    ):
        assert (share * terms).sum().item() == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("users", [None, 25])
@pytest.mark.parametrize("name", ["IPS", "SNIPS", "DR", "SNDR", "OffCEM"])
def test_standard_errors_are_the_jackknife_s(name: str, users: int | None) -> None:
    world = draw(rows=200, users=users)
    rows = logged(world, GROUPS)
    found = ESTIMATORS[name](rows)
    units = torch.arange(200) if users is None else world["cluster"]
    count = int(units.max()) + 1
    left = [ESTIMATORS[name](rows.take(units != unit)).value for unit in range(count)]
    spread = math.sqrt((count - 1) / count * sum((x - np.mean(left)) ** 2 for x in left))
    assert found.standard_error == pytest.approx(spread, rel=0.03)


def test_self_normalised_estimates_move_with_the_reward() -> None:
    rows = logged(draw())
    moved = LoggedRows(rows.reward + 3, rows.log_target, rows.log_behavior)
    base = LoggedRows(rows.reward, rows.log_target, rows.log_behavior)
    assert ope.snips(moved).value == pytest.approx(ope.snips(base).value + 3)
    assert ope.snips(moved).standard_error == pytest.approx(ope.snips(base).standard_error)
    far = LoggedRows(rows.reward, rows.log_target - 900, rows.log_behavior - 800)
    assert ope.snips(far).value == pytest.approx(ope.snips(base).value)  # in logarithms


def test_limits_of_the_controls() -> None:
    rows = logged(draw())
    same = pytest.approx(ope.doubly_robust(rows).value, rel=1e-6)
    assert ope.switch_doubly_robust(rows, cap=1e9).value == same
    assert ope.optimistic_shrinkage(rows, strength=1e12).value == same
    assert ope.subgaussian_doubly_robust(rows, strength=0.0).value == same
    assert ope.clipped_ips(rows, cap=1e9).value == pytest.approx(ope.ips(rows).value)
    model = pytest.approx(ope.direct_method(rows).value)
    assert ope.optimistic_shrinkage(rows, strength=0.0).value == model
    assert ope.switch_doubly_robust(rows, cap=1e-9).value == model


def test_the_policy_that_logged_has_its_mean_reward() -> None:
    rows = logged(draw())
    own = LoggedRows(rows.reward, rows.log_behavior, rows.log_behavior)
    for name in ("IPS", "clipped IPS", "SNIPS", "sub-Gaussian IPS"):
        found = ESTIMATORS[name](own)
        assert found.value == pytest.approx(rows.reward.mean().item())
        assert found.verdict == "usable"
        assert found.diagnostics.effective_rows == pytest.approx(len(rows))


def test_open_bandit_pipeline_agrees() -> None:
    obp = pytest.importorskip("obp.ope")
    world = draw(rows=500)
    rows = logged(world)
    dist = world["target"][world["state"]].unsqueeze(-1).numpy()
    inputs = {
        "reward": rows.reward.numpy(),
        "action": world["action"].numpy(),
        "pscore": rows.log_behavior.exp().numpy(),
        "action_dist": dist,
        "position": np.zeros(500, dtype=int),
    }
    q = world["model"][world["state"]].unsqueeze(-1).numpy()
    peers = {
        "IPS": (obp.InverseProbabilityWeighting(), {}),
        "clipped IPS": (obp.InverseProbabilityWeighting(lambda_=5), {}),
        "SNIPS": (obp.SelfNormalizedInverseProbabilityWeighting(), {}),
        "DM": (obp.DirectMethod(), {"q": q}),
        "DR": (obp.DoublyRobust(), {"q": q}),
        "SNDR": (obp.SelfNormalizedDoublyRobust(), {"q": q}),
        "Switch-DR": (obp.SwitchDoublyRobust(lambda_=10), {"q": q}),
        "DRos": (obp.DoublyRobustWithShrinkage(lambda_=100), {"q": q}),
        "sub-Gaussian DR": (obp.SubGaussianDoublyRobust(lambda_=0.05), {"q": q}),
        "sub-Gaussian IPS": (obp.SubGaussianInverseProbabilityWeighting(lambda_=0.05), {}),
    }
    for name, (peer, more) in peers.items():
        given = {**inputs, **({"estimated_rewards_by_reg_model": more["q"]} if more else {})}
        expected = peer.estimate_policy_value(**given)
        assert ESTIMATORS[name](rows).value == pytest.approx(expected, abs=1e-6), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": torch.zeros(0)}, "at least one logged row"),
        ({"reward": torch.tensor([1.0, math.nan])}, "reward of row 1 is nan"),
        ({"log_behavior": torch.tensor([-1.0, -math.inf])}, "row 1 is -inf; the logging policy"),
        ({"log_behavior": torch.tensor([0.2, 0.4])}, r"row 0 is 0\.2.*are these probabilities"),
        ({"log_target": torch.tensor([-1.0])}, "log_target has 1 entries for 2 rewards"),
        ({"log_target": torch.tensor([-1.0, math.inf])}, "log_target of row 1 is inf"),
    ],
)
def test_rows_that_cannot_be_are_refused(changes: dict, message: str) -> None:
    given = {name: torch.tensor([-1.0, -2.0]) for name in ("log_target", "log_behavior")}
    with pytest.raises(ValueError, match=message):
        LoggedRows(**{"reward": torch.ones(2), **given, **changes})


def test_no_overlap_is_an_error_and_never_a_zero() -> None:
    rows = LoggedRows(torch.ones(3), torch.full((3,), -math.inf), torch.zeros(3))
    for name in ("IPS", "SNIPS", "clipped IPS", "sub-Gaussian IPS"):
        with pytest.raises(ValueError, match="no overlap, and nothing can be said"):
            ESTIMATORS[name](rows)
    with pytest.raises(ValueError, match="needs `value`"):
        ope.doubly_robust(LoggedRows(torch.ones(3), torch.zeros(3), torch.zeros(3)))
