"""Student's t against SciPy."""

from __future__ import annotations

import pytest
from scipy import stats

from torchrl_drpo.evaluation.statistics import student_p_value, student_t_quantile


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 6, 7, 29, 30, 101])
@pytest.mark.parametrize("confidence", [0.01, 0.5, 0.9, 0.95, 0.999])
def test_quantile_equals_scipy(degrees: int, confidence: float) -> None:
    expected = stats.t.ppf((1 + confidence) / 2, degrees)
    assert student_t_quantile(confidence, degrees) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("degrees", [1, 2, 5, 6, 29])
@pytest.mark.parametrize("t", [0.0, 0.3, -2.5, 7.0, 40.0, 1e9])
def test_p_value_equals_scipy(degrees: int, t: float) -> None:
    expected = 2 * stats.t.sf(abs(t), degrees)
    assert student_p_value(t, degrees) == pytest.approx(expected, rel=1e-6, abs=1e-15)


def test_no_degrees_of_freedom_are_refused() -> None:
    with pytest.raises(ValueError, match="degrees must be at least 1"):
        student_t_quantile(0.95, 0)
    with pytest.raises(ValueError, match="degrees must be at least 1"):
        student_p_value(1.0, 0)
