r"""Assignment under a capacity: no code is given to more than its share of the items.

The cheapest such assignment is a transport problem. Its dual has one price a code, and at the right
prices every item simply takes the code of the least distance plus price. The prices come from a
softened problem (Cuturi 2013, "Sinkhorn Distances", arXiv 1306.0895), over-relaxed:

    share_ij = softmax_j(-(d_ij + p_j) / eps),    p_j <- p_j + 1.5 eps log(sum_i share_ij / (N / K))

What is then above a code's capacity goes, least regret first, to the next best code with room.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.tokenization.assignment import row_tiles

#: Softness of each change of prices, in units of the mean squared distance of all pairs.
SOFTNESS = tuple(0.5 * 0.02 ** (k / 23) for k in range(24))
#: How many of these changes mend prices that were found for other centroids or vectors.
MENDING = 6
_RELAXATION = 1.5


class Balanced(NamedTuple):
    """An assignment that keeps to its capacity.

    Attributes:
        index: code of each vector, int64 ``[N]``.
        distance: squared distance to its centroid, float64 ``[N]``.
        prices: float64 ``[K]``; to begin with where centroids or vectors change a little.
    """

    index: Tensor
    distance: Tensor
    prices: Tensor


def balanced(
    vectors: Tensor, centroids: Tensor, capacity: int, prices: Tensor | None = None
) -> Balanced:
    """A code of each vector, at most ``capacity`` vectors a code.

    The capacity is exact. The sum of squared distances is close to the least one that it allows
    where clusters are about as large as their codes' shares, and less so where most of a cluster
    must leave it (``tests/benchmarks/tokenization.py`` compares with the exact one). Walks blocks
    of rows in float64.

    Args:
        vectors: ``[N, D]``.
        centroids: ``[K, D]``.
        capacity: largest number of vectors a code, ``K * capacity >= N``.
        prices: those found before, for much the same problem.

    Raises:
        ValueError: if the capacity is too small for all.

    >>> four = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    >>> balanced(four, torch.tensor([[0.0], [9.0]]), capacity=2).index.tolist()
    [0, 0, 1, 1]
    """
    count, codes = len(vectors), len(centroids)
    if codes * capacity < count:
        raise ValueError(
            f"{codes} codes of capacity {capacity} hold fewer than the {count} vectors"
        )
    exact = centroids.double()
    prices = _prices(vectors, exact, prices)
    index = torch.full((count,), -1, dtype=torch.long)
    room = torch.full((codes,), capacity)
    left = torch.arange(count)
    while left.numel():  # every round places all of them, or fills a code for good
        charge = prices.masked_fill(room == 0, torch.inf)
        wanted, regret = _cheapest(vectors, exact, charge, left)
        taken = _place_in_queue(wanted, regret) < room[wanted]
        index[left[taken]] = wanted[taken]
        room -= torch.bincount(wanted[taken], minlength=codes)
        left = left[~taken]
    distance = torch.empty(count, dtype=torch.float64)
    for tile in row_tiles(count, vectors.shape[1]):
        distance[tile] = (vectors[tile].double() - exact[index[tile]]).square_().sum(-1)
    return Balanced(index, distance, prices)


def _costs(rows: Tensor, centroids: Tensor) -> Tensor:
    """Squared distances less the vector's own part, float64 ``[n, K]``."""
    return torch.addmm(centroids.square().sum(-1), rows.double(), centroids.T, alpha=-2)


def _prices(vectors: Tensor, centroids: Tensor, before: Tensor | None) -> Tensor:
    """What makes every code about as wanted as any other, ``[K]``."""
    prices = centroids.new_zeros(len(centroids)) if before is None else before.clone()
    tiles = list(row_tiles(len(vectors), 2 * len(centroids)))
    unit = 0.0
    for tile in tiles:
        own = vectors[tile].double().square().sum(-1)
        unit += float((_costs(vectors[tile], centroids).mean(-1) + own).sum()) / len(vectors)
    if not unit > 0.0:  # one point: nothing to weigh
        return prices
    for softness in SOFTNESS if before is None else SOFTNESS[-MENDING:]:
        loads = torch.zeros_like(prices)
        for tile in tiles:
            cost = _costs(vectors[tile], centroids) + prices
            loads += (-cost / (softness * unit)).softmax(-1).sum(0)
        excess = (loads * (len(centroids) / len(vectors))).log().clamp_min(-30.0)
        prices += _RELAXATION * softness * unit * excess
    return prices


def _cheapest(
    vectors: Tensor, centroids: Tensor, charge: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """The cheapest code of each of these rows, and what the next one would cost more."""
    wanted, regret = torch.empty_like(rows), centroids.new_empty(len(rows))
    for tile in row_tiles(len(rows), 2 * len(centroids)):
        cost = _costs(vectors[rows[tile]], centroids) + charge
        two, order = cost.topk(min(2, len(centroids)), largest=False)
        wanted[tile] = order[:, 0]
        regret[tile] = two[:, -1] - two[:, 0]
    return wanted, regret


def _place_in_queue(wanted: Tensor, regret: Tensor) -> Tensor:
    """How many go before each row among those that want the same code; most regret first."""
    order = torch.argsort(-regret, stable=True)
    order = order[torch.argsort(wanted[order], stable=True)]
    sizes = torch.bincount(wanted)
    starts = sizes.cumsum(0) - sizes
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - starts[wanted[order]]
    return place
