"""Which centroid is nearest to a vector: exact, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: Distances held at once: 8 MiB of float32. Assign to trade memory for time; codes stay the same.
TILE_ELEMENTS = 1 << 21


def row_tiles(rows: int, width: int) -> Iterator[slice]:
    """Blocks of rows whose ``[rows, width]`` numbers fit the budget.

    >>> [tile.stop for tile in row_tiles(20_000, 256)]
    [8192, 16384, 20000]
    """
    step = max(1, TILE_ELEMENTS // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def nearest(vectors: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each vector, and the squared distance to it.

    Found in float32 by one matrix product a block, and again in float64, by differences, wherever
    rounding could have chosen between two: the result is that of float64 throughout, whatever the
    blocks, and the lowest number among equals.

    Args:
        vectors: ``[N, D]``, read as float32.
        centroids: ``[K, D]``, float32 or float64, K at least 1.

    Returns:
        int64 ``[N]`` and float64 ``[N]``.

    >>> nearest(torch.tensor([[0.0, 1.0], [9.0, 9.0]]), torch.tensor([[0.0, 0.0], [9.0, 8.0]]))
    (tensor([0, 1]), tensor([1., 1.], dtype=torch.float64))
    """
    exact = centroids.double()
    rounded = centroids.float()
    half = rounded.square().sum(-1) / 2
    longest = rounded.norm(dim=-1).max()
    # Of half a squared distance without the vector's own part, and of the centroids' rounding.
    unit = torch.finfo(torch.float32).eps * (vectors.shape[1] + 8)
    index = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
    distance = torch.empty(len(vectors), dtype=torch.float64, device=vectors.device)
    for tile in row_tiles(len(vectors), len(centroids)):
        rows = vectors[tile].float()
        if len(centroids) > 1:
            score = torch.addmm(half, rows, rounded.T, alpha=-1)
            two, order = score.topk(2, largest=False)
            error = unit * longest * (rows.norm(dim=-1) + longest)
            unsure = (~(two[:, 1] - two[:, 0] > 2 * error)).nonzero().squeeze(-1)
            index[tile] = order[:, 0]
            if unsure.numel():
                near = score[unsure] <= (two[unsure, :1] + 2 * error[unsure, None])
                index[tile][unsure] = _by_differences(rows[unsure], exact, near)
        apart = rows.double() - exact[index[tile]]
        distance[tile] = apart.square_().sum(-1)
    return index, distance


def _by_differences(rows: Tensor, centroids: Tensor, near: Tensor) -> Tensor:
    """The nearest of the centroids that are marked ``near [n, K]``, of each row in float64."""
    row, code = near.nonzero().unbind(-1)
    apart = torch.full(near.shape, torch.inf, dtype=torch.float64, device=rows.device)
    for pairs in row_tiles(len(row), 2 * rows.shape[1]):
        gap = rows[row[pairs]].double() - centroids[code[pairs]]
        apart[row[pairs], code[pairs]] = gap.square_().sum(-1)
    return apart.argmin(-1)
