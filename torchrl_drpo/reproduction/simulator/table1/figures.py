"""Figures of ``table1``, drawn from the cells' numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.methods import method
from torchrl_drpo.report.plots import axes_of
from torchrl_drpo.reproduction.published import TABLE1
from torchrl_drpo.reproduction.simulator.results import curve, end, late
from torchrl_drpo.reproduction.simulator.table1.results import SCENARIOS, SHOWN, name_of
from torchrl_drpo.reproduction.target import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def draw_rewards(canvas: Canvas, results: Results) -> None:
    """A bar a method, and the published number on it."""
    places = range(len(SHOWN))
    for axes, scenario in zip(axes_of(canvas, 2, sharey=True), SCENARIOS, strict=True):
        found = [mean_interval(late(results, name_of(name, scenario))) for name in SHOWN]
        axes.bar(
            places,
            [f.mean for f in found],
            yerr=[f.half_width for f in found],
            color=[method(name).colour for name in SHOWN],
            capsize=2,
        )
        paper = [(k, TABLE1[scenario][n]) for k, n in enumerate(SHOWN) if n in TABLE1[scenario]]
        axes.plot(*zip(*paper, strict=True), "kx", markersize=5, label="paper")
        floor = end(results, name_of("DRPO", scenario), "random")
        axes.axhline(floor, color="#777777", linestyle=":")
        axes.set_xticks(places, SHOWN, rotation=40, ha="right", fontsize=7)
        axes.set_title(f"{scenario} mixture", fontsize=10)
    canvas.axes[0].legend(fontsize=7)


def draw_curves(canvas: Canvas, results: Results) -> None:
    """Rewards along training, a line a method."""
    for axes, scenario in zip(axes_of(canvas, 2, sharey=True), SCENARIOS, strict=True):
        for name in SHOWN:
            colour = method(name).colour
            axes.plot(*curve(results, name_of(name, scenario)), color=colour, label=name)
        axes.set_title(f"{scenario} mixture", fontsize=10)
        axes.set_xlabel("gradient steps")
    canvas.axes[0].legend(fontsize=6, ncols=2)
