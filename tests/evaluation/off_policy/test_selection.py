"""Choosing estimators and policies, against brute force and SciPy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from tests.evaluation.off_policy.worlds import draw, logged
from torchrl_drpo.evaluation.off_policy import (
    LoggedRows,
    direct_method,
    doubly_robust,
    ips,
    snips,
    switch_doubly_robust,
)
from torchrl_drpo.evaluation.off_policy.selection import (
    cross_validated,
    selection_quality,
    slope,
)

CAPS = (0.01, 0.3, 1.0, 3.0, 10.0, 1e6)


def family(model_error: float, rows: int = 4_000) -> tuple[list, float]:
    world = draw(rows=rows)
    world["model"] = world["expected"] + model_error
    truth = (world["target"] * world["expected"]).sum().item() / 3
    given = logged(world)
    return [switch_doubly_robust(given, cap=cap) for cap in CAPS], truth


def test_slope_takes_the_narrowest_where_the_model_is_right() -> None:
    estimates, _ = family(0.0)
    widths = [each.high - each.low for each in estimates]
    assert slope(estimates) is estimates[widths.index(min(widths))]


def test_slope_leaves_a_wrong_model_for_the_weights() -> None:
    estimates, truth = family(0.6)
    assert abs(estimates[0].value - truth) > 0.4  # the model alone
    assert abs(slope(estimates).value - truth) < 0.06


def test_slope_needs_an_interval() -> None:
    with pytest.raises(ValueError, match="at least one estimate"):
        slope([])
    with pytest.raises(ValueError, match="has none"):
        slope([direct_method(logged(draw()))])


@pytest.mark.parametrize(("error", "chosen"), [(0.0, "DM"), (0.5, "DR")])
def test_cross_validation_knows_a_right_model_from_a_wrong_one(error: float, chosen: str) -> None:
    world = draw(rows=3_000, users=300)
    world["model"] = world["expected"] + error
    found = cross_validated(logged(world), {"DM": direct_method, "DR": doubly_robust, "IPS": ips})
    assert found == chosen


def test_without_a_model_the_validator_is_ips() -> None:
    rows = logged(draw())
    plain = LoggedRows(rows.reward, rows.log_target, rows.log_behavior)
    assert cross_validated(plain, {"IPS": ips, "SNIPS": snips}) in ("IPS", "SNIPS")
    with pytest.raises(ValueError, match="at least one estimator"):
        cross_validated(plain, {})


def test_quality_of_a_choice() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(8, generator=generator).double()
    estimated = truth + 0.3 * torch.randn(8, generator=generator).double()
    found = selection_quality(estimated, truth, 0.4, k=3)
    expected = stats.spearmanr(estimated, truth).statistic
    assert found.rank_correlation == pytest.approx(expected)
    chosen = sorted(range(8), key=lambda i: -estimated[i])[:3]
    values = [truth[i].item() for i in chosen]
    assert found.regret == pytest.approx(truth.max().item() - max(values))
    spread = torch.tensor(values).double().std().item()
    assert found.sharpe_ratio == pytest.approx((max(values) - 0.4) / spread)
    assert math.isnan(selection_quality(estimated, truth, 0.4).sharpe_ratio)
    with pytest.raises(ValueError, match=r"k must lie in \[1, 8\], got 9"):
        selection_quality(estimated, truth, 0.4, k=9)
