"""Items that share all their codes: how many, and what it costs not to tell them apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.tokenization.leaves import place_on_leaf, prefixes


class Collisions(NamedTuple):
    """How items lie on leaves: a leaf is a whole sequence of codes that some item has.

    Attributes:
        leaves: different sequences.
        unique_share: share of the items that have theirs alone.
        colliding: items that share theirs.
        largest: most items of one leaf.
    """

    leaves: int
    unique_share: float
    colliding: int
    largest: int


def collisions(codes: Tensor) -> Collisions:
    """Counts of items that share their whole sequence of codes, int64 ``[V, T]``.

    >>> collisions(torch.tensor([[1, 2], [1, 2], [1, 3]]))
    Collisions(leaves=2, unique_share=0.333..., colliding=2, largest=2)
    """
    counts = torch.bincount(prefixes(codes)[-1])
    alone = int((counts == 1).sum())
    return Collisions(len(counts), alone / len(codes), len(codes) - alone, int(counts.max()))


class HitsLost(NamedTuple):
    r"""What a policy that always finds the right leaf still loses, as shares of the events.

    Of items i with events :math:`n_i`, on leaf :math:`l` at place :math:`r_i = 0, 1, ...` by
    popularity, among :math:`m_l` items:

    Attributes:
        one_a_leaf: a leaf gives its most popular item alone:
            :math:`\sum_i n_i 1[r_i > 0] / \sum_i n_i`.
        at_random: it gives one of its items at random:
            :math:`\sum_i n_i (1 - 1/m_{l(i)}) / \sum_i n_i`.
        places: a leaf's items are listed one after another by popularity: by how many places an
            event's item comes later than its leaf, on average, :math:`\sum_i n_i r_i / \sum_i n_i`.
    """

    one_a_leaf: float
    at_random: float
    places: float


def hits_lost(codes: Tensor, popularity: Tensor, events: Tensor | None = None) -> HitsLost:
    """See :class:`HitsLost`.

    Args:
        codes: int64 ``[V, T]``.
        popularity: what orders the items of a leaf, such as training rows, ``[V]``.
        events: how often each item was the right one, such as test rows, ``[V]``; ``popularity``
            by default, which then knows the order of the very events that it is measured by.

    Raises:
        ValueError: if there are no events.

    >>> hits_lost(torch.tensor([[1], [1], [2]]), torch.tensor([6, 2, 2]))
    HitsLost(one_a_leaf=0.2, at_random=0.4, places=0.2)
    """
    events = (popularity if events is None else events).double()
    whole = events.sum()
    if not whole > 0:
        raise ValueError("hits are counted in events, and there are none")
    leaf = prefixes(codes)[-1]
    counts = torch.bincount(leaf)
    place = place_on_leaf(leaf, popularity).double()
    shares = events / whole
    return HitsLost(
        one_a_leaf=shares[place > 0].sum().item(),
        at_random=(shares * (1 - 1 / counts[leaf].double())).sum().item(),
        places=(shares * place).sum().item(),
    )
