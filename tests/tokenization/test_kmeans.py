"""k-means and its assignments against brute force in float64 and exact transport."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from torchrl_drpo.tokenization import assignment
from torchrl_drpo.tokenization.assignment import nearest
from torchrl_drpo.tokenization.balance import balanced
from torchrl_drpo.tokenization.kmeans import kmeans, seeds


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def brute_force(vectors: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Every difference in float64; the first of equals."""
    squares = (vectors.double()[:, None] - centroids.double()).square().sum(-1)
    return squares.argmin(-1), squares.amin(-1)


CLOUDS = {
    "cloud": lambda: torch.randn(500, 7, generator=generator()),
    "far away": lambda: 1e4 + torch.randn(500, 7, generator=generator()),
    "grid, full of ties": lambda: torch.randint(0, 3, (500, 7), generator=generator()).float(),
    "one number each": lambda: torch.randn(500, 1, generator=generator()),
}


@pytest.mark.parametrize("name", CLOUDS)
@pytest.mark.parametrize("count", [1, 2, 20])
def test_nearest_is_brute_force_in_float64(name: str, count: int) -> None:
    vectors = CLOUDS[name]()
    centroids = vectors[torch.randperm(500, generator=generator(1))[:count]].clone()
    centroids[-1] = centroids[0]  # of two centroids in one place the first
    index, distance = nearest(vectors, centroids)
    expected = brute_force(vectors, centroids)
    assert torch.equal(index, expected[0])
    torch.testing.assert_close(distance, expected[1], rtol=1e-12, atol=1e-12)


def test_nearest_decides_in_float64_what_float32_cannot() -> None:
    vectors = 100 * torch.randn(2_000, 3, generator=generator())
    centroids = torch.tensor([[0.0, 0.0, 0.0], [1e-5, 0.0, 0.0]])
    index = nearest(vectors, centroids)[0]
    assert torch.equal(index, (vectors[:, 0].double() > 5e-6).long())


@pytest.mark.parametrize("name", CLOUDS)
def test_inertia_never_rises_and_is_that_of_the_centroids(name: str) -> None:
    vectors = CLOUDS[name]()
    found = kmeans(vectors, 12, generator=generator(), tolerance=0.0)
    assert len(found.inertia) > 2
    scale = vectors.double().square().sum()
    assert all(b <= a + 1e-13 * scale for a, b in itertools.pairwise(found.inertia))
    assert found.inertia[0] > found.inertia[-1]
    own = brute_force(vectors, found.centroids)[1].sum()
    torch.testing.assert_close(own.item(), found.inertia[-1], rtol=1e-9, atol=1e-9)


def test_planted_clusters_are_found_and_no_cluster_stays_empty(monkeypatch) -> None:
    centres = 50 * torch.randn(8, 4, generator=generator())
    label = torch.arange(400) % 8
    vectors = centres[label] + torch.randn(400, 4, generator=generator())
    found = kmeans(vectors, 8, generator=generator())
    codes = nearest(vectors, found.centroids)[0]
    assert len(set(zip(codes.tolist(), label.tolist(), strict=True))) == 8
    # All seeds but one lie where no vector is: their clusters are empty, and begin anew.
    lost = torch.full((8, 4), 1e6, dtype=torch.float64) + torch.arange(8.0)[:, None]
    lost[0] = vectors[0]
    monkeypatch.setattr("torchrl_drpo.tokenization.kmeans.seeds", lambda *_: lost)
    again = kmeans(vectors, 8, generator=generator())
    assert len(nearest(vectors, again.centroids)[0].unique()) == 8
    assert all(b <= a for a, b in itertools.pairwise(again.inertia))
    assert again.inertia[-1] < again.inertia[0] / 5


def test_seeds_are_different_vectors_and_as_many_as_there_are() -> None:
    vectors = torch.tensor([[0.0], [0.0], [1.0], [5.0], [5.0]])
    for seed in range(5):
        found = seeds(vectors, 4, generator(seed)).flatten().tolist()
        assert sorted(found) == [0.0, 1.0, 5.0]


def test_seeds_leave_less_than_vectors_drawn_at_random() -> None:
    vectors = torch.randn(2_000, 3, generator=generator()) ** 3
    ours, theirs = [], []
    for seed in range(20):
        ours.append(nearest(vectors, seeds(vectors, 16, generator(seed)))[1].sum().item())
        rows = torch.randperm(2_000, generator=generator(seed))[:16]
        theirs.append(nearest(vectors, vectors[rows])[1].sum().item())
    assert max(ours) < min(theirs)


@pytest.mark.parametrize(
    ("count", "codes", "limit"), [(600, 8, 1.01), (603, 8, 1.01), (1000, 50, 1.03)]
)
def test_a_balanced_assignment_costs_little_more_than_the_exact_one(
    count: int, codes: int, limit: float
) -> None:
    vectors = torch.randn(count, 4, generator=generator())
    centroids = vectors[torch.randperm(count, generator=generator(1))[:codes]]
    capacity = -(-count // codes)
    index, distance, _ = balanced(vectors, centroids, capacity)
    assert torch.bincount(index).max() <= capacity
    squares = (vectors.double()[:, None] - centroids.double()).square().sum(-1)
    torch.testing.assert_close(distance, squares.gather(1, index[:, None])[:, 0])
    places = squares.repeat_interleave(capacity, 1).numpy()
    exact = places[linear_sum_assignment(places)].sum()
    assert exact <= distance.sum() <= limit * exact
    assert nearest(vectors, centroids)[1].sum() < 0.95 * exact  # the capacity matters here


def test_a_capacity_is_kept_however_hard_it_is() -> None:
    same = torch.zeros(90, 3)
    same[:30] += torch.randn(30, 3, generator=generator())
    centroids = torch.randn(9, 3, generator=generator())
    assert torch.bincount(balanced(same, centroids, 10).index).tolist() == [10] * 9
    for count in (81, 89, 90):
        assert torch.bincount(balanced(same[:count], centroids, 10).index).max() <= 10
    with pytest.raises(ValueError, match="9 codes of capacity 9 hold fewer than the 90 vectors"):
        balanced(same, centroids, 9)


def test_balanced_clusters_are_balanced_where_plain_ones_are_not() -> None:
    vectors = torch.cat([torch.randn(50, 2), 20 + 0.1 * torch.randn(350, 2)])
    sizes = {}
    for kind in (False, True):
        found = kmeans(vectors, 4, generator=generator(), balanced=kind)
        index = (
            balanced(vectors, found.centroids, 100, found.prices).index
            if kind
            else nearest(vectors, found.centroids)[0]
        )
        sizes[kind] = torch.bincount(index, minlength=4).tolist()
    assert sizes[True] == [100] * 4
    assert max(sizes[False]) > 100


@pytest.mark.parametrize("kind", [False, True])
def test_the_size_of_a_block_changes_nothing(monkeypatch, kind: bool) -> None:
    vectors = torch.randn(1_100, 6, generator=generator())
    found = []
    for budget in (1 << 21, 4_999, 640):
        monkeypatch.setattr(assignment, "TILE_ELEMENTS", budget)
        clusters = kmeans(vectors, 16, generator=generator(), balanced=kind, iterations=6)
        found.append(clusters)
    for other in found[1:]:
        torch.testing.assert_close(other.centroids, found[0].centroids, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(other.inertia, found[0].inertia, rtol=1e-12, atol=0.0)
