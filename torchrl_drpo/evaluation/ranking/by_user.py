"""Intervals of ranking metrics over users: rows of one user resemble each other, and count as one.

Metrics of a policy are ratios, within-user averages, standardised rates; one construction serves
all of them. Users are dealt into groups, the metric is taken without each group in turn, and the
spread of these says how much the metric depends on who happened to be there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from torchrl_drpo.evaluation.statistics import Interval, jackknife_interval

#: From rows, bool ``[N]``, to metrics of these rows.
MetricsOf = Callable[[Tensor], Mapping[str, float]]
#: Groups of users; the width of an interval is then itself known to about an eighth.
GROUPS = 30


def without_groups(
    metrics: MetricsOf, user: Tensor, *, groups: int = GROUPS, seed: int = 0
) -> dict[str, list[float]]:
    """Metrics without each of some groups of users, in turn.

    Who is in which group depends on the users and the seed alone, so that numbers of several
    policies on the same rows can be subtracted from one another.

    Args:
        metrics: from rows, bool ``[N]``, to metrics of these rows.
        user: whose row it is, integer ``[N]``; give each row an id of its own where there are none.
        groups: how many, at least 2; at most one a user.
        seed: of the dealing.

    Returns:
        By metric, its value without each group; no value for a single user.

    Raises:
        ValueError: for fewer than two groups, or no row.

    Example:
        >>> hit = torch.tensor([0.0, 1.0, 2.0])
        >>> of = lambda rows: {"sum": hit[rows].sum().item()}
        >>> sorted(without_groups(of, torch.arange(3))["sum"])
        [1.0, 2.0, 3.0]
    """
    if groups < 2:
        raise ValueError(f"groups must be at least 2, got {groups}")
    if len(user) == 0:
        raise ValueError("metrics need at least one row, got none")
    _, number = user.cpu().unique(return_inverse=True)
    users = int(number.max()) + 1
    count = min(groups, users)
    order = torch.randperm(users, generator=torch.Generator().manual_seed(seed))
    group = (order % count)[number]
    out: dict[str, list[float]] = {}
    for left in range(count) if count > 1 else ():
        for name, value in metrics(group != left).items():
            out.setdefault(name, []).append(value)
    return out


def jackknife(
    metrics: MetricsOf,
    user: Tensor,
    *,
    groups: int = GROUPS,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Metrics with Student intervals by the delete-a-group jackknife, over users.

    See :func:`~torchrl_drpo.evaluation.statistics.jackknife_interval`. For a mean, and a user a row
    and group, it is the usual standard error. Extremes (the lowest hit rate of a context) are not
    smooth, and their intervals a rough guide.

    Args:
        metrics: from rows, bool ``[N]``, to metrics of these rows.
        user: whose row it is, integer ``[N]``; give each row an id of its own where there are none.
        groups: how many, at least 2; at most one a user.
        confidence: coverage in (0, 1).
        seed: of the dealing.

    Returns:
        By metric, its value on all rows with the half width of its interval; that is NaN for a
        single user, where a metric is not finite without some group, and where it is the same
        without any of them.

    Raises:
        ValueError: for fewer than two groups, or no row.

    Example:
        >>> hit = torch.tensor([0.0, 1.0, 0.0, 1.0])
        >>> of = lambda rows: {"hr": hit[rows].mean().item()}
        >>> print(jackknife(of, torch.arange(4))["hr"])  # 3.182 * sqrt(1/3) / sqrt(4)
        0.500 ± 0.919
    """
    without = without_groups(metrics, user, groups=groups, seed=seed)
    everybody = torch.ones(len(user), dtype=torch.bool)
    return {
        name: jackknife_interval(value, without.get(name, []), confidence)
        for name, value in metrics(everybody).items()
    }
