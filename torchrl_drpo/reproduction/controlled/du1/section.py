"""What target ``du1`` shows: tables and figures, from the cells' numbers alone."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.controlled.du1.claims import MIN_ENTROPY, MODES, Mode, claims
from torchrl_drpo.reproduction.controlled.plots import axes_of, bars, point
from torchrl_drpo.reproduction.controlled.results import (
    describe,
    interval,
    number,
    signed,
    versus,
)
from torchrl_drpo.reproduction.target import Figure, Options, Results, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

TITLES = {"fixed": "kappa fixed at 8", "learned": "kappa learned, from 8 on"}


def section(options: Options, results: Results) -> Section:
    """The target's part of the report."""
    modes = {mode: Mode(results, mode) for mode in MODES}
    return Section(
        "D-U1: categorical actions, near and far negatives",
        _text(modes["fixed"]),
        tables=[_table(modes[mode], TITLES[mode]) for mode in MODES],
        figures=[
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
        ],
        claims=claims(modes),
    )


def _text(fixed: Mode) -> str:
    runs = fixed.local
    return (
        "64 actions with embeddings; a policy points in a direction q(s) and plays "
        "softmax(kappa q.e). Its four positives are the best logged actions along t+, its local "
        "negative lies beside them on the wrong side, four far negatives opposite. Positives "
        "average to one positive and the negatives in use to one negative, so alpha is rho. "
        f"{runs.seeds} worlds of every arm were trained at once through `RepulsiveLoss`, "
        f"{runs.steps[-1]:,} Adam steps from the initial network; the tables give means over the "
        f"{runs.window} held-out evaluations of the last fifth of a run with 95% t intervals over "
        "worlds, and differences from positive-only paired by world. TOPR is min(pi/mu, 1) for a "
        "log that chose uniformly.\n\n"
        "A uniform policy already earns about 0.5 here, so task collapse is judged by the share of "
        "the way from the uniform policy's reward to the best action's: below 45% of "
        "positive-only's own late share in three evaluations in a row, after the first quarter of "
        f"the run. Support boundary: a mean entropy below {MIN_ENTROPY} nats. NaN/Inf is the third "
        "event. Where kappa is learned, expected reward also rises by concentration alone: a "
        "policy at the support boundary may earn more than one that still explores."
    )


def _table(mode: Mode, title: str) -> Table:
    rows = []
    for name, runs in mode.arms():
        mean = {
            metric: mean_interval(runs.late(metric, name)).mean
            for metric in (
                "entropy",
                "kappa",
                "local_remoteness",
                "far_remoteness",
                "largest_score_norm",
                "active_fraction",
            )
        }
        rows.append(
            [
                name,
                interval(runs.late("reward", name)),
                signed(versus(runs.late("reward", name), mode.base("reward"))),
                number(mean["entropy"], 2),
                number(mean["kappa"], 1),
                number(mean["local_remoteness"], 1),
                number(mean["far_remoteness"], 1),
                number(mean["largest_score_norm"], 2),
                number(mean["active_fraction"], 2),
                describe(mode.events(name)),
            ]
        )
    return Table(
        f"D-U1, {title}",
        [
            "arm",
            "reward",
            "vs positive-only",
            "entropy",
            "kappa",
            "D local",
            "D far",
            "score",
            "active",
            "events",
        ],
        rows,
        note="alpha 0 is positive-only. D: surprisal in nats; score: largest |e_a - pi| of any "
        "negative; active: share of the negatives in use with w < 1. both: the local and the four "
        "far negatives, averaged over the five.",
    )


def _draw_response(modes: dict[str, Mode], canvas: Canvas) -> None:
    columns = axes_of(canvas, 3)
    for (key, mode), colour in zip(modes.items(), ("#0072B2", "#D55E00"), strict=True):
        for axes, metric in zip(columns, ("reward", "entropy", "local_remoteness"), strict=True):
            alphas = [arm.alpha for arm in mode.local.arms.values()]
            means = []
            for name, alpha in zip(mode.local.arms, alphas, strict=True):
                values = mode.local.late(metric, name)
                means.append(mean_interval(values).mean)
                point(axes, alpha, values, color=colour)
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
    colours = ("#E69F00", "#999999", "#D55E00", "#CC79A7", "#009E73", "#0072B2")
    shown = [mode.local.first, *(n for n in mode.controls.arms if "local" not in n)]
    for name, colour in zip(shown, colours, strict=True):
        runs = mode.local if name in mode.local.arms else mode.controls
        label = "positive-only" if name in mode.local.arms else name
        metrics = ("score_norm", "far_remoteness", "entropy")
        for axes, metric in zip(columns, metrics, strict=True):
            values = runs.curve(metric, name)
            sign = -1 if metric == "far_remoteness" else 1
            axes.plot(runs.steps, [sign * v for v in values], color=colour, label=label)
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
