"""Figures of ``geometry``, drawn from the cells' numbers."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from torchrl_drpo.report.methods import SERIES, method
from torchrl_drpo.report.plots import axes_of
from torchrl_drpo.reproduction.simulator.geometry.world import SCENARIOS, SETTINGS
from torchrl_drpo.reproduction.target import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

#: Of the loggers: the expert is no method.
_COLOURS = {
    "expert": SERIES[0],
    "popularity": method("popularity").colour,
    "random": method("random").colour,
}


def draw_items(canvas: Canvas, results: Results) -> None:
    """Items, the spectrum of their variance, and rewards by rank."""
    left, middle, right = axes_of(canvas, 3)
    points = results["table.extreme"]["result"]["points"]
    x, y, centre = zip(*points, strict=True)
    left.scatter(x, y, c=centre, cmap="tab10", s=5)
    left.set_title("items", fontsize=10)
    for setting, colour in zip(SETTINGS, SERIES[:2], strict=True):
        result = results[f"{setting}.extreme"]["result"]
        total = list(accumulate(result["spectrum"]))
        middle.plot(range(1, len(total) + 1), total, color=colour, label=setting)
        for scenario, style in zip(SCENARIOS, ("--", "-"), strict=True):
            ranked = results[f"{setting}.{scenario}"]["result"]["ranked"]
            right.loglog(*zip(*ranked, strict=True), style, color=colour)
    middle.set_title("cumulative variance by direction", fontsize=10)
    middle.legend(fontsize=7)
    right.set_title("reward by rank (solid: extreme)", fontsize=10)


def draw_rewards(canvas: Canvas, results: Results) -> None:
    """Densities of the rewards, a line a logger."""
    for axes, setting in zip(axes_of(canvas, 2), SETTINGS, strict=True):
        result = results[f"{setting}.medium"]["result"]
        for name, density in result["histograms"].items():
            axes.stairs(density, result["edges"], color=_COLOURS[name], label=name)
        axes.set_title(f"latent reward, {setting} setting", fontsize=10)
    canvas.axes[0].legend(fontsize=7)
