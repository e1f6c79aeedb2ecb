"""Numbers as text, for tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchrl_drpo.evaluation.statistics import Interval, mean_interval


def number(value: float, digits: int = 3) -> str:
    """A number for a table, large ones in powers of ten; a dash for what is not there.

    Example:
        >>> number(0.12345), number(69634.0), number(float("inf"))
        ('0.123', '7.0e+04', '-')
    """
    if not math.isfinite(value):
        return "-"
    value = round(value, digits) + 0.0 if abs(value) < 1_000 else value  # no minus before 0
    return f"{value:.{digits}f}" if abs(value) < 1_000 else f"{value:.1e}"


def spread(values: Sequence[float]) -> str:
    """Mean of some seeds with its 95% interval, large ones in powers of ten.

    Example:
        >>> spread([1.0, 2.0, 3.0]), spread([7e4, 7e4])
        ('2.000 ± 2.484', '7.0e+04 ± 0e+00')
    """
    found = mean_interval(values)
    if abs(found.mean) < 1_000:
        return str(found)
    return f"{found.mean:.1e} ± {found.half_width:.0e}"


def plus_minus(found: Interval, mean: str = ".3f", half_width: str = "") -> str:
    """An interval in a format of one's choice.

    Args:
        found: the interval.
        mean: format of its mean, as of :func:`format`.
        half_width: format of its half width; by default the mean's without a sign.

    Example:
        >>> plus_minus(mean_interval([1.0, 2.0, 3.0]), "+.1f")
        '+2.0 ± 2.5'
    """
    return f"{found.mean:{mean}} ± {found.half_width:{half_width or mean.removeprefix('+')}}"


def signed(found: Interval) -> str:
    """A difference for a table, with its sign.

    Example:
        >>> signed(mean_interval([1.0, 2.0, 3.0]))
        '+2.000 ± 2.484'
    """
    return plus_minus(found, "+.3f")
