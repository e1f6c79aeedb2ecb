r"""What a policy's lists do to the catalogue: who is shown, how often, and how alike a list is.

Notation   N lists of k items from a catalogue of V; n_v how often item v is in a list; m_v how
           often it was logged in training. Index -1 is a place that stayed empty.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: The most logged items of which `popular_share` speaks, as a share of the catalogue.
HEAD = 0.2
_LISTS_AT_A_TIME = 1024


def exposure_counts(lists: Tensor, num_items: int) -> Tensor:
    """How often each item is in a list, int64 ``[V]``.

    Example:
        >>> exposure_counts(torch.tensor([[0, 2], [0, -1]]), 4)
        tensor([2, 0, 1, 0])
    """
    if lists.numel() and not (int(lists.min()) >= -1 and int(lists.max()) < num_items):
        raise ValueError(
            f"lists hold items {int(lists.min())} to {int(lists.max())}; the catalogue has "
            f"0 to {num_items - 1}, and -1 is an empty place"
        )
    return torch.bincount(lists[lists >= 0].flatten(), minlength=num_items)


def coverage(counts: Tensor) -> float:
    """Share of the catalogue that is in any list, in [0, 1].

    Example:
        >>> coverage(torch.tensor([2, 0, 1, 0]))
        0.5
    """
    return (counts > 0).double().mean().item()


def gini(counts: Tensor) -> float:
    r"""Gini coefficient of exposure: 0 where all items are shown alike, near 1 where one is.

    :math:`\sum_v (2 v - V - 1) n_{(v)} / (V \sum_v n_v)` with :math:`n_{(v)}` ascending.

    Example:
        >>> gini(torch.tensor([3, 3, 3])), gini(torch.tensor([0, 0, 0, 8]))
        (0.0, 0.75)
    """
    ordered = counts.double().sort().values
    total, number = ordered.sum(), len(ordered)
    if total == 0:
        return float("nan")
    rank = torch.arange(1, number + 1, dtype=torch.double)
    return ((2 * rank - number - 1) @ ordered / (number * total)).item()


def novelty(counts: Tensor, logged: Tensor) -> float:
    r"""Mean self-information of a shown item, :math:`-\log_2 p_v`, in bits (Zhou et al. 2010).

    Args:
        counts: of the lists, ``[V]``.
        logged: how often each item was logged in training, ``[V]``; with one more each, so that an
            item nobody has seen is the most novel and not infinitely so.

    Example:
        >>> novelty(torch.tensor([1, 0]), torch.tensor([0, 6]))  # p = 1 / 8
        3.0
    """
    share = (logged.double() + 1) / (logged.double() + 1).sum()
    weight = counts.double() / counts.sum()
    return -(weight @ share.log2()).item()


def popular_share(counts: Tensor, logged: Tensor, head: float = HEAD) -> float:
    """Share of all places that the most logged ``head`` of the catalogue takes, in [0, 1].

    Ties at the edge of the head share its last places.

    Example:
        >>> popular_share(torch.tensor([3, 1, 0, 0, 0]), torch.tensor([9, 1, 1, 0, 0]))
        0.75
    """
    size = max(1, round(head * len(logged)))
    edge = logged.topk(size).values[-1]
    above, at = logged > edge, logged == edge
    part = (size - int(above.sum())) / int(at.sum())
    mine = counts[above].sum() + part * counts[at].sum()
    return (mine / counts.sum()).item()


def intra_list_diversity(lists: Tensor, vectors: Tensor) -> float:
    r"""Mean of 1 - cosine over the pairs of a list, over lists (Ziegler et al. 2005).

    Args:
        lists: item numbers, ``[N, k]``, -1 for an empty place.
        vectors: of all items, ``[V, D]``.

    Returns:
        In [0, 2]; NaN where no list has two items.

    Example:
        >>> intra_list_diversity(torch.tensor([[0, 1]]), torch.eye(2))
        1.0
    """
    unit = F.normalize(vectors.double(), dim=-1)
    found = torch.cat([_apart(block, unit) for block in lists.split(_LISTS_AT_A_TIME)])
    return found.mean().item()


def exposure_metrics(
    lists: Tensor, logged: Tensor, vectors: Tensor | None = None
) -> dict[str, float]:
    """All of the above for one policy's lists.

    Args:
        lists: item numbers, ``[N, k]``, -1 for an empty place.
        logged: how often each item was logged in training, ``[V]``.
        vectors: of all items, ``[V, D]``, for ``diversity``.

    Example:
        >>> exposure_metrics(torch.tensor([[0, 1]]), torch.tensor([6, 0]), torch.eye(2))
        {'coverage': 1.0, 'gini': 0.0, 'novelty': 1.5963..., 'popular_share': 0.5, 'diversity': 1.0}
    """
    counts = exposure_counts(lists, len(logged))
    out = {
        "coverage": coverage(counts),
        "gini": gini(counts),
        "novelty": novelty(counts, logged),
        "popular_share": popular_share(counts, logged),
    }
    if vectors is not None:
        out["diversity"] = intra_list_diversity(lists, vectors)
    return out


def _apart(lists: Tensor, unit: Tensor) -> Tensor:
    """Of each list with two items, the mean of 1 - cosine over its pairs."""
    there = lists >= 0
    shown = unit[lists.clamp(min=0)] * there.unsqueeze(-1)
    size = there.sum(-1)
    # Over all pairs at once: |sum of units|^2 holds each pair twice, and each item with itself.
    alike = shown.sum(1).square().sum(-1) - shown.square().sum((1, 2))
    pairs = size * (size - 1)
    return 1 - alike[pairs > 0] / pairs[pairs > 0]
