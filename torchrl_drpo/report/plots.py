"""What figures share: plain axes, and means over runs as curves, points, lines and bars.

A label that names a method (:mod:`~torchrl_drpo.report.methods`) brings its colour; everything
else is drawn in the colour that the caller gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.methods import SERIES, method

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

#: A run's numbers by step.
Curve = Sequence[tuple[int, float]]


def axes_of(canvas: Canvas, columns: int, **options: Any) -> list[Axes]:
    """A row of plain axes; options are those of matplotlib's ``subplots``."""
    row = canvas.subplots(1, columns, squeeze=False, **options)[0]
    for axes in row:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#eeeeee")
        axes.set_axisbelow(True)
    return list(row)


def draw_curves(axes: Axes, curves: Sequence[Curve], label: str, **style: Any) -> None:
    """The mean of several runs' curves, with the range of the runs as a band."""
    steps = [step for step, _ in curves[0]]
    columns = list(zip(*([value for _, value in curve] for curve in curves), strict=True))
    mean = [sum(column) / len(column) for column in columns]
    (line,) = axes.plot(steps, mean, **_styled(label, style), label=label)
    if len(curves) > 1:
        low, high = [min(c) for c in columns], [max(c) for c in columns]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def draw_line(
    axes: Axes, x: Sequence[float], rows: Sequence[Sequence[float]], label: str, **style: Any
) -> None:
    """Means with their intervals along x, one list of seeds at each place."""
    found = [mean_interval(values) for values in rows]
    style = {"marker": "o", "markersize": 3, "capsize": 2, **_styled(label, style)}
    axes.errorbar(
        x, [f.mean for f in found], yerr=[f.half_width for f in found], label=label, **style
    )


def draw_point(axes: Axes, x: float, values: Sequence[float], **style: Any) -> None:
    """The mean over seeds with its interval; nothing where it is not finite."""
    found = mean_interval(values)
    if math.isfinite(found.mean):
        style = {"color": SERIES[0], "capsize": 2, "markersize": 4, "fmt": "o", **style}
        axes.errorbar([x], [found.mean], yerr=[found.half_width], **style)


def draw_bars(axes: Axes, rows: Sequence[tuple[str, Sequence[float]]], colours: list[str]) -> None:
    """A horizontal bar with an interval for each named set of values, from top to bottom."""
    found = [mean_interval(values) for _, values in rows]
    axes.barh(
        [name for name, _ in rows],
        [f.mean for f in found],
        xerr=[f.half_width for f in found],
        color=colours,
        height=0.65,
        capsize=2,
    )
    axes.invert_yaxis()
    axes.tick_params(labelsize=7)


def _styled(label: str, style: dict[str, Any]) -> dict[str, Any]:
    """A style with the colour and the line of the method that the label names."""
    if "color" in style:
        return style
    shown = method(label)
    return {"color": shown.colour, "linestyle": shown.line, **style}
