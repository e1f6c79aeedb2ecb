"""GAUC: the order of rows within groups, mostly users."""

from __future__ import annotations

import copy
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


class RankedGroups:
    """Rows in the order of their scores within groups, for any number of labels.

    Sorting is nearly all of the work, and it does not depend on a label.

    Args:
        score: higher means more preferred, finite, shape ``[N]``.
        group: any integer id, shape ``[N]``.

    Raises:
        ValueError: if shapes differ or a score is not finite.

    Example:
        >>> ranked = RankedGroups(torch.tensor([0.9, 0.1, 0.3, 0.3]), torch.tensor([5, 5, 8, 8]))
        >>> ranked.auc(torch.tensor([1, 0, 1, 0])).value  # (2 * 1 + 2 * .5) / 4
        tensor(0.7500, dtype=torch.float64)
    """

    def __init__(self, score: Tensor, group: Tensor) -> None:
        check_same_shape(score=score, group=group)
        check_finite("score", score)
        order = score.argsort()
        self._ranks = _Ranks.of(order, score[order], group[order])

    def within(self, part: Tensor) -> RankedGroups:
        """The same rows within parts of the groups; their scores are not sorted again.

        Args:
            part: of each row, any integer id, shape ``[N]``: rows are compared where their groups
                and their parts agree.

        Raises:
            ValueError: if shapes differ.
        """
        ranks = self._ranks
        check_same_shape(score=ranks.order, part=part)
        values, part = torch.unique(part, return_inverse=True)
        both = ranks.number * len(values) + part[ranks.order]  # below N^2
        finer = copy.copy(self)
        finer._ranks = _Ranks.of(ranks.order, ranks.score, both)
        return finer

    def auc(self, label: Tensor, rows: Tensor | None = None) -> GroupedAUC:
        """The groups' AUCs, averaged over rows.

        Args:
            label: ``True`` (or 1) for positives, shape ``[N]``.
            rows: ``True`` for the rows that are compared, shape ``[N]``; all by default.

        Raises:
            ValueError: if shapes differ.
        """
        ranks = self._ranks
        check_same_shape(score=ranks.order, label=label, rows=rows)
        if rows is not None:
            ranks = ranks.those(rows.bool()[ranks.order])
        positive = (label[ranks.order] > 0).double()
        size, count = ranks.size, ranks.size.numel()
        pos = torch.bincount(ranks.number, weights=positive, minlength=count)
        rank_sum = torch.bincount(ranks.number, weights=ranks.rank * positive, minlength=count)
        both = (pos > 0) & (pos < size)
        pos, rank_sum, size = pos[both], rank_sum[both], size[both]
        auc = (rank_sum - pos * (pos + 1) / 2) / (pos * (size - pos))
        return GroupedAUC((auc * size).sum() / size.sum(), both.sum(), size.sum())


class _Ranks:
    """Ranks of rows in the order of groups, then scores.

    Attributes:
        order: the rows' numbers.
        score: their scores.
        number: of their groups, rising from 0.
        size: rows of each group.
        rank: within the group, from 1; tied scores share their middle.
    """

    def __init__(self, order: Tensor, score: Tensor, group: Tensor) -> None:
        self.order, self.score = order, score
        first = torch.ones_like(group, dtype=torch.bool)
        first[1:] = group[1:] != group[:-1]
        self.number = first.cumsum(0) - 1
        self.size = torch.bincount(self.number)
        fresh = first
        fresh[1:] |= score[1:] != score[:-1]
        run = fresh.cumsum(0) - 1
        length = torch.bincount(run)
        middle = (length.cumsum(0) - length) + (length + 1).double() / 2
        start = self.size.cumsum(0) - self.size
        self.rank = middle[run] - start[self.number]

    @classmethod
    def of(cls, order: Tensor, score: Tensor, group: Tensor) -> _Ranks:
        """Of rows whose scores rise within every group, the groups in any order."""
        group, place = group.sort(stable=True)
        return cls(order[place], score[place], group)

    def those(self, rows: Tensor) -> _Ranks:
        """The ranks among some of the rows; what is left of an order is in order."""
        return _Ranks(self.order[rows], self.score[rows], self.number[rows])


def grouped_auc(score: Tensor, label: Tensor, group: Tensor) -> GroupedAUC:
    """GAUC: the AUC of ``score`` against ``label`` within each group, averaged over rows.

    Groups (users) that hold one class only say nothing about order and are left out. Tied scores
    count half, as in the Mann-Whitney statistic. Sorted once; no loop over groups. For several
    labels of the same scores there is :class:`RankedGroups`.

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
    return RankedGroups(score, group).auc(label)
