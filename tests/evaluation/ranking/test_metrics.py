from __future__ import annotations

import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from torchrl_drpo.evaluation.ranking import (
    catalogue_scores,
    grouped_auc,
    hit_rate,
    ndcg,
    ranking_metrics,
    scores_from_logits,
    static_scores,
    top_k_quality,
)


def random_logits(rows: int = 40, items: int = 60) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, items), torch.randint(items, (rows,))


@pytest.mark.parametrize("k", [1, 5, 60])
def test_hit_rate_and_ndcg_agree_with_torchmetrics(k: int) -> None:
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval")
    logits, target = random_logits()
    scores = scores_from_logits(logits, target)
    for row in range(len(target)):
        relevant = torch.zeros(logits.shape[1], dtype=torch.bool)
        relevant[target[row]] = True
        assert hit_rate(scores, k)[row].item() == retrieval.retrieval_hit_rate(
            logits[row], relevant, top_k=k
        )
        expected = retrieval.retrieval_normalized_dcg(logits[row], relevant.long(), top_k=k)
        assert ndcg(scores, k)[row].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_ties_get_the_exact_expectation_over_all_orders(k: int) -> None:
    logits = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.0])
    target = 2
    hits, gains = Fraction(0), 0.0
    orders = list(permutations(range(5)))
    for tie_break in orders:
        place = sorted(range(5), key=lambda i: (-logits[i], tie_break[i])).index(target) + 1
        hits += place <= k
        gains += (place <= k) / math.log2(1 + place)
    scores = scores_from_logits(logits[None], torch.tensor([target]))
    assert hit_rate(scores, k).item() == pytest.approx(float(hits / len(orders)))
    assert ndcg(scores, k).item() == pytest.approx(gains / len(orders))
    assert scores.mean_rank().item() == 3.0


