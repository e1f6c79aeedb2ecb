"""The offline table against counts by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl_drpo.evaluation.ranking import (
    CatalogueScores,
    ranking_metrics,
    scores_from_logits,
    static_scores,
    top_k_quality,
)


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


@given(st.integers(0, 2**31 - 1), st.integers(1, 40), st.integers(1, 3))
@settings(max_examples=80, deadline=None)
def test_a_lift_over_less_than_one_worst_hit_is_what_one_hit_makes_it(seed, rows, k) -> None:
    rng = np.random.default_rng(seed)
    quality = rng.choice([0.0, 0.5, 1.0], rows)
    better, tied = rng.integers(0, 6, rows), rng.choice([1, 1, 1, 4], rows)
    scores = CatalogueScores(torch.zeros(rows), torch.tensor(better), torch.tensor(tied))
    given_rows = (scores, torch.tensor(quality), torch.arange(rows))
    plain = ranking_metrics(*given_rows, ks=(k,))
    bounded = ranking_metrics(*given_rows, ks=(k,), least_worst_hits=1)
    # A row's place is drawn among those that tie with it.
    places = zip(better.tolist(), tied.tolist(), strict=True)
    chance = [Fraction(min(max(k - above, 0), like), like) for above, like in places]
    best, worst = ([c for c, q in zip(chance, quality, strict=True) if q == w] for w in (1.0, 0.0))
    hits = sum(worst, Fraction(0))
    assert bounded.pop(f"lift@{k}_worst_hits") == pytest.approx(float(hits))
    assert bounded.pop(f"lift@{k}_worst_rows") == len(worst)
    lift = bounded[f"lift@{k}"]
    if not best or not worst or not (hits or sum(best)):
        assert math.isnan(lift)
    elif hits >= 1:
        assert lift == plain[f"lift@{k}"]  # to the bit
    else:
        expected = sum(best) / len(best) / (Fraction(1) / len(worst))
        assert lift == pytest.approx(float(expected))
    bounded[f"lift@{k}"] = plain[f"lift@{k}"]
    np.testing.assert_equal(bounded, plain)


def test_ranking_metrics_check_their_input() -> None:
    scores = static_scores(torch.zeros(9), torch.tensor([1, 2]))
    user = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="one shape"):
        ranking_metrics(scores, torch.rand(3), user)
    with pytest.raises(ValueError, match="quality must be finite but row 1"):
        ranking_metrics(scores, torch.tensor([0.1, math.nan]), user)
    with pytest.raises(ValueError, match="worst must lie below best"):
        ranking_metrics(scores, torch.rand(2), user, best=0.2, worst=0.3)
    for least in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match="least_worst_hits must be finite and at least 0"):
            ranking_metrics(scores, torch.rand(2), user, least_worst_hits=least)
    with pytest.raises(ValueError, match="one shape"):
        top_k_quality(scores, torch.rand(3), 10)
