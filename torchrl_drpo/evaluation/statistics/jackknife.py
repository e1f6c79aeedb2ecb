"""Intervals of any number by leaving out a part of the data at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchrl_drpo.evaluation.statistics.intervals import Interval
from torchrl_drpo.evaluation.statistics.student import student_t_quantile

_ROUNDING = 1e-9


def jackknife_interval(
    value: float, without: Sequence[float], confidence: float = 0.95
) -> Interval:
    r"""Student interval by the delete-a-group jackknife.

    With :math:`\hat\theta_{(g)}` the number without group g of G,

    .. math:: \mathrm{SE}^2 = \frac{G - 1}{G} \sum_g (\hat\theta_{(g)} - \bar\theta)^2 .

    The difference of two numbers that leave out the same groups is a number like any other:
    what the groups do to both alike cancels out.

    Source: Kott 2001, "The delete-a-group jackknife".

    Args:
        value: of all the data.
        without: the same without each of the groups.
        confidence: coverage in (0, 1).

    Returns:
        The value with its half width; that is NaN for fewer than two groups, where a number is not
        finite without some group, and where it is the same without any of them: four hits of four
        say that the rate is high, and not that it is 1.

    Example:
        >>> print(jackknife_interval(0.5, [2 / 3, 1 / 3, 2 / 3, 1 / 3]))  # the mean of 0, 1, 0, 1
        0.500 ± 0.919
    """
    count = len(without)
    if count < 2 or not all(map(math.isfinite, without)):
        return Interval(value, math.nan, count)
    mean = math.fsum(without) / count
    spread = math.fsum((left - mean) ** 2 for left in without)
    half = student_t_quantile(confidence, count - 1) * math.sqrt((count - 1) / count * spread)
    known = math.isfinite(half) and half > _ROUNDING * abs(value)
    return Interval(value, half if known else math.nan, count)
