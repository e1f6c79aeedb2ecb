"""Student's t distribution in closed form, so that intervals need no SciPy."""

from __future__ import annotations

import functools
import math


@functools.lru_cache(maxsize=1024)  # a report asks for the same few thousands of times
def student_t_quantile(confidence: float, degrees: int) -> float:
    """The t with ``P(|T| <= t) = confidence`` for ``degrees`` degrees of freedom.

    Bisection on the closed form for whole degrees (Abramowitz and Stegun, 26.7.3 and 26.7.4).

    Args:
        confidence: in (0, 1).
        degrees: at least 1.

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


def student_p_value(t: float, degrees: int) -> float:
    """``P(|T| >= |t|)`` for ``degrees`` degrees of freedom: the two-sided p value of ``t``.

    To about 1e-16 beside 1: a p value far below 1e-12 is no more than that.

    Example:
        >>> round(student_p_value(2.776, 4), 3)
        0.05
    """
    if degrees < 1:
        raise ValueError(f"degrees must be at least 1, got {degrees}")
    inside = _central_probability(math.atan(abs(t) / math.sqrt(degrees)), degrees)
    return min(1.0, max(0.0, 1 - inside))


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
