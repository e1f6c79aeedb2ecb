"""Paired comparisons against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from torchrl_drpo.evaluation.statistics import (
    corrected_p_values,
    paired_interval,
    paired_p_value,
)


@pytest.mark.parametrize(("seeds", "comparisons"), [(2, 1), (5, 1), (5, 6), (10, 9)])
def test_a_paired_interval_is_scipys_of_the_differences(seeds: int, comparisons: int) -> None:
    rng = np.random.default_rng(seeds)
    world = rng.normal(0, 5, seeds)  # which both methods share, and which cancels out
    a, b = world + rng.normal(0.3, 0.1, seeds), world + rng.normal(0, 0.1, seeds)
    level = 1 - 0.05 / comparisons
    expected = stats.ttest_rel(a, b).confidence_interval(level)
    found = paired_interval(a.tolist(), b.tolist(), comparisons)
    assert found.mean - found.half_width == pytest.approx(expected.low)
    assert found.mean + found.half_width == pytest.approx(expected.high)


def test_the_other_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="the same seeds, got 2 and 3 values"):
        paired_interval([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="the same seeds, got 1 and 2 values"):
        corrected_p_values({"a": [1.0]}, [1.0, 2.0])
    with pytest.raises(ValueError, match="comparisons must be at least 1, got 0"):
        paired_interval([1.0], [1.0], comparisons=0)


def test_paired_p_value_equals_scipy() -> None:
    a, b = np.random.default_rng(1).normal(0.3, 1, (2, 5))
    assert paired_p_value(list(a - b)) == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=1e-9)
    assert paired_p_value([0.0, 0.0]) == 1
    assert paired_p_value([0.5, 0.5]) == 0
    assert math.isnan(paired_p_value([1.0]))


def test_corrected_p_values_are_holms_of_paired_t_tests():
    base = [0.30, 0.31, 0.33, 0.29, 0.32]
    values = {
        "near": [0.31, 0.30, 0.34, 0.30, 0.32],
        "far": [0.20, 0.21, 0.25, 0.19, 0.20],
        "above": [0.33, 0.35, 0.34, 0.33, 0.34],
    }
    p = {name: stats.ttest_rel(those, base).pvalue for name, those in values.items()}
    ordered, running, expected = sorted(p, key=lambda name: p[name]), 0.0, {}
    for rank, name in enumerate(ordered):
        running = max(running, min(1.0, (3 - rank) * p[name]))
        expected[name] = running
    found = corrected_p_values(values, base)
    assert found == pytest.approx(expected, abs=1e-9)
