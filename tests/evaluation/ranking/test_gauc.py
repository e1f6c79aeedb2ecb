"""GAUC against the Mann-Whitney statistic of SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from torchrl_drpo.evaluation.ranking import (
    grouped_auc,
)


def auc_by_mann_whitney(score: np.ndarray, label: np.ndarray, group: np.ndarray) -> float:
    total, weight = 0.0, 0
    for g in np.unique(group):
        s, y = score[group == g], label[group == g]
        if 0 < y.sum() < len(y):
            u = stats.mannwhitneyu(s[y == 1], s[y == 0]).statistic
            total += len(y) * u / (y.sum() * (len(y) - y.sum()))
            weight += len(y)
    return total / weight


@given(st.integers(0, 2**31 - 1), st.integers(2, 200), st.integers(1, 30), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_grouped_auc_is_the_mann_whitney_statistic(seed, rows, groups, levels) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, levels, rows).astype(np.float32) / 7  # many exact ties
    label, group = rng.integers(0, 2, rows), rng.integers(-3, groups, rows) * 1_000_003
    ours = grouped_auc(*map(torch.from_numpy, (score, label, group)))
    sizes = [(group == g).sum() for g in np.unique(group) if 0 < label[group == g].mean() < 1]
    assert ours.groups.item() == len(sizes)
    assert ours.rows.item() == sum(sizes)
    if sizes:
        assert ours.value.item() == pytest.approx(auc_by_mann_whitney(score, label, group))
    else:
        assert math.isnan(ours.value.item())


def test_grouped_auc_of_a_constant_score_is_one_half() -> None:
    label, group = torch.randint(2, (500,)), torch.randint(40, (500,))
    assert grouped_auc(torch.zeros(500), label, group).value.item() == 0.5


def test_grouped_auc_refuses_a_score_that_is_not_a_number() -> None:
    with pytest.raises(ValueError, match="score must be finite but row 1"):
        grouped_auc(torch.tensor([0.0, math.nan]), torch.tensor([0, 1]), torch.tensor([0, 0]))
