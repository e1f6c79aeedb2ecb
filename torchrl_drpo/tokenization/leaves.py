"""Where items lie in the tree of their codes: prefixes, leaves, places on a leaf."""

from __future__ import annotations

import torch
from torch import Tensor


def prefixes(codes: Tensor) -> list[Tensor]:
    """Numbers of the prefixes of each item: of its first code, its first two, ...; ``T x [V]``.

    >>> [level.tolist() for level in prefixes(torch.tensor([[5, 1], [5, 2], [9, 1], [5, 1]]))]
    [[0, 0, 1, 0], [0, 1, 2, 0]]
    """
    out = []
    before = torch.zeros(len(codes), dtype=torch.long)
    for level in codes.unbind(-1):
        code = torch.unique(level, return_inverse=True)[1]
        before = torch.unique(before * (int(code.max()) + 1) + code, return_inverse=True)[1]
        out.append(before)
    return out


def place_on_leaf(leaf: Tensor, popularity: Tensor | None = None) -> Tensor:
    """How many items of the same leaf are more popular, or as popular and earlier; ``[V]``."""
    order = torch.arange(len(leaf))
    if popularity is not None:
        order = torch.argsort(popularity, descending=True, stable=True)
    order = order[torch.argsort(leaf[order], stable=True)]
    sizes = torch.bincount(leaf)
    starts = sizes.cumsum(0) - sizes
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order)) - starts[leaf[order]]
    return place
