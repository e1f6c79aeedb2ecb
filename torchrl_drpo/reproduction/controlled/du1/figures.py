"""Figures of target ``du1``, drawn from the cells' numbers."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.methods import SERIES
from torchrl_drpo.report.plots import axes_of, draw_point
from torchrl_drpo.reproduction.controlled.du1.modes import MIN_ENTROPY, Mode
from torchrl_drpo.reproduction.controlled.plots import bars, colour_of
from torchrl_drpo.reproduction.target import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

TITLES = {"fixed": "kappa fixed at 8", "learned": "kappa learned, from 8 on"}


def figures(modes: dict[str, Mode]) -> list[Figure]:
    """All figures of the section."""
    return [
        Figure(
            "du1_response",
            "The local negative alone, kappa fixed (blue) and learned (orange): reward, "
            "entropy and remoteness over its strength; means over seeds, 95% intervals.",
            partial(_draw_response, modes),
            (7.6, 2.6),
        ),
        Figure(
            "du1_controls",
            "Expected reward of every control with kappa fixed (left) and learned (right).",
            partial(_draw_controls, modes),
            (8.0, 3.1),
        ),
        Figure(
            "du1_collapse",
            "Kappa learned, mean over seeds. Far negatives: the score's length stays below "
            "sqrt 2 (left) while their log-probability falls without end (middle) and the "
            "policy loses its entropy (right; dotted: the support boundary).",
            partial(_draw_collapse, modes["learned"]),
            (7.6, 2.9),
        ),
    ]


def _draw_response(modes: dict[str, Mode], canvas: Canvas) -> None:
    columns = axes_of(canvas, 3)
    for (key, mode), colour in zip(modes.items(), SERIES[:2], strict=True):
        for axes, metric in zip(columns, ("reward", "entropy", "local_remoteness"), strict=True):
            alphas = [arm.alpha for arm in mode.local.arms.values()]
            means = []
            for name, alpha in zip(mode.local.arms, alphas, strict=True):
                values = mode.local.late(metric, name)
                means.append(mean_interval(values).mean)
                draw_point(axes, alpha, values, color=colour)
            axes.plot(alphas, means, color=colour, linewidth=1, label=TITLES[key])
            axes.set_xlabel("alpha = rho")
    for axes, label in zip(columns, ("expected reward", "entropy (nats)", "D local"), strict=True):
        axes.set_ylabel(label)
    columns[2].set_yscale("log")
    columns[2].set_ylim(bottom=1e-6)
    columns[1].legend(fontsize=7)


def _draw_controls(modes: dict[str, Mode], canvas: Canvas) -> None:
    columns = axes_of(canvas, 2)
    for axes, (key, mode) in zip(columns, modes.items(), strict=True):
        signed_local = list(mode.local.arms)[-1]
        names = [*mode.controls.arms]
        rows = [("positive-only", mode.base("reward"))]
        rows += [
            (name, mode.controls.late("reward", name)) for name in names if "local" not in name
        ]
        rows += [
            (signed_local.replace("local", "local signed"), mode.local.late("reward", signed_local))
        ]
        rows += [(name, mode.controls.late("reward", name)) for name in names if "local" in name]
        bars(axes, rows)
        axes.set_xlim(0.4, 1.0)
        axes.set_title(TITLES[key], fontsize=9)
        axes.set_xlabel("expected reward (a uniform policy: about 0.5)", fontsize=8)
    columns[1].set_yticklabels([])


def _draw_collapse(mode: Mode, canvas: Canvas) -> None:
    columns = axes_of(canvas, 3)
    shown = [mode.local.first, *(n for n in mode.controls.arms if "local" not in n)]
    for name in shown:
        runs = mode.of(name)
        label = "positive-only" if name in mode.local.arms else name
        metrics = ("score_norm", "far_remoteness", "entropy")
        for axes, metric in zip(columns, metrics, strict=True):
            values = runs.curve(metric, name)
            sign = -1 if metric == "far_remoteness" else 1
            axes.plot(runs.steps, [sign * v for v in values], color=colour_of(label), label=label)
    columns[0].axhline(math.sqrt(2), color="#000000", linestyle=":", linewidth=1)
    columns[1].set_yscale("symlog", linthresh=10)
    columns[2].set_yscale("log")
    columns[2].set_ylim(bottom=1e-6)
    columns[2].axhline(MIN_ENTROPY, color="#000000", linestyle=":", linewidth=1)
    labels = ("score length, far", "log pi of far negatives", "entropy (nats)")
    for axes, label in zip(columns, labels, strict=True):
        axes.set_xlabel("gradient steps")
        axes.set_ylabel(label)
    handles = columns[0].get_legend_handles_labels()
    canvas.legend(*handles, fontsize=7, loc="outside lower center", ncols=3)
