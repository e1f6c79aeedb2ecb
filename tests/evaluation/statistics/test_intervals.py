from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from torchrl_drpo.evaluation.statistics import mean_interval, student_t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 6, 7, 29, 30, 101])
@pytest.mark.parametrize("confidence", [0.01, 0.5, 0.9, 0.95, 0.999])
def test_quantile_equals_scipy(degrees: int, confidence: float) -> None:
    expected = stats.t.ppf((1 + confidence) / 2, degrees)
    assert student_t_quantile(confidence, degrees) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("runs", [2, 3, 10])
def test_interval_equals_scipy(runs: int) -> None:
    values = np.random.default_rng(runs).normal(3, 2, runs)
    low, high = stats.t.interval(0.9, runs - 1, values.mean(), stats.sem(values))
    got = mean_interval(values.tolist(), confidence=0.9)
    assert got.mean - got.half_width == pytest.approx(low)
    assert got.mean + got.half_width == pytest.approx(high)
    assert got.count == runs


def test_one_run_has_no_spread() -> None:
    got = mean_interval([0.25])
    assert got.mean == 0.25
    assert math.isnan(got.half_width)
    assert str(got) == "0.250"


@pytest.mark.parametrize(
    ("values", "mean"), [([math.inf, 1.0], math.inf), ([math.inf, -math.inf, 1.0], math.nan)]
)
def test_an_infinite_ratio_has_no_interval(values: list[float], mean: float) -> None:
    got = mean_interval(values)
    assert got.mean == pytest.approx(mean, nan_ok=True)
    assert math.isnan(got.half_width)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([])
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\), got 1"):
        mean_interval([1.0], confidence=1.0)
    with pytest.raises(ValueError, match="degrees must be at least 1"):
        student_t_quantile(0.95, 0)