@given(
    score=st.lists(st.integers(0, 6), min_size=1, max_size=12), data=st.data(), k=st.integers(1, 15)
)
@settings(max_examples=60, deadline=None)
def test_a_static_ranking_equals_the_same_scores_on_every_row(score, data, k) -> None:
    score = torch.tensor(score, dtype=torch.float32)
    target = torch.tensor(data.draw(st.lists(st.integers(0, len(score) - 1), min_size=1)))
    static = static_scores(score, target)
    dense = scores_from_logits(score.expand(len(target), -1), target)
    for ours, theirs in zip(static, dense, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(hit_rate(static, k), hit_rate(dense, k))


def test_blocks_of_rows_do_not_change_the_scores() -> None:
    hidden, items, bias = torch.randn(37, 8), torch.randn(50, 8), torch.randn(50)
    target = torch.randint(50, (37,))
    logits = (hidden @ items.T + bias).double()
    one_by_one = catalogue_scores(hidden, items, target, bias=bias, logits_at_a_time=1)
    at_once = catalogue_scores(hidden, items, target, bias=bias)
    exact = scores_from_logits(logits, target)
    for scores in (one_by_one, at_once):
        assert torch.equal(scores.better, exact.better)
        assert torch.equal(scores.tied, exact.tied)
        torch.testing.assert_close(scores.log_prob.double(), exact.log_prob, atol=1e-5, rtol=1e-5)


def test_temperature_flattens_the_log_prob_and_keeps_the_ranks() -> None:
    hidden, items, target = torch.randn(5, 4), torch.randn(9, 4), torch.randint(9, (5,))
    warm = catalogue_scores(hidden, items, target, temperature=2.0)
    logits = (hidden @ items.T) / 2
    expected = logits.log_softmax(-1)[torch.arange(5), target]
    torch.testing.assert_close(warm.log_prob, expected)
    assert torch.equal(warm.better, catalogue_scores(hidden, items, target).better)


def test_no_policy_gradient_is_kept() -> None:
    items = torch.randn(6, 3, requires_grad=True)
    scores = catalogue_scores(torch.randn(4, 3), items, torch.zeros(4, dtype=torch.long))
    assert not scores.log_prob.requires_grad


def test_a_diverged_policy_is_an_error_and_not_a_perfect_rank() -> None:
    logits = torch.randn(4, 5)
    logits[2, 1] = math.nan
    with pytest.raises(ValueError, match="row 2 holds nan"):
        scores_from_logits(logits, torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="logits must be finite"):
        catalogue_scores(torch.full((1, 2), math.inf), torch.ones(3, 2), torch.tensor([0]))


@pytest.mark.parametrize("item", [-1, 5])
def test_items_outside_the_catalogue_are_named(item: int) -> None:
    target = torch.tensor([0, item])
    with pytest.raises(ValueError, match=rf"\[0, 5\) but row 1 holds {item}"):
        scores_from_logits(torch.randn(2, 5), target)
    with pytest.raises(ValueError, match=rf"\[0, 5\) but row 1 holds {item}"):
        static_scores(torch.zeros(5), target)


def test_shapes_and_k_are_checked() -> None:
    with pytest.raises(ValueError, match="one target a row"):
        catalogue_scores(torch.randn(3, 2), torch.randn(4, 2), torch.zeros(2, dtype=torch.long))
    scores = static_scores(torch.zeros(4), torch.tensor([1]))
    for metric in (hit_rate, ndcg):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            metric(scores, 0)


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


def test_random_ranking_has_lift_one_and_the_log_s_mean_quality() -> None:
    quality, user = torch.rand(400), torch.randint(20, (400,))
    scores = static_scores(torch.zeros(1000), torch.randint(1000, (400,)))
    got = ranking_metrics(scores, quality, user, labels={"click": quality > 0.9}, ks=(50,))
    for name in ("hr@50", "hr@50_best", "hr@50_worst"):
        assert got[name] == pytest.approx(0.05)
    assert got["lift@50"] == pytest.approx(1.0)
    assert got["top100_quality"] == pytest.approx(quality.double().mean().item())
    assert got["gauc_quality"] == got["gauc_click"] == 0.5


def test_ranking_metrics_equal_a_count_by_hand() -> None:
    # Ranks 1, 3, 2, 4 of four items; best rows are 0 and 1, the worst row is 2.
    logits = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]])
    scores = scores_from_logits(logits, torch.tensor([0, 2, 1, 3]))
    quality = torch.tensor([0.75, 0.9, 0.25, 0.5])
    got = ranking_metrics(scores, quality, torch.zeros(4, dtype=torch.long), ks=(2,), top=3)
    assert got["hr@2"] == 0.5
    assert got["hr@2_best"] == 0.5
    assert got["hr@2_worst"] == 1.0
    assert got["lift@2"] == 0.5
    assert got["ndcg@2_best"] == 0.5
    assert got["ndcg@2_worst"] == pytest.approx(1 / math.log2(3))
    assert got["top3_quality"] == pytest.approx((0.75 + 0.9 + 0.25) / 3)
    # positives rank 1, 3, 4; the negative ranks 2: one of three pairs in order
    assert got["gauc_quality"] == pytest.approx(1 / 3)


def test_what_the_rows_cannot_answer_is_nan() -> None:
    scores = static_scores(torch.zeros(9), torch.tensor([1, 2]))
    got = ranking_metrics(scores, torch.tensor([0.5, 0.6]), torch.tensor([0, 1]), ks=(3,))
    assert all(math.isnan(got[name]) for name in ("hr@3_best", "hr@3_worst", "gauc_quality"))


def test_ranking_metrics_check_their_input() -> None:
    scores = static_scores(torch.zeros(9), torch.tensor([1, 2]))
    user = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="one shape"):
        ranking_metrics(scores, torch.rand(3), user)
    with pytest.raises(ValueError, match="quality must be finite but row 1"):
        ranking_metrics(scores, torch.tensor([0.1, math.nan]), user)
    with pytest.raises(ValueError, match="worst must lie below best"):
        ranking_metrics(scores, torch.rand(2), user, best=0.2, worst=0.3)
    with pytest.raises(ValueError, match="one shape"):
        top_k_quality(scores, torch.rand(3), 10)
