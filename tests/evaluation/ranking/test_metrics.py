"""Hit rate and NDCG against torchmetrics and all orders of ties."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import permutations

import pytest
import torch
from torch import Tensor

from torchrl_drpo.evaluation.ranking import (
    catalogue_scores,
    hit_rate,
    ndcg,
    scores_from_logits,
    static_scores,
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


def test_shapes_and_k_are_checked() -> None:
    with pytest.raises(ValueError, match="one target a row"):
        catalogue_scores(torch.randn(3, 2), torch.randn(4, 2), torch.zeros(2, dtype=torch.long))
    scores = static_scores(torch.zeros(4), torch.tensor([1]))
    for metric in (hit_rate, ndcg):
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            metric(scores, 0)
