"""The figure of ``drpo demo``: learning curves, the adaptive filter and log sigma."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrl_drpo.files import replacing
from torchrl_drpo.report.methods import SERIES, method
from torchrl_drpo.report.plots import Curve, draw_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_demo(result: Any, path: str | os.PathLike[str]) -> Path:
    """Learning curves, the adaptive filter and log sigma of a demo run, as one PNG.

    Args:
        result: a :class:`~torchrl_drpo.pipeline.demo.DemoResult`.
        path: where to write it, in one step.

    Returns:
        The path.
    """
    figure, (top, bottom) = _figure(2, 2)
    methods = list(dict.fromkeys(cell.method for cell in result.cells))
    for axes, metric, title in (
        (top[0], "retrieved_reward", "reward of the retrieved item"),
        (top[1], "raw_reward", "reward of the raw mean action"),
        (bottom[1], "log_sigma", "mean log sigma of the policy"),
    ):
        for name in methods:
            curves = [c.history.evaluation[metric] for c in result.cells if c.method == name]
            draw_curves(axes, curves, name)
        axes.set_title(title)
    for end, values in result.ends.items():
        level = sum(values) / len(values)
        for axes in top:
            axes.axhline(level, color=method(end).colour, linestyle=":", linewidth=1.2, label=end)
    _draw_filter(bottom[0], [c.history.training for c in result.cells if c.method == "DRPO"])
    top[0].legend(loc="best", fontsize=8, ncols=2)
    for axes in (*top, *bottom):
        axes.set_xlabel("gradient steps")
    config = result.config
    figure.suptitle(
        f"Learning from the {config.scenario} log ({config.log_size:,} rows, "
        f"{config.setting} setting, {config.seeds} seed{'s' * (config.seeds > 1)})"
    )
    return _save(figure, path)


def _draw_filter(axes: Axes, histories: Sequence[dict[str, Curve]]) -> None:
    draw_curves(axes, [h["kappa"] for h in histories], "kappa", color=method("drpo").colour)
    draw_curves(axes, [h["threshold"] for h in histories], "threshold", color=SERIES[0])
    axes.set_title("DRPO's filter: fraction kept, threshold of the reward")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8)


def _figure(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: nothing global is touched, nothing is kept
    axes = figure.subplots(rows, columns)
    for cell in axes.flat:
        cell.spines[["top", "right"]].set_visible(False)
        cell.grid(alpha=0.25)
    return figure, axes


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)
    return path
