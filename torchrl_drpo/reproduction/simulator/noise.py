"""Target ``noise``: what random rows in the log do to each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torchrl_drpo.evaluation.statistics import paired_interval
from torchrl_drpo.report.formats import signed, spread
from torchrl_drpo.report.plots import axes_of, draw_line
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.simulator.results import late, mean
from torchrl_drpo.reproduction.simulator.runs import METHODS, method_cell
from torchrl_drpo.reproduction.target import (
    Cell,
    Claim,
    Figure,
    Options,
    Results,
    Section,
    Target,
    verdict,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

#: Share of random rows; expert and popularity logger share the rest as in the medium mixture.
LEVELS = (0.0, 0.4, 0.8, 0.95)
EXPERT = 1 / 7
COMPARED = ("DRPO", "AWR", "AsymRE", "BC", "positive-only", "tapered")
STEPS = 1_500
#: A method is called flat when it keeps this share of its noise-free reward above random.
FLAT = 0.9


def cells(options: Options) -> Sequence[Cell]:
    """Every method at every level."""
    return [
        method_cell("noise", _name(name, level), METHODS[name], _setup(level), options,
                    steps=STEPS, evaluations=15)
        for level in LEVELS
        for name in COMPARED
    ]  # fmt: skip


def _setup(level: float) -> dict[str, object]:
    expert = round((1 - level) * EXPERT, 6)
    shares = [expert, round(1 - level - expert, 6), level]
    return {"setting": "table", "scenario": None, "shares": shares, "users": 512}


def _name(method: str, level: float) -> str:
    return f"{method.replace(' ', '-')}.{round(100 * level)}"


def kept(results: Results, method: str, level: float) -> float:
    """Share of the noise-free reward above a random policy that is left at a level."""
    cell = _name(method, level)
    floors = [
        sum(ends) / len(ends)
        for ends in (results[c]["result"]["ends"]["random"] for c in (cell, _name(method, 0.0)))
    ]
    return (mean(results, cell) - floors[0]) / (mean(results, _name(method, 0.0)) - floors[1])


def section(options: Options, results: Results) -> Section:
    """Reward against noise, the share that is left, and who falls."""
    by_level = {name: [late(results, _name(name, level)) for level in LEVELS] for name in COMPARED}
    left = {name: kept(results, name, 0.8) for name in COMPARED}
    first = results[_name("DRPO", 0.0)]["settings"]
    text = (
        "The share of rows from the random logger grows from 0 to 95%; expert and popularity "
        "logger share the rest 1 to 6, as in the medium mixture. Table setting, "
        f"{len(first['seeds'])} seeds, {first['schedule']['steps']:,} steps instead of the 5,000 "
        "of table 1, 512 users. At 80% noise DRPO keeps "
        f"{left['DRPO']:.0%} of its noise-free reward above the random policy's, AWR "
        f"{left['AWR']:.0%}, AsymRE {left['AsymRE']:.0%}, positive-only learning "
        f"{left['positive-only']:.0%} and the tapered signed loss {left['tapered']:.0%}."
    )
    return Section(
        "Noise injection",
        text,
        tables=[_table(results, by_level)],
        figures=[
            Figure(
                "noise",
                "Reward against the share of random rows, with 95% intervals over seeds. Left: "
                "retrieved item; right: the raw mean action.",
                lambda canvas: _draw(canvas, results),
            )
        ],
        claims=_claims(results, by_level, left),
    )


def _table(results: Results, by_level: Mapping[str, Sequence[Sequence[float]]]) -> Table:
    rows = [
        [name, *(spread(values) for values in found), f"{kept(results, name, 0.8):.0%}",
         f"{kept(results, name, LEVELS[-1]):.0%}"]
        for name, found in by_level.items()
    ]  # fmt: skip
    levels = [f"{level:.0%} noise" for level in LEVELS]
    return Table(
        "Retrieved reward by noise",
        ["method", *levels, "left at 80%", f"left at {LEVELS[-1]:.0%}"],
        rows,
        emphasis=[0],
        note="left: share of the noise-free reward above the random policy's.",
    )


def _claims(
    results: Results, by_level: Mapping[str, Sequence[Sequence[float]]], left: Mapping[str, float]
) -> list[Claim]:
    where = "arXiv 2602.10430, noise injection"
    at = LEVELS.index(0.8)
    drop = {name: paired_interval(found[at], found[0]) for name, found in by_level.items()}
    ahead = {
        name: paired_interval(by_level[name][at], by_level["DRPO"][at])
        for name in by_level
        if name != "DRPO"
    }
    soft = ("AWR", "AsymRE")
    return [
        Claim(
            "DRPO stays flat from 0 to 80% noise",
            where,
            verdict([left["DRPO"] >= FLAT]),
            f"it keeps {left['DRPO']:.0%} of its reward above random ({signed(drop['DRPO'])}); "
            f"flat would be {FLAT:.0%}",
        ),
        Claim(
            "AWR and AsymRE fall with noise, further than DRPO",
            where,
            verdict([drop[name].below() and left[name] < left["DRPO"] for name in soft]),
            "; ".join(f"{name} keeps {left[name]:.0%}" for name in (*soft, "DRPO")),
        ),
        Claim(
            "At 80% noise DRPO is ahead of AWR and AsymRE",
            where,
            verdict([ahead[name].below() for name in soft]),
            "; ".join(f"{name} against DRPO {signed(ahead[name])}" for name in soft),
        ),
        Claim(
            "At 80% noise DRPO is ahead of positive-only and of tapered signed learning",
            "the strongest simple opponents, not in the paper",
            verdict([ahead[name].below() for name in ("positive-only", "tapered")]),
            "; ".join(
                f"{name} against DRPO {signed(ahead[name])}"
                for name in ("positive-only", "tapered")
            ),
        ),
    ]


def _draw(canvas: Canvas, results: Results) -> None:
    left, right = axes_of(canvas, 2)
    for axes, metric, title in (
        (left, "retrieved_reward", "reward of the retrieved item"),
        (right, "raw_reward", "reward of the raw mean action"),
    ):
        for name in COMPARED:
            rows = [late(results, _name(name, level), metric) for level in LEVELS]
            draw_line(axes, [100 * level for level in LEVELS], rows, name)
        axes.set_title(title)
        axes.set_xlabel("random rows, %")
    left.legend(fontsize=7)


TARGET = Target("noise", "noise injection from 0 to 95% random rows", cells, section)
