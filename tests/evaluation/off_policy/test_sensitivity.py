"""Bounds for weights wrong by a factor, against all corners of the box."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from tests.evaluation.off_policy.worlds import draw, logged
from torchrl_drpo.evaluation.off_policy import (
    LoggedRows,
    doubly_robust,
    ips,
    self_normalised_doubly_robust,
    snips,
    weight_bounds,
)

ESTIMATORS = {
    "IPS": ips,
    "SNIPS": snips,
    "DR": doubly_robust,
    "SNDR": self_normalised_doubly_robust,
}


def corners(rows: LoggedRows, factor: float, name: str) -> tuple[float, float]:
    """Least and largest estimate over all 2^N corners; both kinds attain theirs at a corner."""
    values = []
    for exponents in product((-1.0, 1.0), repeat=len(rows)):
        w = rows.log_ratio.exp() * factor ** torch.tensor(exponents).double()
        r = rows.reward if name in ("IPS", "SNIPS") else rows.reward - rows.prediction
        base = 0.0 if name in ("IPS", "SNIPS") else rows.value.mean()
        total = (w * r).sum() / (len(rows) if name in ("IPS", "DR") else w.sum())
        values.append(float(base + total))
    return min(values), max(values)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("factor", [1.3, 4.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_bounds_are_those_of_every_corner(name: str, factor: float, seed: int) -> None:
    world = draw(rows=11, seed=seed)
    world["reward"] = torch.randn(11).double()  # of either sign
    rows = logged(world)
    found = weight_bounds(rows, factor, estimator=name)
    low, high = corners(rows, factor, name)
    assert found.low == pytest.approx(low, abs=1e-12)
    assert found.high == pytest.approx(high, abs=1e-12)
    assert (found.factor, found.estimator) == (factor, name)


@pytest.mark.parametrize("name", list(ESTIMATORS))
def test_without_a_factor_both_bounds_are_the_estimate(name: str) -> None:
    rows = logged(draw())
    found = weight_bounds(rows, 1.0, estimator=name)
    value = ESTIMATORS[name](rows).value
    assert found.low == pytest.approx(value, abs=1e-12)
    assert found.high == pytest.approx(value, abs=1e-12)


def test_what_the_factor_covers_lies_within_the_bounds() -> None:
    rows = logged(draw())
    wrong = LoggedRows(
        rows.reward, rows.log_target, rows.log_behavior - 0.6 * torch.rand(len(rows)).double()
    )
    found = weight_bounds(wrong, 1.9)  # e^.6 is 1.82
    assert found.low < snips(rows).value < found.high


def test_weights_beyond_all_measure_have_bounds() -> None:
    rows = LoggedRows(torch.tensor([1.0, 0.0]), torch.zeros(2), torch.tensor([-2_000.0, -2_001.0]))
    found = weight_bounds(rows, 2.0)
    w = torch.tensor([1.0, torch.e**1]).double()
    assert found.high == pytest.approx((4 * w[0] / (4 * w[0] + w[1])).item())


def test_what_has_no_bounds_is_refused() -> None:
    rows = logged(draw(rows=5))
    for factor in (0.5, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="at least 1"):
            weight_bounds(rows, factor)
    with pytest.raises(ValueError, match="no bounds for 'MIPS'"):
        weight_bounds(rows, 2.0, estimator="MIPS")
    none = LoggedRows(torch.ones(2), torch.full((2,), -torch.inf), torch.zeros(2))
    with pytest.raises(ValueError, match="nothing to bound"):
        weight_bounds(none, 2.0)
    with pytest.raises(ValueError, match="needs `prediction`"):
        weight_bounds(LoggedRows(torch.ones(2), torch.zeros(2), torch.zeros(2)), 2, estimator="DR")
