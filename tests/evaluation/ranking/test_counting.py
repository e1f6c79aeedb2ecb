"""Rankings that count, against the same counted by loops."""

from __future__ import annotations

import math

import pytest
import torch

from torchrl_drpo.evaluation.ranking.counting import (
    cooccurrences,
    history_scores,
    item_neighbours,
)

V, L = 12, 4


@pytest.fixture
def rows() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    history = torch.randint(-1, V - 2, (60, L), generator=generator)
    action = torch.randint(0, V, (60,), generator=generator)
    return list(zip(history.split(25), action.split(25), strict=True))


def flat(rows):
    history, action = (torch.cat(column).tolist() for column in zip(*rows, strict=True))
    return list(zip(history, action, strict=True))


def test_co_occurrences_are_those_of_a_loop(rows):
    expected = torch.zeros(V, V)
    for history, action in flat(rows):
        for item in {i for i in history if i >= 0}:
            expected[item, action] += 1
    assert cooccurrences(rows, V).toarray().tolist() == expected.tolist()


@pytest.mark.parametrize("neighbours", [3, 100])
def test_neighbours_are_those_of_a_loop(neighbours):
    generator = torch.Generator().manual_seed(1)
    user, item = (torch.randint(0, n, (150,), generator=generator) for n in (20, V - 1))
    users = [set(user[item == i].tolist()) for i in range(V)]
    found = item_neighbours(user, item, V, neighbours).toarray()
    for i in range(V):
        cosine = [
            0.0
            if i == j or not users[i] or not users[j]
            else len(users[i] & users[j]) / math.sqrt(len(users[i]) * len(users[j]))
            for j in range(V)
        ]
        kept = sorted(range(V), key=lambda j: (-cosine[j], j))[:neighbours]
        expected = [cosine[j] if j in kept else 0.0 for j in range(V)]
        assert found[i].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["counts", "cosines", "nothing"])
def test_ranks_are_those_of_sorted_sums(rows, kind):
    """Sums first, popularity where they are equal, and ties where that is equal too."""
    generator = torch.Generator().manual_seed(2)
    popularity = torch.randint(0, 4, (V,), generator=generator)
    table = cooccurrences(rows, V)
    if kind == "nothing":
        table = table * 0
    step = 1.0
    if kind == "cosines":
        user, item = (torch.randint(0, n, (150,), generator=generator) for n in (20, V - 1))
        table, step = item_neighbours(user, item, V), 1e-9
    scores = history_scores(table, popularity, rows, step)
    dense = torch.tensor(table.toarray())
    for n, (history, action) in enumerate(flat(rows)):
        total = sum((dense[i] for i in {i for i in history if i >= 0}), torch.zeros(V).double())
        keys = [(round(total[j].item(), 7), popularity[j].item()) for j in range(V)]
        assert scores.better[n] == sum(key > keys[action] for key in keys)
        assert scores.tied[n] == sum(key == keys[action] for key in keys)
    assert scores.log_prob.isfinite().all()
    assert (scores.log_prob <= 0).all()


def test_a_catalogue_of_nobody_and_nothing():
    empty = torch.zeros(0, dtype=torch.long)
    assert item_neighbours(empty, empty, 5).nnz == 0
    rows = [(torch.full((2, 3), -1), torch.tensor([0, 4]))]
    assert cooccurrences(rows, 5).nnz == 0
    scores = history_scores(cooccurrences(rows, 5), torch.zeros(5), rows)
    assert (scores.better.tolist(), scores.tied.tolist()) == ([0, 0], [5, 5])
