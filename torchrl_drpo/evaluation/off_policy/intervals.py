"""Intervals that cover: the standard error of rows or clusters, and one for rare events."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchrl_drpo.evaluation.statistics import student_p_value, student_t_quantile

#: Beyond so many degrees of freedom Student's t is the normal's to four digits.
_NORMAL = 2_000
#: Less skewness than this bends nothing.
_EVEN = 1e-6


def standard_error(influence: Tensor, cluster: Tensor | None = None) -> float:
    r"""Of a mean over rows, from each row's deviation :math:`\phi_i` with mean zero.

    Rows of one cluster vary together, and are summed before they are squared:
    :math:`\sqrt{\tfrac{C}{C - 1} \sum_c (\sum_{i \in c} \phi_i)^2} / N`.

    Args:
        influence: what each row adds to the estimate beyond the estimate itself, ``[N]``; for
            ratios their linearisation.
        cluster: ids, ``[N]``; every row its own by default.

    Returns:
        The standard error; NaN for a single row or cluster, which says nothing about spread.

    Example:
        >>> phi = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()
        >>> round(standard_error(phi), 4), standard_error(phi, torch.tensor([0, 0, 1, 1]))
        (0.5774, 0.0)
    """
    total = cluster_sums(influence, cluster)
    count = len(total)
    if count < 2:
        return math.nan
    return math.sqrt(count / (count - 1) * total.square().sum().item()) / len(influence)


def cluster_sums(values: Tensor, cluster: Tensor | None = None) -> Tensor:
    """Sum of the values of each cluster, ``[C]``; the values themselves without clusters."""
    if cluster is None:
        return values
    _, of_row = cluster.unique(return_inverse=True)
    return values.new_zeros(int(of_row.max()) + 1).index_add_(0, of_row, values)


def t_half_width(error: float, units: int, confidence: float) -> float:
    """Half the width of Student's interval for ``units`` independent rows or clusters."""
    _check_confidence(confidence)
    if units < 2:
        return math.nan
    return error * student_t_quantile(confidence, min(units - 1, _NORMAL))


def skewed_interval(
    value: float, influence: Tensor, cluster: Tensor | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    r"""Student's interval, moved and bent by the rows' own skewness; without any it is Student's.

    Weighted clicks are skewed, and what a normal interval misses lies nearly always above it. With
    C units of standard deviation s and skewness g, the ends are
    :math:`\theta - s\, \tfrac3g \big[(1 + g (\pm t / \sqrt C - g / 6C))^{1/3} - 1\big]`.

    Source: Hall 1992, "On the removal of skewness by transformation", with Student's quantiles.

    Args:
        value: the estimate.
        influence: each row's deviation from it, ``[N]`` with mean zero.
        cluster: ids of what varies as a whole, ``[N]``.
        confidence: coverage in (0, 1).

    Returns:
        Lower and upper end; NaN for a single unit.

    Example:
        >>> even = torch.tensor([-1.0, 1.0]).double().repeat(50)
        >>> low, high = skewed_interval(0.0, even)
        >>> round(low, 4), round(high, 4), round(t_half_width(standard_error(even), 100, 0.95), 4)
        (-0.1994, 0.1994, 0.1994)
    """
    _check_confidence(confidence)
    total = cluster_sums(influence, cluster)
    units = len(total)
    if units < 2:
        return math.nan, math.nan
    center = total - total.mean()
    spread = center.std().item()
    if spread == 0:
        return value, value
    skewness = ((center / spread) ** 3).mean().item()
    reach = student_t_quantile(confidence, min(units - 1, _NORMAL)) / math.sqrt(units)
    scale = spread * units / len(influence)

    def bent(x: float) -> float:
        if abs(skewness) < _EVEN:
            return x
        cube = 1 + skewness * (x - skewness / (6 * units))
        return 3 / skewness * (math.copysign(abs(cube) ** (1 / 3), cube) - 1)

    return value - scale * bent(reach), value - scale * bent(-reach)


def skewed_p_value(value: float, influence: Tensor, cluster: Tensor | None = None) -> float:
    r"""Two-sided p value of 0: one less the confidence whose :func:`skewed_interval` ends there.

    The bending solved for Student's t; so the p value lies below .05 exactly where the interval of
    95% does not hold 0. A normal p value beside a skewed interval can say the opposite.

    Args:
        value: the estimate.
        influence: each row's deviation from it, ``[N]`` with mean zero.
        cluster: ids of what varies as a whole, ``[N]``.

    Returns:
        In [0, 1]; NaN for a single unit.

    Example:
        >>> even = torch.tensor([-1.0, 1.0]).double().repeat(50)
        >>> round(skewed_p_value(0.1994, even), 3)
        0.05
    """
    total = cluster_sums(influence, cluster)
    units = len(total)
    if units < 2 or math.isnan(value):
        return math.nan
    center = total - total.mean()
    spread = center.std().item()
    if spread == 0:
        return 1.0 if value == 0 else 0.0
    skewness = ((center / spread) ** 3).mean().item()
    y = value * len(influence) / (spread * units)
    x = y
    if abs(skewness) >= _EVEN:
        x = ((1 + skewness * y / 3) ** 3 - 1) / skewness + skewness / (6 * units)
    return student_p_value(x * math.sqrt(units), min(units - 1, _NORMAL))


def gamma_interval(
    events: Tensor, largest: float, count: int, confidence: float = 0.95
) -> tuple[float, float]:
    r"""For the mean of ``count`` rows of which few are not zero: sums of weighted rare events.

    With :math:`y = \sum_i x_i` and :math:`v = \sum_i x_i^2`, the quantiles of gammas with mean y
    and variance v below, and with one more event of the largest size above. Normal intervals cover
    74% where 95 is promised at 30 clicks of unlike weight: their sums are skewed.

    Source: Fay and Feuer 1997, "Confidence intervals for directly standardized rates".

    Args:
        events: what each unit (row, cluster) adds, at least 0, any number of zeros among them.
        largest: the most that one more event could add; for clipped weights and rewards in [0, 1]
            the cap.
        count: rows of the mean.
        confidence: coverage in (0, 1).

    Returns:
        Lower and upper end.

    Example:
        >>> low, high = gamma_interval(torch.ones(3), 1.0, count=1)  # exact for Poisson counts
        >>> round(low, 3), round(high, 3)
        (0.619, 8.767)
    """
    _check_confidence(confidence)
    if (events < 0).any():
        raise ValueError("the gamma interval is for sums of events that are at least 0")
    tail = (1 - confidence) / 2
    y, v = events.sum().item(), events.square().sum().item()
    low = 0.0 if y == 0 else v / y * gamma_quantile(tail, y * y / v)
    top, spread = y + largest, v + largest * largest
    high = 0.0 if top == 0 else spread / top * gamma_quantile(1 - tail, top * top / spread)
    return low / count, high / count


def gamma_quantile(probability: float, shape: float) -> float:
    """Of the gamma distribution with scale 1, by bisection on the regularised incomplete gamma.

    Example:
        >>> round(gamma_quantile(0.5, 1.0), 4)  # of an exponential: log 2
        0.6931
    """
    high = shape + 10 * math.sqrt(shape) + 50
    low, a = 0.0, torch.tensor(shape, dtype=torch.float64)
    for _ in range(100):
        middle = (low + high) / 2
        at = torch.special.gammainc(a, torch.tensor(middle, dtype=torch.float64)).item()
        low, high = (middle, high) if at < probability else (low, middle)
    return (low + high) / 2


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
