"""The figure of ``kuairand``: every method as a path in two planes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.report.methods import method
from torchrl_drpo.reproduction.kuairand.results import (
    HITS,
    LIFT,
    WITHIN,
    Runs,
    interval,
    methods_in,
)
from torchrl_drpo.reproduction.target import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

#: By a path's name, the method whose colour and line it has, and a marker: imitation, knobs at
#: serving, filters, repulsion and forms with explicit dislikes have one each.
STYLES = {
    "BC": ("bc", "*"),
    "BC-tilt": ("bc-tilt", "P"),
    "positive-only": ("positive-only", "o"),
    "positive-only-tilt": ("positive-only-tilt", "P"),
    "conditioned": ("conditioned", "X"),
    "conditioned-tilt": ("conditioned-tilt", "P"),
    "guided conditioned-tilt": ("conditioned-tilt", "X"),
    "DRPO, adaptive": ("drpo", "D"),
    "DRPO-tilt": ("drpo-tilt", "P"),
    "drpo-q": ("drpo-q", "D"),
    "positive-only-q": ("positive-only-q", "o"),
    "taper-q": ("taper-q", "s"),
    "positive-only-a": ("positive-only-a", "o"),
    "taper-a": ("taper-a", "s"),
    "drpo-a": ("drpo-a", "D"),
    "guided": ("guided", "v"),
    "taper": ("tapered", "s"),
    "top kappa, uniform": ("top-fraction", "o"),
    "AWR": ("awr", "o"),
    "DRPO + taper": ("drpo-tapered", "s"),
    "DRPO, exponential": ("drpo-exponential", "D"),
    "AsymRE": ("asymre", "s"),
    "global scale": ("global-scale", "s"),
    "GBPO": ("gbpo", "^"),
    "top quarter + hated": ("top-hated", "^"),
    "top quarter + worst, GBPO": ("top-worst-gbpo", "^"),
}
GOALS = {
    WITHIN: "lift within tabs (best / worst quarter)",
    LIFT: "lift over all rows, tabs mixed",
}


def frontier_figure(test: Runs, facts: Mapping[str, Any]) -> Figure:
    """Hit rate against lift within tabs, and against lift."""
    return Figure(
        name="kuairand_frontiers",
        caption="Hit rate@50 on the best quarter against lift within tabs, and against lift over "
        "all rows, 95% t intervals over seeds; each method along its own strength. Up and to the "
        "right is better. Dotted: popularity.",
        draw=partial(draw_frontiers, test=test, popularity=facts["popularity"]),
        size=(11.0, 5.2),
    )


def draw_frontiers(canvas: Canvas, test: Runs, popularity: Mapping[str, float]) -> None:
    """Draws hit rate against both lifts, a path a method."""
    panels = canvas.subplots(1, 2, sharey=True)
    for axes, (goal, title) in zip(panels, GOALS.items(), strict=True):
        for name in methods_in(test):
            keys = [key for key in test if key[0] == name]
            x = [interval(test, key, goal) for key in keys]
            y = [interval(test, key, HITS) for key in keys]
            key, marker = STYLES[name]
            axes.errorbar(
                [one.mean for one in x],
                [one.mean for one in y],
                xerr=[_width(one) for one in x],
                yerr=[_width(one) for one in y],
                color=method(key).colour,
                linestyle=method(key).line,
                marker=marker,
                markersize=9 if marker == "*" else 4.5,
                linewidth=1.2,
                elinewidth=0.7,
                label=name,
            )
        axes.axhline(popularity[HITS], color="#666666", linestyle=":", linewidth=1)
        axes.axvline(popularity[goal], color="#666666", linestyle=":", linewidth=1)
        axes.set_xlabel(title)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("hit rate@50, best quarter")
    handles, names = panels[0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside right upper", fontsize=7, frameon=False)


def _width(value: Interval) -> float:
    return 0.0 if math.isnan(value.half_width) else value.half_width
