"""Whether items that belong together share the first of their codes, and how often chance would."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.tokenization.assignment import row_tiles


class Purity(NamedTuple):
    """Of pairs of items, the share whose codes up to a level are the same, beside chance.

    Attributes:
        share: of the pairs that were given.
        chance: of pairs that are drawn with the same items on either side, independently.
        pairs: how many were given.
    """

    share: float
    chance: float
    pairs: int


def purity(prefix: Tensor, first: Tensor, second: Tensor) -> Purity:
    """How many pairs of different items share a prefix.

    Chance draws both sides of a pair independently from the items that stand there, and leaves
    out draws of one item twice: of popular items alone, even unrelated pairs share a prefix often.

    Args:
        prefix: of each item, int64 ``[V]``.
        first: items, int64 ``[P]``.
        second: the other of each pair, ``[P]``; pairs of an item with itself do not count.

    >>> prefix = torch.tensor([0, 0, 1, 1])
    >>> purity(prefix, torch.tensor([0, 2, 0, 1]), torch.tensor([1, 3, 2, 1]))
    Purity(share=0.666..., chance=0.375, pairs=3)
    """
    apart = first != second
    first, second = first[apart], second[apart]
    pairs = len(first)
    if pairs == 0:
        return Purity(float("nan"), float("nan"), 0)
    share = (prefix[first] == prefix[second]).double().mean().item()
    left, right = (torch.bincount(x, minlength=len(prefix)).double() for x in (first, second))
    width = int(prefix.max()) + 1
    by_prefix = [torch.zeros(width).double().index_add_(0, prefix, x) for x in (left, right)]
    itself = (left * right).sum()
    draws = float(pairs) ** 2 - itself
    chance = float(((by_prefix[0] * by_prefix[1]).sum() - itself) / draws) if draws > 0 else 1.0
    return Purity(share, chance, pairs)


def neighbour_pairs(
    vectors: Tensor, *, neighbours: int = 10, sample: int = 1_000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Items of a random sample beside each of their nearest other items.

    Args:
        vectors: ``[V, D]``.
        neighbours: how many of each, at most V - 1.
        sample: how many items are looked at.
        seed: of the sample.

    Returns:
        Two int64 tensors ``[sample * neighbours]``.
    """
    count = len(vectors)
    k = min(neighbours, count - 1)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(count, generator=generator)[:sample]
    centre = vectors.float().mean(0)  # far from zero float32 would not tell near from nearest
    wanted = vectors[rows].float() - centre
    near = wanted.new_empty(len(rows), 0)
    which = rows.new_empty(len(rows), 0)
    for tile in row_tiles(count, max(len(rows), vectors.shape[1])):
        others = vectors[tile].float() - centre
        score = torch.addmm(others.square().sum(-1), wanted, others.T, alpha=-2)
        here = (rows >= tile.start) & (rows < tile.stop)
        score[here.nonzero().squeeze(-1), rows[here] - tile.start] = torch.inf
        value, index = score.topk(min(k, score.shape[1]), largest=False)
        near, which = torch.cat([near, value], 1), torch.cat([which, index + tile.start], 1)
        near, kept = near.topk(min(k, near.shape[1]), largest=False)
        which = which.gather(1, kept)
    return rows.repeat_interleave(k), which.flatten()
