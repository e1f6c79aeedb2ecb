"""Intervals against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from torchrl_drpo.evaluation.statistics import Interval, mean_interval


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


@pytest.mark.parametrize(
    ("half", "above", "below"), [(0.4, True, False), (0.6, False, False), (math.nan, False, False)]
)
def test_above_and_below_are_of_the_whole_interval(half: float, above: bool, below: bool) -> None:
    found = Interval(1.5, half, 3)
    assert (found.above(1.0), found.below(1.0)) == (above, below)
    mirrored = Interval(-1.5, half, 3)
    assert (mirrored.below(-1.0), mirrored.above(-1.0)) == (above, below)
    assert Interval(0.5, 0.5, 3).above() is False  # it touches 0
