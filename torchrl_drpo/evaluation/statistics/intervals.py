"""Intervals over seeds: small samples, so Student's t and nothing narrower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torchrl_drpo.evaluation.statistics.student import student_t_quantile


class Interval(NamedTuple):
    """A mean and its symmetric confidence interval, ``mean`` plus or minus ``half_width``.

    Attributes:
        mean: of the runs.
        half_width: NaN where it is not known: for one run, or where a value is not finite.
        count: number of runs.
    """

    mean: float
    half_width: float
    count: int

    def above(self, bound: float = 0.0) -> bool:
        """Whether the whole interval lies above ``bound``; never where its width is unknown.

        Example:
            >>> Interval(2.0, 0.5, 3).above(1.0), Interval(2.0, 1.5, 3).above(1.0)
            (True, False)
        """
        return self.mean - self.half_width > bound

    def below(self, bound: float = 0.0) -> bool:
        """Whether the whole interval lies below ``bound``; never where its width is unknown."""
        return self.mean + self.half_width < bound

    def __str__(self) -> str:
        if math.isnan(self.half_width):
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ± {self.half_width:.3f}"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    r"""Mean of independent runs with its t interval, :math:`t_{n-1} s / \sqrt n`.

    For two methods on the same seeds there is :func:`~.paired.paired_interval`, which is narrower
    than the comparison of two.

    Args:
        values: one number a run.
        confidence: coverage in (0, 1).

    Returns:
        The interval; ``half_width`` is NaN for one run, which says nothing about spread, and
        where a value is not finite.

    Raises:
        ValueError: if there are no values, or confidence lies outside (0, 1).

    Example:
        >>> print(mean_interval([1.0, 2.0, 3.0]))  # 4.303 / sqrt(3)
        2.000 ± 2.484
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least one value, got none")
    mean = sum(values) / n
    if n == 1 or not math.isfinite(mean):
        return Interval(mean, math.nan, n)
    mean = math.fsum(values) / n
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return Interval(mean, student_t_quantile(confidence, n - 1) * math.sqrt(variance / n), n)
