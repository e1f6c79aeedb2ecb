"""The best and the worst rows compared at one mix of contexts.

A lift over all rows mixes two things: which items a policy prefers, and in which contexts (a tab,
a country) it hits at all. Where a whole tab is skipped, most of its rows are among the worst ones.
A policy that has stopped learning what to serve there hits fewer of them, and its lift rises
although it tells good from bad nowhere better: Simpson's paradox. The lift within contexts gives
best and worst rows one mix of contexts. A context that is never hit adds nothing to it either way,
so the lowest hit rate on the best rows of any context stands beside it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_finite, check_same_shape

#: Best rows that a context must hold to count as the lowest: with so many, the standard error of
#: a hit rate is at most 0.05 (sqrt(1/4 / 100)).
BEST_ROWS_NEEDED = 100


class WithinContexts(NamedTuple):
    """Hit rates of one policy compared within contexts, and how much data stood behind them.

    Attributes:
        lift: of the standardised hit rates, float64 scalar, at least 0; NaN where no context holds
            both best and worst rows or none of those rows is hit, infinite where no worst one is.
        best_lowest: lowest hit rate on the best rows of a context, float64 scalar in [0, 1]; NaN
            where no context holds enough of them.
        contexts: number of contexts with both best and worst rows, int64 scalar.
        rows: number of all rows in those contexts, int64 scalar.
        best_lowest_rows: number of best rows behind ``best_lowest``, int64 scalar; 0 where there
            is none. Of several contexts with that hit rate, those of the largest.
        worst_hits: expected number of worst rows in those contexts that are hit, float64 scalar.
        worst_rows: number of worst rows in those contexts, int64 scalar.
    """

    lift: Tensor
    best_lowest: Tensor
    contexts: Tensor
    rows: Tensor
    best_lowest_rows: Tensor
    worst_hits: Tensor
    worst_rows: Tensor


def context_groups(context: Tensor, rows: int) -> Tensor:
    """Numbers the contexts of rows: two rows share a number where all their columns agree.

    Args:
        context: any integers, shape ``[N]`` or, with a column each for tab, country, ...,
            ``[N, C]``.
        rows: the N that is expected.

    Returns:
        Int64 ``[N]`` in ``[0, number of different contexts)``.

    Raises:
        ValueError: if ``context`` has another shape or does not hold integers.

    Example:
        >>> context_groups(torch.tensor([[7, 0], [7, 1], [2, 0], [7, 1]]), 4)
        tensor([1, 2, 0, 2])
    """
    whole = not (context.is_floating_point() or context.is_complex())
    fits = context.ndim in (1, 2) and context.shape[0] == rows and 0 not in context.shape[1:]
    if not (whole and fits):
        raise ValueError(
            f"context must hold integers, [{rows}] or [{rows}, columns], got {context.dtype} "
            f"{list(context.shape)}; number raw values first, leave it out where there are none"
        )
    # A column at a time: unique rows (dim=0) are the same groups, but comparing rows is slow.
    first, *others = context.reshape(rows, context.shape[1:].numel()).unbind(-1)
    group = torch.unique(first, return_inverse=True)[1]
    for column in others:
        values, place = torch.unique(column, return_inverse=True)
        both = group * len(values) + place  # below N^2: groups and values are at most N
        group = torch.unique(both, return_inverse=True)[1]
    return group


def within_contexts(
    hit: Tensor,
    best: Tensor,
    worst: Tensor,
    context: Tensor,
    *,
    best_rows_needed: int = BEST_ROWS_NEEDED,
    least_worst_hits: float = 0.0,
) -> WithinContexts:
    r"""Lift at one mix of contexts, and the hit rate of the context that is served worst.

    .. math:: \frac{\sum_c n_c\, \mathrm{HR}_\text{best}(c)}
                   {\sum_c n_c\, \mathrm{HR}_\text{worst}(c)}

    over the contexts :math:`c` that hold both best and worst rows; :math:`n_c` counts all rows of
    :math:`c`. Contexts with one kind only allow no comparison and are left out. This is direct
    standardisation, by which the death rates of an old and a young town are compared: each town's
    rate at every age, averaged over the ages of one common population. Their ratio is known as
    the comparative mortality figure (Breslow and Day, Statistical Methods in Cancer Research,
    volume II, IARC 1987, chapter 2). Here best and worst rows are the towns, contexts the ages.

    Args:
        hit: chance that a row's item is among the first k (:func:`~.ranking.hit_rate`), in [0, 1],
            shape ``[N]``.
        best: ``True`` for the best rows, shape ``[N]``.
        worst: ``True`` for the worst rows, shape ``[N]``.
        context: any integers, shape ``[N]`` or ``[N, C]``; see :func:`context_groups`.
        best_rows_needed: contexts with fewer best rows are not asked for the lowest hit rate,
            which would be that of the smallest context by chance.
        least_worst_hits: so many worst rows at least count as hit, whichever they are: the lift is
            never infinite then; see :func:`~.ranking.ranking_metrics`.

    Returns:
        The :class:`WithinContexts`.

    Raises:
        ValueError: if shapes differ, a hit is not finite, the context does not hold integers, or
            ``best_rows_needed`` lies below 1, or ``least_worst_hits`` below 0.

    Example:
        Everything is hit in context 0 and nothing in context 1, where two rows in three are poor.
        The lift over all rows is 2, and all of it is between the contexts.

        >>> hit, context = torch.tensor([1.0, 1, 1, 0, 0, 0]), torch.tensor([0, 0, 0, 1, 1, 1])
        >>> best = torch.tensor([True, True, False, True, False, False])
        >>> (hit[best].mean() / hit[~best].mean()).item()
        2.0
        >>> within_contexts(hit, best, ~best, context, best_rows_needed=1)[:2]
        (tensor(1., dtype=torch.float64), tensor(0., dtype=torch.float64))
    """
    check_same_shape(hit=hit, best=best, worst=worst)
    check_finite("hit", hit)
    if best_rows_needed < 1:
        raise ValueError(f"best_rows_needed must be at least 1, got {best_rows_needed}")
    check_least(least_worst_hits)
    group = context_groups(context, len(hit))
    size = torch.bincount(group)
    best_rows, best_hits = _hits(hit, best, group, len(size))
    worst_rows, worst_hits = _hits(hit, worst, group, len(size))
    best_rate, worst_rate = best_hits / best_rows, worst_hits / worst_rows
    both = (best_rows > 0) & (worst_rows > 0)
    weight = size[both]
    large = best_rows >= best_rows_needed
    lowest = best_rate[large].min() if large.any() else best_rate.new_tensor(torch.nan)
    compared = worst_rows[both].sum()
    # A hit adds n_c over the worst rows of its context; a worst row anywhere, N over all of them.
    lift = bounded_lift(
        (weight * best_rate[both]).sum(),
        (weight * worst_rate[both]).sum(),
        worst_hits[both].sum(),
        weight.sum().double() / compared,
        least_worst_hits,
    )
    return WithinContexts(
        lift=lift,
        best_lowest=lowest,
        contexts=both.sum(),
        rows=weight.sum(),
        best_lowest_rows=(best_rows * (large & (best_rate == lowest))).max()
        if large.any()
        else best_rows.new_tensor(0),
        worst_hits=worst_hits[both].sum(),
        worst_rows=compared,
    )


def bounded_lift(
    best_rate: Tensor, worst_rate: Tensor, worst_hits: Tensor, of_one_hit: Tensor, least: float
) -> Tensor:
    """A lift, with at least so many worst rows counted as hit; NaN where nothing is hit at all.

    Args:
        best_rate: hit rate on the best rows, scalar as all of them.
        worst_rate: on the worst rows.
        worst_hits: expected number of hits behind it.
        of_one_hit: what one more hit adds to ``worst_rate``.
        least: number of hits below which so many are counted.
    """
    lift = best_rate / worst_rate
    if not worst_hits < least or lift.isnan():
        return lift
    return best_rate / torch.maximum(worst_rate, least * of_one_hit.to(worst_rate.dtype))


def check_least(least_worst_hits: float) -> None:
    """Raises ``ValueError`` for what is no number of hits."""
    if not 0 <= least_worst_hits < math.inf:
        raise ValueError(
            f"least_worst_hits must be finite and at least 0, got {least_worst_hits}; 1 counts one "
            "worst row as hit where none was"
        )


def _hits(hit: Tensor, chosen: Tensor, group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Number of chosen rows of each group, and how many of them are hit."""
    chosen = chosen.bool()
    rows = torch.bincount(group[chosen], minlength=groups)
    return rows, torch.bincount(group[chosen], weights=hit[chosen].double(), minlength=groups)
