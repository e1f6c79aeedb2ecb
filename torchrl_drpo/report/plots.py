"""Figures, drawn from numbers that were saved; matplotlib without a display."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: One colour a method in every figure of the project (Okabe and Ito: told apart by everyone).
COLOURS = {
    "BC": "#56B4E9",
    "APG": "#D55E00",
    "DRPO": "#009E73",
    "positive-only": "#E69F00",
    "random": "#999999",
    "popularity": "#CC79A7",
    "oracle": "#000000",
}

Curve = Sequence[tuple[int, float]]


def plot_demo(result: Any, path: str | os.PathLike[str]) -> Path:
    """Learning curves, the adaptive filter and log sigma of a demo run, as one PNG.

    Args:
        result: a :class:`~torchrl_drpo.pipeline.demo.DemoResult`.
        path: where to write it; replaced atomically.

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
        for method in methods:
            curves = [c.history.evaluation[metric] for c in result.cells if c.method == method]
            draw_curves(axes, curves, method)
        axes.set_title(title)
    for end, values in result.ends.items():
        level = sum(values) / len(values)
        for axes in top:
            axes.axhline(level, color=COLOURS[end], linestyle=":", linewidth=1.2, label=end)
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


def draw_curves(axes: Axes, curves: Sequence[Curve], label: str, **style: Any) -> None:
    """The mean of several runs' curves, with the range of the runs as a band."""
    steps = [step for step, _ in curves[0]]
    columns = list(zip(*([value for _, value in curve] for curve in curves), strict=True))
    mean = [sum(column) / len(column) for column in columns]
    style = {"color": COLOURS.get(label), "label": label, **style}
    (line,) = axes.plot(steps, mean, **style)
    if len(curves) > 1:
        low, high = [min(c) for c in columns], [max(c) for c in columns]
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def _draw_filter(axes: Axes, histories: Sequence[dict[str, Curve]]) -> None:
    draw_curves(axes, [h["kappa"] for h in histories], "kappa", color=COLOURS["DRPO"])
    draw_curves(axes, [h["threshold"] for h in histories], "threshold", color="#0072B2")
    axes.set_title("DRPO's filter: fraction kept, threshold of the reward")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8)


def _figure(rows: int, columns: int) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 3.4 * rows), layout="constrained"
    )
    for cell in axes.flat:
        cell.spines[["top", "right"]].set_visible(False)
        cell.grid(alpha=0.25)
    return figure, axes


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    from matplotlib import pyplot as plt

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, format="png", dpi=150)
    plt.close(figure)
    os.replace(partial, path)
    return path
