"""The figure of ``divergence``, drawn from the cells' numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchrl_drpo.report.methods import SERIES
from torchrl_drpo.report.plots import axes_of
from torchrl_drpo.reproduction.simulator.divergence.series import SETTINGS, TRAINED, looks
from torchrl_drpo.reproduction.target import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_COLOURS = dict(zip(SETTINGS, SERIES[:2], strict=True))


def draw(canvas: Canvas, results: Results) -> None:
    """Gradients, their ratios and the spread along training, a colour a setting."""
    left, middle, right = axes_of(canvas, 3)
    for setting, colour in _COLOURS.items():
        for name, style in zip(TRAINED, ("-", "--"), strict=True):
            cell = f"{setting}.{name}"
            steps = results[cell]["result"]["steps"]
            words = f"{setting}, {name}"
            rows = zip(
                looks(results, cell, "negative_mean"),
                looks(results, cell, "negative_sigma"),
                strict=True,
            )
            norms = [_average([math.hypot(*p) for p in zip(*r, strict=True)]) for r in rows]
            left.plot(steps, [n / norms[0] for n in norms], style, color=colour, label=words)
            sigma = [_average(row) for row in looks(results, cell, "log_sigma")]
            right.plot(steps, sigma, style, color=colour)
        for part, style in (("sigma", "-"), ("mean", "--")):
            _ratio_line(middle, results, f"{setting}.positive-only", part, style, colour)
    left.set_yscale("log")
    middle.set_yscale("log")
    left.set_title("negatives' gradient / first", fontsize=10)
    middle.set_title("repulsion / attraction", fontsize=10)
    right.set_title("mean log sigma", fontsize=10)
    left.legend(fontsize=7)
    for axes in (left, middle, right):
        axes.set_xlabel("gradient steps")


def _ratio_line(
    axes: Axes, results: Results, cell: str, part: str, style: str, colour: str
) -> None:
    negative, positive = (
        [_average(row) for row in looks(results, cell, f"{side}_{part}")]
        for side in ("negative", "positive")
    )
    ratios = [n / p for n, p in zip(negative, positive, strict=True)]
    axes.plot(results[cell]["result"]["steps"], ratios, style, color=colour)


def _average(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
