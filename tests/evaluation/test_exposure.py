"""Exposure of items against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from torchrl_drpo.evaluation.exposure import (
    coverage,
    exposure_counts,
    exposure_metrics,
    gini,
    intra_list_diversity,
    novelty,
    popular_share,
)

LISTS = torch.tensor([[0, 1, 2], [0, 3, -1], [0, 2, 1], [5, -1, -1]])


def test_counts_and_coverage() -> None:
    counts = exposure_counts(LISTS, 8)
    assert counts.tolist() == [3, 2, 2, 1, 0, 1, 0, 0]
    assert coverage(counts) == 5 / 8
    with pytest.raises(ValueError, match=r"0 to 5; the catalogue has 0 to 4|hold items -1 to 5"):
        exposure_counts(LISTS, 5)


@pytest.mark.parametrize("counts", [[3, 2, 2, 1, 0, 1, 0, 0], [5, 5], [1, 0, 0], [7, 1, 2, 9]])
def test_gini_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    pairs = [abs(a - b) for a in counts for b in counts]
    expected = np.mean(pairs) / (2 * np.mean(counts))
    assert gini(torch.tensor(counts)) == pytest.approx(expected)


def test_novelty_and_popularity() -> None:
    counts, logged = exposure_counts(LISTS, 8), torch.tensor([50, 20, 10, 5, 4, 0, 0, 0])
    p = (logged.double() + 1) / (logged + 1).sum()
    shown = LISTS[LISTS >= 0]
    assert novelty(counts, logged) == pytest.approx(-p[shown].log2().mean().item())
    assert popular_share(counts, logged, head=0.25) == pytest.approx(5 / 9)  # items 0 and 1
    assert popular_share(counts, torch.zeros(8).long(), head=0.25) == pytest.approx(0.25)


def test_diversity_over_pairs() -> None:
    vectors = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    each = []
    for row in LISTS.tolist():
        items = [item for item in row if item >= 0]
        pairs = list(itertools.combinations(items, 2))
        if pairs:
            each.append(np.mean([1 - (unit[a] @ unit[b]).item() for a, b in pairs]))
    assert intra_list_diversity(LISTS, vectors) == pytest.approx(np.mean(each), rel=1e-6)
    assert math.isnan(intra_list_diversity(torch.tensor([[1, -1]]), vectors))


def test_all_metrics_of_lists_at_once_are_those_of_their_functions() -> None:
    generator = torch.Generator().manual_seed(5)
    lists = torch.rand(2_500, 30, generator=generator).topk(4).indices  # three blocks of lists
    lists[7, 2:] = -1
    logged = torch.randint(0, 9, (30,), generator=generator)
    vectors = torch.randn(30, 6, generator=generator)
    found = exposure_metrics(lists, logged, vectors)
    counts = exposure_counts(lists, 30)
    assert found["coverage"] == coverage(counts)
    assert found["gini"] == gini(counts)
    assert found["novelty"] == novelty(counts, logged)
    assert found["popular_share"] == popular_share(counts, logged)
    cosine = torch.cosine_similarity(vectors[:, None].double(), vectors.double(), dim=-1)
    apart = []
    for row in lists.tolist():
        shown = [item for item in row if item >= 0]
        pairs = [(a, b) for i, a in enumerate(shown) for b in shown[:i]]
        apart.append(sum(1 - cosine[a, b].item() for a, b in pairs) / len(pairs))
    assert found["diversity"] == pytest.approx(sum(apart) / len(apart), rel=1e-6)
    assert "diversity" not in exposure_metrics(lists, logged)
