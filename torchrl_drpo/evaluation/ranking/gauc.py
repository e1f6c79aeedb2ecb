"""GAUC: the order of rows within groups, mostly users."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_finite, check_same_shape


class GroupedAUC(NamedTuple):
    """A row-weighted average of per-group AUCs, and how much data stood behind it.

    Attributes:
        value: the average, float64 scalar in [0, 1]; NaN where no group holds both classes.
        groups: number of groups with both classes, int64 scalar.
        rows: number of rows in those groups, int64 scalar.
    """

    value: Tensor
    groups: Tensor
    rows: Tensor


def grouped_auc(score: Tensor, label: Tensor, group: Tensor) -> GroupedAUC:
    """GAUC: the AUC of ``score`` against ``label`` within each group, averaged over rows.

    Groups (users) that hold one class only say nothing about order and are left out. Tied scores
    count half, as in the Mann-Whitney statistic. Sorted once; no loop over groups.

    Args:
        score: higher means more preferred, finite, shape ``[N]``.
        label: ``True`` (or 1) for positives, shape ``[N]``.
        group: any integer id, shape ``[N]``.

    Returns:
        The :class:`GroupedAUC`.

    Raises:
        ValueError: if shapes differ or a score is not finite.

    Example:
        >>> score = torch.tensor([0.9, 0.1, 0.3, 0.3, 7.0])
        >>> label = torch.tensor([1, 0, 1, 0, 1])
        >>> grouped_auc(score, label, torch.tensor([5, 5, 8, 8, 9])).value  # (2 * 1 + 2 * .5) / 4
        tensor(0.7500, dtype=torch.float64)
    """
    check_same_shape(score=score, label=label, group=group)
    check_finite("score", score)
    group = torch.unique(group, return_inverse=True)[1]
    by_score = score.argsort()
    order = by_score[group[by_score].argsort(stable=True)]  # by group, then by score
    score, group, positive = score[order], group[order], (label[order] > 0).double()

    size = torch.bincount(group)
    start = size.cumsum(0) - size
    fresh = torch.ones_like(group, dtype=torch.bool)
    fresh[1:] = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    run = fresh.cumsum(0) - 1
    length = torch.bincount(run)
    middle = (length.cumsum(0) - length) + (length + 1).double() / 2  # shared by a run of ties
    rank = middle[run] - start[group]

    pos = torch.bincount(group, weights=positive, minlength=size.numel())
    rank_sum = torch.bincount(group, weights=rank * positive, minlength=size.numel())
    both = (pos > 0) & (pos < size)
    pos, rank_sum, size = pos[both], rank_sum[both], size[both]
    auc = (rank_sum - pos * (pos + 1) / 2) / (pos * (size - pos))
    return GroupedAUC((auc * size).sum() / size.sum(), both.sum(), size.sum())
