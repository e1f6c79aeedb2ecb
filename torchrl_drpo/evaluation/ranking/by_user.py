"""Intervals of ranking metrics over users: rows of one user resemble each other, and count as one.

Metrics of a policy are ratios, within-user averages, standardised rates; one construction serves
all of them. Users are dealt into groups, the metric is taken without each group in turn, and the
spread of these says how much the metric depends on who happened to be there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.evaluation.statistics.student import student_t_quantile

#: Groups of users; the width of an interval is then itself known to about an eighth.
GROUPS = 30
_ROUNDING = 1e-9


def jackknife(
    metrics: Callable[[Tensor], Mapping[str, float]],
    user: Tensor,
    *,
    groups: int = GROUPS,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    r"""Metrics with Student intervals by the delete-a-group jackknife, over users.

    With :math:`\hat\theta_{(g)}` the metric without group g of G,

    .. math:: \mathrm{SE}^2 = \frac{G - 1}{G} \sum_g (\hat\theta_{(g)} - \bar\theta)^2 .

    Source: Kott 2001, "The delete-a-group jackknife". For a mean, and a user a row and group, it is
    the usual standard error. Extremes (the lowest hit rate of a context) are not smooth, and their
    intervals a rough guide.

    Args:
        metrics: from rows, bool ``[N]``, to metrics of these rows.
        user: whose row it is, integer ``[N]``; give each row an id of its own where there are none.
        groups: G, at least 2; at most one a user.
        confidence: coverage in (0, 1).
        seed: of the dealing.

    Returns:
        By metric, its value on all rows with the half width of its interval; that is NaN for a
        single user, where a metric is not finite without some group, and where it is the same
        without any of them: four hits of four say that the rate is high, and not that it is 1.

    Raises:
        ValueError: for fewer than two groups, or no row.

    Example:
        >>> hit = torch.tensor([0.0, 1.0, 0.0, 1.0])
        >>> of = lambda rows: {"hr": hit[rows].mean().item()}
        >>> print(jackknife(of, torch.arange(4))["hr"])  # 3.182 * sqrt(1/3) / sqrt(4)
        0.500 ± 0.919
    """
    if groups < 2:
        raise ValueError(f"groups must be at least 2, got {groups}")
    if len(user) == 0:
        raise ValueError("metrics need at least one row, got none")
    everybody = torch.ones(len(user), dtype=torch.bool)
    whole = metrics(everybody)
    _, number = user.cpu().unique(return_inverse=True)
    users = int(number.max()) + 1
    count = min(groups, users)
    if count < 2:
        return {name: Interval(value, math.nan, count) for name, value in whole.items()}
    order = torch.randperm(users, generator=torch.Generator().manual_seed(seed))
    group = (order % count)[number]
    without = [metrics(group != g) for g in range(count)]
    reach = student_t_quantile(confidence, count - 1)
    out = {}
    for name, value in whole.items():
        left = torch.tensor([each[name] for each in without], dtype=torch.float64)
        spread = (left - left.mean()).square().sum().item()
        half = reach * math.sqrt((count - 1) / count * spread)
        known = math.isfinite(half) and half > _ROUNDING * abs(value)
        out[name] = Interval(value, half if known else math.nan, count)
    return out
