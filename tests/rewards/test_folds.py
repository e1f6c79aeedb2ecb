"""Folds: of one size, drawn by a seed, with groups left whole."""

from __future__ import annotations

import pytest
import torch

from torchrl_drpo.rewards import assign_folds


@pytest.mark.parametrize(("count", "folds"), [(7, 2), (60, 5), (61, 5), (5, 5)])
def test_folds_are_of_one_size_and_drawn_by_the_seed(count: int, folds: int):
    fold = assign_folds(count, folds)
    sizes = fold.bincount(minlength=folds)
    assert sizes.sum() == count
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal(assign_folds(count, folds), fold)
    if count > 20:
        assert not torch.equal(assign_folds(count, folds, seed=1), fold)
        assert not torch.equal(fold, torch.arange(count) % folds)


def test_a_group_stays_together():
    group = torch.tensor([5, -3, 5, 9, 9, -3, 7, 5]).unsqueeze(-1)
    fold = assign_folds(8, 2, group=group)
    for one in group.unique():
        assert len(fold[group.flatten() == one].unique()) == 1
    of_groups = [int(fold[row]) for row in (0, 1, 3, 6)]
    assert sorted(of_groups) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 9, "folds": 1}, "folds must be at least 2, got 1"),
        ({"count": 4, "folds": 5}, "5 folds need as many rows, got 4"),
        ({"count": 4, "folds": 3, "group": torch.tensor([1, 1, 2, 2])}, "as many groups, got 2"),
        ({"count": 4, "folds": 2, "group": torch.ones(3)}, r"one group id a row, 4, got \(3,\)"),
    ],
)
def test_folds_that_cannot_be_are_refused(given: dict, message: str):
    with pytest.raises(ValueError, match=message):
        assign_folds(**given)
