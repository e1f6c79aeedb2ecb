"""Intervals over seeds: small samples, so Student's t and nothing narrower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean and its symmetric confidence interval, ``mean`` plus or minus ``half_width``."""

    mean: float
    half_width: float
    count: int

    def __str__(self) -> str:
        if math.isnan(self.half_width):
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} ± {self.half_width:.3f}"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    r"""Mean of independent runs with its t interval, :math:`t_{n-1} s / \sqrt n`.

    For two methods on the same seeds, pass the differences: a paired interval is narrower than
    the comparison of two.

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


def student_t_quantile(confidence: float, degrees: int) -> float:
    """The t with ``P(|T| <= t) = confidence`` for ``degrees`` degrees of freedom.

    Bisection on the closed form for whole degrees (Abramowitz and Stegun, 26.7.3 and 26.7.4), so
    that intervals need no SciPy.

    Example:
        >>> round(student_t_quantile(0.95, 4), 3)
        2.776
    """
    if degrees < 1:
        raise ValueError(f"degrees must be at least 1, got {degrees}")
    low, high = 0.0, math.pi / 2  # of theta = atan(t / sqrt(degrees)): a bounded search
    for _ in range(200):
        middle = (low + high) / 2
        if _central_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _central_probability(theta: float, degrees: int) -> float:
    """``P(|T| <= t)`` at ``t = sqrt(degrees) tan(theta)``."""
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    # Odd: cos + 2/3 cos^3 + 2*4/(3*5) cos^5 ...; even: 1 + 1/2 cos^2 + 1*3/(2*4) cos^4 ...
    term, power = (cosine if odd else 1.0), 1 + odd
    total = term if degrees > 1 else 0.0
    while power < degrees - 1:
        term *= power / (power + 1) * cosine**2
        total += term
        power += 2
    return 2 / math.pi * (theta + sine * total) if odd else sine * total
