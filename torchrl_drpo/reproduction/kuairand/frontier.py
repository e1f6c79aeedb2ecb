"""Frontiers of two goals: their area, and what a method adds to the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

#: A policy as ``(x, y)``, both to be large.
Point = tuple[float, float]


def dominated_area(points: Sequence[Point], origin: Point) -> float:
    """Area of all ``(x, y)`` beyond the origin that some point reaches or passes in both.

    Points that do not pass the origin in both goals add nothing: a policy that loses one of
    them altogether cannot buy its way with the other. More points never make it smaller. Nor do
    points that are not finite add anything: a lift over no hit has no size.

    Example:
        >>> dominated_area([(2.0, 1.0), (1.0, 3.0), (9.0, -1.0)], origin=(0.0, 0.0))
        4.0
    """
    area, height = 0.0, 0.0
    for x, y in sorted(points, reverse=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        if x > origin[0] and y - origin[1] > height:
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


def best_within(points: Mapping[float, Point], least: float) -> float | None:
    """The parameter with the largest finite x of those whose y is at least ``least``, if any.

    Example:
        >>> best_within({0.1: (1.0, 0.9), 0.5: (2.0, 0.7), 0.9: (3.0, 0.2)}, least=0.6)
        0.5
    """
    fit = {value: x for value, (x, y) in points.items() if y >= least and math.isfinite(x)}
    return max(fit, key=lambda value: fit[value]) if fit else None
