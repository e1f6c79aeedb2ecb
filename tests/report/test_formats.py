"""Numbers as text."""

from __future__ import annotations

import math

import pytest

from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.report.formats import number, plus_minus, signed, spread


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-0.0001, "0.000"), (999.9999, "1.0e+03"), (-1234.5, "-1.2e+03"),
     (math.nan, "-"), (-math.inf, "-")],
)  # fmt: skip
def test_numbers_of_a_table(value: float, text: str):
    assert number(value) == text


def test_intervals_of_a_table():
    found = Interval(-0.12345, 0.0678, 5)
    assert signed(found) == "-0.123 ± 0.068"
    assert signed(Interval(0.5, 0.25, 2)) == "+0.500 ± 0.250"
    assert plus_minus(found, "+.1f") == "-0.1 ± 0.1"
    assert plus_minus(Interval(58.123, 1.234, 3), ".3g", ".2g") == "58.1 ± 1.2"
    assert spread([2.0]) == "2.000"  # one seed says nothing about spread
    assert spread([1e5, 3e5]) == "2.0e+05 ± 1e+06"
