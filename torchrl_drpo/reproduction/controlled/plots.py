"""What the figures of the controlled environments share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

#: Colours by what an arm's name says of its control; the first that fits.
CONTROLS = {
    "positive-only": COLOURS["positive-only"],
    "global scale": "#CC79A7",
    "linear": "#56B4E9",
    "quadratic": "#0072B2",
    "exponential": COLOURS["DRPO"],
    "TOPR": "#0072B2",
    "cut-off": "#000000",
    "signed": COLOURS["APG"],
}


def colour_of(name: str) -> str:
    """The colour of an arm; grey where its name says nothing of a control."""
    return next((colour for part, colour in CONTROLS.items() if part in name), "#777777")


def axes_of(canvas: Canvas, columns: int) -> Sequence[Axes]:
    """A row of plain axes."""
    axes = canvas.subplots(1, columns)
    for cell in axes:
        cell.spines[["top", "right"]].set_visible(False)
        cell.grid(color="#eeeeee")
        cell.set_axisbelow(True)
    return axes


def point(axes: Axes, x: float, values: Sequence[float], **style: Any) -> None:
    """The mean over seeds with its interval; nothing where it is not finite."""
    found = mean_interval(values)
    if math.isfinite(found.mean):
        style = {"color": "#0072B2", "capsize": 2, "markersize": 4, "fmt": "o", **style}
        axes.errorbar([x], [found.mean], yerr=[found.half_width], **style)


def bars(axes: Axes, rows: Sequence[tuple[str, Sequence[float]]]) -> None:
    """A horizontal bar with an interval for each named set of values, from top to bottom."""
    found = [mean_interval(values) for _, values in rows]
    names = [name for name, _ in rows]
    axes.barh(
        names,
        [f.mean for f in found],
        xerr=[f.half_width for f in found],
        color=[colour_of(name) for name in names],
        height=0.65,
        capsize=2,
    )
    axes.invert_yaxis()
    axes.tick_params(labelsize=7)
