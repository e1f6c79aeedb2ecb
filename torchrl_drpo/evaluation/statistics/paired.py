"""Methods compared on the same seeds: what they share (world, log, batches) cancels out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torchrl_drpo.evaluation.statistics.intervals import Interval, mean_interval
from torchrl_drpo.evaluation.statistics.multiple import holm
from torchrl_drpo.evaluation.statistics.student import student_p_value, student_t_quantile


def paired_interval(
    values: Sequence[float], base: Sequence[float], comparisons: int = 1
) -> Interval:
    """What ``values`` have above ``base``, seed by seed: mean difference and its t interval.

    Args:
        values: one number a seed.
        base: another method's, of the same seeds in the same order.
        comparisons: how many such intervals are to hold together with 95% confidence; each is
            widened for it (Bonferroni).

    Returns:
        The interval of the differences.

    Raises:
        ValueError: if the lengths differ, there is no seed, or ``comparisons`` lies below 1.

    Example:
        >>> print(paired_interval([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]))
        1.000 ± 0.000
    """
    if comparisons < 1:
        raise ValueError(f"comparisons must be at least 1, got {comparisons}")
    return mean_interval(_differences(values, base), 1 - 0.05 / comparisons)


def paired_p_value(differences: Sequence[float]) -> float:
    """Two-sided p value of Student's t test that paired differences have mean zero.

    Returns:
        In [0, 1]; 1 where all differences are zero, 0 where they are one other number, NaN for
        fewer than two or where one is not finite.

    Example:
        >>> round(paired_p_value([1.0, 2.0, 3.0]), 4)
        0.0742
    """
    found = mean_interval(differences)
    mean, half = abs(found.mean), found.half_width
    if math.isnan(half):
        return math.nan
    if half == 0:
        return 1.0 if mean == 0 else 0.0
    degrees = len(differences) - 1
    return student_p_value(mean / (half / student_t_quantile(0.95, degrees)), degrees)


def corrected_p_values(
    values: Mapping[str, Sequence[float]], base: Sequence[float]
) -> dict[str, float]:
    """Holm-corrected p values of the paired differences of many methods to one.

    Args:
        values: by method, one number a seed.
        base: those of the method that all are compared with.

    Returns:
        By method, in [0, 1]; NaN where a seed's number is not finite.

    Example:
        >>> methods = {"a": [0.4, 0.5, 0.6], "b": [0.1, 0.3, 0.1]}
        >>> {k: round(p, 2) for k, p in corrected_p_values(methods, [0.1, 0.2, 0.2]).items()}
        {'a': 0.02, 'b': 1.0}
    """
    differences = {name: _differences(those, base) for name, those in values.items()}
    return holm({name: paired_p_value(those) for name, those in differences.items()})


def _differences(values: Sequence[float], base: Sequence[float]) -> list[float]:
    if len(values) != len(base):
        raise ValueError(
            f"paired comparisons need the same seeds, got {len(values)} and {len(base)} values"
        )
    return [a - b for a, b in zip(values, base, strict=True)]
