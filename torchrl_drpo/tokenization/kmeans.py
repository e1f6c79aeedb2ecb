"""k-means of a set of vectors that fits in memory: seeds, Lloyd's iterations, empty clusters."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.tokenization.assignment import nearest, row_tiles
from torchrl_drpo.tokenization.balance import balanced as assign_balanced

#: Vectors that seeds are drawn among, for each centroid.
SEEDED_FROM = 128


class KMeans(NamedTuple):
    """What k-means found.

    Attributes:
        centroids: float64 ``[K, D]``; fewer than were asked for where fewer vectors differ.
        inertia: summed squared distances of the vectors to their centroids, after each assignment.
            They never rise, save with ``balanced``, whose assignment is not the nearest.
        prices: those of the balanced assignment to these centroids, else ``None``.
    """

    centroids: Tensor
    inertia: list[float]
    prices: Tensor | None


def kmeans(
    vectors: Tensor,
    count: int,
    *,
    generator: torch.Generator,
    balanced: bool = False,
    iterations: int = 30,
    tolerance: float = 1e-4,
) -> KMeans:
    """Lloyd's algorithm from k-means++ seeds.

    A cluster that loses all its vectors begins anew at one that is far from its centroid. With
    ``balanced`` no cluster has more than ``ceil(N / count)`` of the vectors.

    Source: Lloyd 1982, "Least squares quantization in PCM"; Arthur and Vassilvitskii 2007,
    "k-means++: The Advantages of Careful Seeding".

    Args:
        vectors: finite, ``[N, D]``, N at least 1.
        count: centroids.
        generator: of the seeds; the same one gives the same centroids.
        balanced: whether clusters are of one size.
        iterations: assignments at most.
        tolerance: ends when inertia falls by less than this share (``balanced``: three times in
            a row); the centroids of the least inertia are returned.

    >>> two = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> found = kmeans(two, 2, generator=torch.Generator().manual_seed(0))
    >>> sorted(found.centroids.flatten().tolist()), found.inertia[-1]
    ([0.5, 10.5], 1.0)
    """
    centroids = seeds(vectors, count, generator)
    capacity = -(-len(vectors) // len(centroids))
    inertia: list[float] = []
    best = KMeans(centroids, inertia, None)
    prices = None
    stale, patience = 0, 3 if balanced else 1
    for _ in range(iterations):
        if balanced:
            index, distance, prices = assign_balanced(vectors, centroids, capacity, prices)
        else:
            index, distance = nearest(vectors, centroids)
        least = min(inertia, default=math.inf)
        inertia.append(distance.sum().item())
        stale = 0 if inertia[-1] < (1 - tolerance) * least else stale + 1
        if inertia[-1] < least:
            best = KMeans(centroids, inertia, prices)
        if stale == patience:
            break
        centroids = _means(vectors, index, distance, centroids, generator)
    return best


def seeds(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """First centroids: vectors drawn in proportion to their squared distance to those before.

    Of a few that are drawn the one that leaves the least inertia is taken (greedy k-means++).

    Args:
        vectors: ``[N, D]``; ``SEEDED_FROM`` a centroid are looked at.
        count: how many.
        generator: of the draws.

    Returns:
        float64 ``[K, D]``, all different; fewer than ``count`` where fewer vectors differ.
    """
    looked_at = count * SEEDED_FROM
    if len(vectors) > looked_at:
        vectors = vectors[torch.randperm(len(vectors), generator=generator)[:looked_at]]
    vectors = vectors.double()
    squares = vectors.square().sum(-1)
    tried = 2 + int(math.log(count))
    chosen = [int(torch.randint(len(vectors), (), generator=generator))]
    apart = _squares_to(vectors, chosen[0])
    while len(chosen) < count:
        mass = apart.cumsum(0)
        if mass[-1] == 0:
            break
        drawn = torch.rand(tried, generator=generator, dtype=torch.float64) * mass[-1]
        rows = torch.searchsorted(mass, drawn, right=True).clamp_max(len(mass) - 1)
        # Of those that were drawn, the one that leaves least; rounding matters little here.
        left = torch.addmm(squares[:, None] + squares[rows], vectors, vectors[rows].T, alpha=-2)
        row = int(rows[torch.minimum(left, apart[:, None]).sum(0).argmin()])
        if apart[row] == 0:  # the cumulative sum's rounding
            row = int(apart.argmax())
        chosen.append(row)
        apart = torch.minimum(apart, _squares_to(vectors, row))
    return vectors[chosen]


def _squares_to(vectors: Tensor, row: int) -> Tensor:
    """Squared distances to one of the vectors: by differences, so that equal ones are at 0."""
    return (vectors - vectors[row]).square_().sum(-1)


def _means(
    vectors: Tensor, index: Tensor, distance: Tensor, before: Tensor, generator: torch.Generator
) -> Tensor:
    """Each cluster's mean, summed in the order of the vectors; empty ones begin anew."""
    sums = torch.zeros_like(before)
    for tile in row_tiles(len(vectors), vectors.shape[1]):
        sums.index_add_(0, index[tile], vectors[tile].double())
    sizes = torch.bincount(index, minlength=len(before))
    means = torch.where(sizes[:, None] > 0, sums / sizes.clamp_min(1)[:, None], before)
    empty = (sizes == 0).nonzero().squeeze(-1)
    if empty.numel():
        # The smallest of exponentials over their rates: a draw in proportion to the rates.
        waiting = torch.empty_like(distance).exponential_(generator=generator) / distance
        rows = waiting.argsort(stable=True)[: len(empty)]
        rows = rows[distance[rows] > 0]
        means[empty[: len(rows)]] = vectors[rows].double()
    return means
