"""Figures of target ``cu1``, drawn from the cells' numbers."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import torch

from torchrl_drpo.envs import cu1
from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.methods import SERIES
from torchrl_drpo.report.plots import axes_of, draw_point
from torchrl_drpo.reproduction.controlled.arms import make_taper
from torchrl_drpo.reproduction.controlled.cu1.forms import compare
from torchrl_drpo.reproduction.controlled.plots import PLAIN, bars, colour_of
from torchrl_drpo.reproduction.controlled.results import Runs
from torchrl_drpo.reproduction.target import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_FOUND, _FORM = SERIES[:2]


def figures(runs: dict[str, Runs]) -> list[Figure]:
    """All figures of the section."""
    return [
        Figure(
            "cu1_response",
            "Negative 0 alone: trained policies (points: mean over seeds and its 95% interval, "
            "smaller than the point) on the closed forms (lines). Repelling takes the mean from "
            "the positives (0) through the best action (1) and away; past rho = 1 nothing holds "
            "it.",
            partial(_draw_response, runs["response"]),
        ),
        Figure(
            "cu1_sources",
            "Left: where the mean rests that repels from one negative, or a group (crosses: closed "
            "form, dots: trained; u points to the right). Right: what that is worth.",
            partial(_draw_sources, runs),
            (9.0, 3.5),
        ),
        Figure(
            "cu1_shapes",
            "Left: the weight of a negative under controls that agree at D = 2 (the cut-off does "
            "not); the bands are the near and far negatives as training starts. Right: reward with "
            "all eight negatives; dotted: positive-only.",
            partial(_draw_shapes, runs),
            (8.0, 3.1),
        ),
        Figure(
            "cu1_sigma",
            "Learned sigma, mean over seeds. Left: log sigma; dotted: the support boundary. Right: "
            "reward. Several policies shrink to a point at a reward that is fine: the two events "
            "are different.",
            partial(_draw_sigma, runs["sigma"]),
            (8.0, 3.3),
        ),
    ]


def _draw_response(runs: Runs, canvas: Canvas) -> None:
    place, reward = axes_of(canvas, 2)
    rhos = [i / 200 for i in range(190)]
    places = [cu1.displacement_of(rho) for rho in rhos]
    place.plot(rhos, places, color=_FORM, label="closed form")
    reward.plot(rhos, [cu1.reward_of(x) for x in places], color=_FORM, label="closed form")
    for name, arm in runs.arms.items():
        rho = cu1.mass_ratio(arm.alpha)
        if rho < 1:
            draw_point(place, rho, runs.late("displacement", name))
        draw_point(reward, rho, runs.late("reward", name))
    place.set_yscale("symlog", linthresh=1)
    place.set_ylim(-0.1, 12)
    place.set_ylabel("displacement")
    reward.set_ylabel("held-out reward")
    reward.axvline(7 / 12, color="#999999", linestyle=":", label="rho = 7/12")
    for axes in (place, reward):
        axes.axvline(1, color="#000000", linewidth=0.8, label="rho = 1")
        axes.set_xlabel("rho")
    reward.legend(fontsize=8)


def _draw_sources(runs: dict[str, Runs], canvas: Canvas) -> None:
    plane, gains = axes_of(canvas, 2)
    sources = runs["sources"]
    x, y = zip(*cu1.negative_places(), strict=True)
    plane.scatter(x, y, marker="v", color=SERIES[2], label="negatives")
    for k, (a, b) in enumerate(zip(x, y, strict=True)):
        plane.annotate(str(k), (a, b), textcoords="offset points", xytext=(6, 4), fontsize=8)
    plane.scatter([1], [0], marker="*", s=90, color="#000000", label="best action")
    plane.scatter(
        [0], [0], marker="s", color=colour_of("positive-only"), label="positives' centroid"
    )
    base, rows = runs["response"].late("reward", runs["response"].first), []
    for number, (name, form) in enumerate(compare(sources).items()):
        along, across = zip(*form.found, strict=True)
        style = {"label": "closed form"} if number == 0 else {}
        plane.scatter(*form.place, marker="x", s=45, color=_FORM, **style)
        style = {"label": "trained"} if number == 0 else {}
        middle = (mean_interval(along).mean, mean_interval(across).mean)
        plane.scatter(*middle, s=12, color=_FOUND, zorder=3, **style)
        plane.annotate(
            name.removeprefix("negative "),
            middle,
            textcoords="offset points",
            xytext=(4, -9) if name.startswith("negative") else (-2, 5),
            rotation=0 if name.startswith("negative") else 60,
            fontsize=6,
            color=_FOUND,
        )
        rows.append((name, [a - b for a, b in zip(form.found_reward, base, strict=True)]))
    plane.set_aspect("equal")
    plane.set_xlim(-1.6, 4.9)  # room for the legend
    plane.set_xlabel("along u")
    plane.legend(fontsize=6, loc="center right")
    bars(gains, rows)
    gains.set_xlabel("reward against positive-only")


def _draw_shapes(runs: dict[str, Runs], canvas: Canvas) -> None:
    weights, rewards = axes_of(canvas, 2)
    shapes = runs["shapes"]
    strong = max(arm.alpha for arm in shapes.arms.values())
    distance = torch.linspace(0, 12, 400)
    start = cu1.negative_remoteness()
    for low, high in ((start[0], start[1]), (start[3], start[4])):
        weights.axvspan(low, high, color="#999999", alpha=0.2, linewidth=0)
    for name, arm in shapes.arms.items():
        kind = name.rsplit(",", 1)[0]
        if arm.taper is not None and arm.alpha == strong:
            curve = make_taper(arm.taper)(distance)
            weights.plot(distance.tolist(), curve.tolist(), color=colour_of(kind), label=kind)
    weights.axhline(0.5, color=colour_of("global scale"), label="global scale")
    weights.set_xlabel("remoteness D")
    weights.set_ylabel("w")
    weights.legend(fontsize=7)
    bars(rewards, [(name, shapes.late("reward", name)) for name in shapes.arms])
    base = runs["response"].late("reward", runs["response"].first)
    rewards.axvline(
        mean_interval(base).mean, color=colour_of("positive-only"), linestyle=":", linewidth=1.5
    )
    rewards.set_xlabel("held-out reward")


def _draw_sigma(runs: Runs, canvas: Canvas) -> None:
    spread, reward = axes_of(canvas, 2)
    plain = iter(SERIES[3:])
    for name in runs.arms:
        colour = colour_of(name)
        if colour == PLAIN:
            colour = next(plain, colour)
        style = {"color": colour, "label": name, "linewidth": 1.3}
        spread.plot(runs.steps, [_finite(v) for v in runs.curve("log_sigma", name)], **style)
        reward.plot(runs.steps, [_finite(v) for v in runs.curve("reward", name)], **style)
    spread.axhline(-12, color="#000000", linestyle=":", linewidth=1)
    spread.set_ylabel("log sigma")
    reward.set_ylabel("held-out reward")
    for axes in (spread, reward):
        axes.set_xlabel("gradient steps")
    canvas.legend(
        *reward.get_legend_handles_labels(), fontsize=6, loc="outside lower center", ncols=5
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
