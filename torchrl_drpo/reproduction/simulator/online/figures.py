"""The figure of ``online``, drawn from the cells' numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.methods import method
from torchrl_drpo.report.plots import axes_of
from torchrl_drpo.reproduction.simulator.online.results import COMPARED, FILTERED, seen
from torchrl_drpo.reproduction.target import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


def draw(canvas: Canvas, results: Results) -> None:
    """Rewards of the held-out and of the served, and what becomes of the served rows."""
    left, middle, right = axes_of(canvas, 3)
    for name in COMPARED:
        colour = method(name).colour
        for axes, metric in ((left, "retrieved_reward"), (middle, "served_reward")):
            steps, rows = seen(results, name, metric)
            axes.plot(steps, [mean_interval(r).mean for r in rows], color=colour, label=name)
        steps, rows = seen(results, name, "attraction")
        right.plot(steps, [mean_interval(r).mean for r in rows], "--", color=colour)
    for name in FILTERED:
        steps, rows = seen(results, name, "passed")
        right.plot(steps, [mean_interval(r).mean for r in rows], color=method(name).colour)
    left.axvline(0, color="#999999", linestyle=":")
    left.legend(fontsize=7)
    for axes, title in (
        (left, "reward, held-out users"),
        (middle, "reward of what was served"),
        (right, "served rows: passed, attraction"),
    ):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("steps since serving began")
