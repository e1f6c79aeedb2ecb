"""Frontiers of two goals: their area, what a method adds to the others, and corrected tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torchrl_drpo.evaluation.statistics import mean_interval, student_t_quantile

#: A policy as ``(x, y)``, both to be large.
Point = tuple[float, float]


def dominated_area(points: Sequence[Point], origin: Point) -> float:
    """Area of all ``(x, y)`` beyond the origin that some point reaches or passes in both.

    Points that do not pass the origin in both goals add nothing: a policy that loses one of
    them altogether cannot buy its way with the other. More points never make it smaller.

    Example:
        >>> dominated_area([(2.0, 1.0), (1.0, 3.0), (9.0, -1.0)], origin=(0.0, 0.0))
        4.0
    """
    area, height = 0.0, 0.0
    for x, y in sorted(points, reverse=True):
        if x > origin[0] and y - origin[1] > height:  # NaN fails, and adds nothing
            area += (x - origin[0]) * (y - origin[1] - height)
            height = y - origin[1]
    return area


def contribution(points: Mapping[str, Sequence[Point]], method: str, origin: Point) -> float:
    """Area that would be missing from all methods' common frontier without this one.

    Example:
        >>> contribution({"a": [(2.0, 1.0)], "b": [(1.0, 1.0)]}, "a", (0.0, 0.0))
        1.0
    """
    everyone = [point for own in points.values() for point in own]
    others = [point for name, own in points.items() if name != method for point in own]
    return dominated_area(everyone, origin) - dominated_area(others, origin)


def paired_p_value(differences: Sequence[float]) -> float:
    """Two-sided p value of Student's t test that paired differences have mean zero.

    Returns:
        In [0, 1]; 1 where all differences are zero, 0 where they are one other number, NaN for
        fewer than two or where one is not finite.

    Example:
        >>> round(paired_p_value([1.0, 2.0, 3.0]), 4)
        0.0742
    """
    half = mean_interval(differences).half_width
    mean = abs(mean_interval(differences).mean)
    if math.isnan(half):
        return math.nan
    if half == 0:
        return 1.0 if mean == 0 else 0.0
    degrees = len(differences) - 1
    t = mean / (half / student_t_quantile(0.95, degrees))
    low, high = 0.0, 1.0  # of the confidence at which the interval just reaches zero
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_quantile(middle, degrees) < t else (low, middle)
    return 1 - (low + high) / 2


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: the chance of even one false alarm stays below the level.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure". NaN stays NaN
    and does not count as a test.

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
        {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    tested = {name: p for name, p in p_values.items() if not math.isnan(p)}
    out, floor = {}, 0.0
    for rank, name in enumerate(sorted(tested, key=lambda name: tested[name])):
        floor = max(floor, min(1.0, (len(tested) - rank) * tested[name]))
        out[name] = floor
    return out | {name: math.nan for name in p_values if name not in tested}


def best_within(points: Mapping[float, Point], least: float) -> float | None:
    """The parameter with the largest x among those whose y is at least ``least``, if any.

    Example:
        >>> best_within({0.1: (1.0, 0.9), 0.5: (2.0, 0.7), 0.9: (3.0, 0.2)}, least=0.6)
        0.5
    """
    fit = {value: x for value, (x, y) in points.items() if y >= least}
    return max(fit, key=lambda value: fit[value]) if fit else None
