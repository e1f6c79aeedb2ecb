"""GAUC against the Mann-Whitney statistic of SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from torchrl_drpo.evaluation.ranking import RankedGroups, grouped_auc, ranking_metrics
from torchrl_drpo.evaluation.ranking.scores import CatalogueScores


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


@given(st.integers(0, 2**31 - 1), st.integers(1, 200), st.integers(1, 12), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_parts_of_groups_and_some_of_the_rows_are_the_mann_whitney_statistic(
    seed, rows, groups, parts
) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 20, rows).astype(np.float32) / 7
    label, some = rng.integers(0, 2, rows), rng.random(rows) < 0.7
    group = rng.integers(-3, groups, rows) * 1_000_003
    part = rng.integers(-(2**62), 2**62, parts)[rng.integers(0, parts, rows)]
    ranked = RankedGroups(torch.from_numpy(score), torch.from_numpy(group))
    within = ranked.within(torch.from_numpy(part))
    pair = np.unique(np.stack([group, part], 1), axis=0, return_inverse=True)[1].reshape(-1)
    for ranks, by in ((within, pair), (ranked, group)):  # the second is as it was before
        for rows_of in (None, some):
            mine = slice(None) if rows_of is None else rows_of
            found = ranks.auc(
                torch.from_numpy(label), None if rows_of is None else torch.from_numpy(rows_of)
            )
            if found.rows:
                expected = auc_by_mann_whitney(score[mine], label[mine], by[mine])
                assert found.value.item() == pytest.approx(expected)
            else:
                assert math.isnan(found.value.item())


def test_an_order_between_contexts_is_none_within_them() -> None:
    # Two contexts of one user: all of context 1 is scored below all of context 0, where most are
    # good, and within each the scores are upside down.
    quality = torch.tensor([1.0, 1, 1, 0, 1, 0, 0, 0])
    context = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    score = torch.tensor([5.0, 6, 7, 8, 1, 2, 3, 4])
    nobody = torch.zeros(8, dtype=torch.long)
    scores = CatalogueScores(score, nobody, nobody + 1)
    got = ranking_metrics(scores, quality, nobody, context=context, ks=(1,))
    assert got["gauc_quality"] == 9 / 16  # 3 good rows above the 3 poor ones of context 1
    assert got["gauc_quality_within"] == 0
    assert got["gauc_best_worst_within"] == 0


def test_best_against_worst_leaves_out_what_lies_between() -> None:
    # Scores of user 0: best rows 3 and 1, the worst 2, a good one between them 9.
    quality = torch.tensor([0.9, 0.8, 0.1, 0.6, 0.9])
    score = torch.tensor([3.0, 1, 2, 9, 0])
    user, context = torch.tensor([0, 0, 0, 0, 1]), torch.zeros(5, dtype=torch.long)
    scores = CatalogueScores(score, user, user + 1)
    got = ranking_metrics(scores, quality, user, context=context, ks=(1,))
    assert got["gauc_best_worst_within"] == 1 / 2
    assert got["gauc_quality_within"] == pytest.approx(2 / 3)
