"""K-means cells: against brute force on clusters that are there, and on data without any."""

from __future__ import annotations

import pytest
import torch

from torchrl_drpo.evaluation.off_policy.cells import kmeans_cells


def test_clusters_that_are_there_are_found():
    g = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(12, 5, generator=g)
    of_item = torch.randint(12, (900,), generator=g)
    vectors = centres[of_item] + torch.randn(900, 5, generator=g)
    cell = kmeans_cells(vectors, 12, seed=1)
    pairs = torch.stack([of_item, cell], -1).unique(dim=0)
    assert len(pairs) == 12  # one cell a cluster, one cluster a cell
    assert torch.equal(cell, kmeans_cells(vectors, 12, seed=1))


def test_cells_are_those_of_the_nearest_mean_once_nothing_moves():
    vectors = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    cell = kmeans_cells(vectors, 7, iterations=500)
    means = torch.stack([vectors[cell == c].mean(0) for c in range(7)])
    assert torch.equal(torch.cdist(vectors, means).argmin(-1), cell)
    spread = (vectors - means[cell]).square().sum()
    assert spread < 0.75 * (vectors - vectors.mean(0)).square().sum()


@pytest.mark.parametrize("vectors", [torch.zeros(5, 2), torch.arange(5.0).unsqueeze(-1)])
def test_as_many_cells_as_vectors_and_vectors_that_coincide(vectors):
    cell = kmeans_cells(vectors, 5)
    assert ((cell >= 0) & (cell < 5)).all()
    assert len(cell.unique()) == len(vectors.unique(dim=0))


@pytest.mark.parametrize(
    ("vectors", "cells", "match"),
    [
        (torch.zeros(5), 2, "V, D"),
        (torch.zeros(5, 2).long(), 2, "floating"),
        (torch.full((5, 2), torch.nan), 2, "finite"),
        (torch.zeros(5, 2), 6, r"\[1, 5\]"),
        (torch.zeros(5, 2), 0, r"\[1, 5\]"),
    ],
)
def test_what_has_no_cells_is_refused(vectors, cells, match):
    with pytest.raises(ValueError, match=match):
        kmeans_cells(vectors, cells)
