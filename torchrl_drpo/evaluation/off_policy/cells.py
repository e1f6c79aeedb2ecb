"""Cells of item vectors: k-means with k-means++ seeds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Vectors that the centres are fitted to, for each of them; more move a centre by little.
VECTORS_A_CENTRE = 256
_BLOCK = 2**24  # distances held at a time


@torch.no_grad()
def kmeans_cells(vectors: Tensor, cells: int, *, iterations: int = 25, seed: int = 0) -> Tensor:
    """The cell of every vector: that of the nearest of ``cells`` centres.

    Centres start as k-means++ draws, the best of a few each (Arthur and Vassilvitskii 2007), and
    follow Lloyd's iteration, both on at most ``256 * cells`` vectors drawn at random. A centre that
    loses its last vector moves to the vector that is farthest from its own.

    Args:
        vectors: floating, finite, shape ``[V, D]``.
        cells: number of cells, in ``[1, V]``.
        iterations: of Lloyd at most; it stops where no vector moves.
        seed: of the draws.

    Returns:
        int64 in ``[0, cells)``, shape ``[V]``, on the CPU.

    Raises:
        ValueError: for another shape, vectors that are not finite, or a number out of range.

    Example:
        >>> vectors = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
        >>> cell = kmeans_cells(vectors, 2)
        >>> bool(cell[0] == cell[1]), bool(cell[0] == cell[2])
        (True, False)
    """
    if vectors.ndim != 2 or not vectors.is_floating_point() or not vectors.isfinite().all():
        raise ValueError(
            "expected finite floating-point vectors [V, D], got "
            f"{vectors.dtype} of shape {tuple(vectors.shape)}"
        )
    if not 1 <= cells <= len(vectors):
        raise ValueError(f"cells must lie in [1, {len(vectors)}], the vectors, got {cells}")
    generator = torch.Generator().manual_seed(seed)
    vectors = vectors.cpu().float()
    drawn = torch.randperm(len(vectors), generator=generator)[: VECTORS_A_CENTRE * cells]
    learned = vectors[drawn]
    centres = _spread_seeds(learned, cells, generator)
    cell = torch.full((len(learned),), -1)
    for _ in range(iterations):
        before, (distance, cell) = cell, _nearest(learned, centres)
        if torch.equal(before, cell):
            break
        size = torch.bincount(cell, minlength=cells)
        total = torch.zeros_like(centres).index_add_(0, cell, learned)
        centres = total / size.clamp_min(1).unsqueeze(-1)
        empty = (size == 0).nonzero()[:, 0]
        centres[empty] = learned[distance.topk(len(empty)).indices]
    return _nearest(vectors, centres)[1]


def _spread_seeds(vectors: Tensor, cells: int, generator: torch.Generator) -> Tensor:
    """Each centre the best of a few vectors drawn in proportion to their squared distance."""
    first = torch.randint(len(vectors), (1,), generator=generator)
    chosen, nearest = [first], (vectors - vectors[first]).square().sum(-1)
    tries = 2 + int(math.log(cells))
    for _ in range(cells - 1):
        # All vectors may coincide with centres already; any will do then.
        chance = nearest if nearest.sum() > 0 else torch.ones_like(nearest)
        # By the inverse of the cumulative sum: multinomial takes at most 2^24 categories.
        at = chance.double().cumsum(0)
        draw = torch.rand(tries, generator=generator, dtype=torch.float64) * at[-1]
        drawn = torch.searchsorted(at, draw, right=True).clamp_max(len(vectors) - 1)
        left = torch.minimum(nearest, torch.cdist(vectors[drawn], vectors).square())
        best = int(left.sum(-1).argmin())
        chosen.append(drawn[best : best + 1])
        nearest = left[best]
    return vectors[torch.cat(chosen)]


def _nearest(vectors: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Half the squared distance to the nearest centre, and which it is."""
    half = centres.square().sum(-1) / 2
    parts = [
        (half - block @ centres.T).min(-1)
        for block in vectors.split(max(1, _BLOCK // len(centres)))
    ]
    cell = torch.cat([part.indices for part in parts])
    return torch.cat([part.values for part in parts]) + vectors.square().sum(-1) / 2, cell
