"""The figure of ``randomised``: every method along its parameter, order against value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torchrl_drpo.report.methods import SERIES, method
from torchrl_drpo.reproduction.randomised.judge import GAUC, NDCG, VALUE
from torchrl_drpo.reproduction.randomised.results import Run
from torchrl_drpo.reproduction.target import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

#: Colour and marker: a tilt has its base's colour; circles are trained, diamonds tilted.
STYLES = {
    "random": (method("random").colour, "x"),
    "popularity": (method("popularity").colour, "x"),
    "item mean": (SERIES[4], "x"),
    "reward model alone": (SERIES[2], "X"),
    "BC": (method("bc").colour, "o"),
    "positive-only": (method("positive-only").colour, "o"),
    "DRPO": (method("drpo").colour, "o"),
    "tapered": (method("tapered").colour, "o"),
    "DRPO-Q": (SERIES[3], "o"),
    "BC, tilted": (method("bc").colour, "D"),
    "positive-only, tilted": (method("positive-only").colour, "D"),
    "DRPO, tilted": (method("drpo").colour, "D"),
    "conditioned": (SERIES[5], "s"),
    "conditioned, tilted": (SERIES[5], "D"),
    "conditioned, from all": (SERIES[6], "s"),
}


def paths_figure(name: str, runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Value and NDCG against GAUC, on the reporting users."""
    return Figure(
        name=f"randomised_{name}",
        caption=f"{name}: value, and NDCG@5, against GAUC on the reporting users, 95% t intervals "
        "over seeds; each method along its own parameter. Up and to the right is better.",
        draw=partial(draw_paths, runs=runs),
        size=(9.0, 3.9),
    )


def draw_paths(canvas: Canvas, runs: Mapping[str, Sequence[Run]]) -> None:
    """Draws a path a method in each of the two planes."""
    panels = canvas.subplots(1, 2)
    for axes, metric, title in zip(panels, (VALUE, NDCG), ("value", "NDCG@5"), strict=True):
        for name, own in runs.items():
            if name == "random":  # far off: all others would be one cluster
                continue
            colour, marker = STYLES[name]
            x = [run.interval(GAUC) for run in own]
            y = [run.interval(metric) for run in own]
            axes.errorbar(
                [one.mean for one in x],
                [one.mean for one in y],
                xerr=[one.half_width for one in x],
                yerr=[one.half_width for one in y],
                color=colour,
                marker=marker,
                markersize=4.5,
                linewidth=1.2,
                elinewidth=0.7,
                label=name,
            )
        axes.set_xlabel("GAUC")
        axes.set_ylabel(title)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = panels[0].get_legend_handles_labels()
    canvas.legend(handles, names, loc="outside right upper", fontsize=7, frameon=False)
