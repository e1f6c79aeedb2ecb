"""Holm's correction against closed testing, of which it is a short cut."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from torchrl_drpo.evaluation.statistics import holm


def test_holm_is_closed_testing_with_bonferroni() -> None:
    p = dict(zip("abcde", np.random.default_rng(2).uniform(0, 0.2, 5), strict=True))
    subsets = [set(s) for n in range(1, 6) for s in itertools.combinations(p, n)]
    expected = {
        name: max(min(1.0, len(s) * min(p[i] for i in s)) for s in subsets if name in s)
        for name in p
    }
    assert holm(p) == pytest.approx(expected)
    assert math.isnan(holm({"a": 0.1, "b": math.nan})["b"])
    assert holm({"a": 0.1, "b": math.nan})["a"] == pytest.approx(0.1)  # one test only


@pytest.mark.parametrize("p", [-0.1, 1.5, float("inf")])
def test_what_is_no_probability_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got .* for 'b'"):
        holm({"a": 0.5, "b": p})
