"""Target ``table1``: ten methods on two logging mixtures, beside the published table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.controlled.results import interval, signed, versus
from torchrl_drpo.reproduction.published import ECPM, TABLE1
from torchrl_drpo.reproduction.simulator.runs import METHODS, method_cell
from torchrl_drpo.reproduction.simulator.simulated import (
    COLOUR,
    axes_of,
    corrected,
    curve,
    end,
    gap,
    late,
    mean,
)
from torchrl_drpo.reproduction.simulator.table1 import closest as table1_closest
from torchrl_drpo.reproduction.simulator.table1.claims import claims
from torchrl_drpo.reproduction.target import (
    Cell,
    Figure,
    Options,
    Results,
    Section,
    Target,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SCENARIOS = ("medium", "extreme")
#: In the order in which they are computed.
COMPARED = (
    "DRPO",
    "Adaptive BC",
    "DRPO-Exp",
    "BC",
    "AWR",
    "IQL",
    "AsymRE",
    "BPPO",
    "APG",
    "CRR",
)
#: In the order of the table.
SHOWN = ("APG", "BC", "CRR", "BPPO", "AWR", "IQL", "AsymRE", "Adaptive BC", "DRPO-Exp", "DRPO")


def cells(options: Options) -> Sequence[Cell]:
    """Every method on every mixture, at the paper's hyperparameters."""
    own = [
        method_cell(
            "table1",
            name_of(name, scenario),
            METHODS[name],
            {"setting": "table", "scenario": scenario},
            options,
        )
        for name in COMPARED
        for scenario in SCENARIOS
    ]
    return [*own, *table1_closest.cells(options)]


def name_of(method: str, scenario: str) -> str:
    """The cell of a method on a mixture."""
    return f"{scenario}.{method.replace(' ', '-')}"


def section(options: Options, results: Results) -> Section:
    """The table again, and how near it is."""
    settings = results[name_of("DRPO", "medium")]["settings"]
    rewards = {s: {name: late(results, name_of(name, s)) for name in SHOWN} for s in SCENARIOS}
    ends = [
        f"{end(results, name_of('DRPO', s), 'random'):.3f} and "
        f"{end(results, name_of('DRPO', s), 'oracle'):.3f} ({s})"
        for s in SCENARIOS
    ]
    text = (
        f"Ten methods on the table setting, {len(settings['seeds'])} seeds (world, log, users and "
        f"first weights), {settings['schedule']['steps']:,} steps of Adam at 3e-4 on batches of "
        "320, one network for all: 10 -> 128 ReLU -> 128, one log sigma vector. No number was "
        "tuned on these seeds. Numbers are means over the evaluations of the last fifth of a run, "
        "on 1,024 held-out users; intervals are 95% t intervals over seeds, differences to DRPO "
        "are paired by seed, p values are Holm's over the nine methods. A random item and the best "
        f"item earn {', '.join(ends)}."
    )
    return Section(
        "Table 1",
        text,
        tables=[
            *(_table(results, scenario, rewards[scenario]) for scenario in SCENARIOS),
            table1_closest.table(results),
        ],
        figures=[
            Figure(
                "table1",
                "Reward of the retrieved item with 95% intervals; crosses: the published table; "
                "dotted: a random item.",
                lambda canvas: _draw(canvas, results),
            ),
            Figure(
                "table1-curves",
                "Reward of the retrieved item along training, mean over seeds.",
                lambda canvas: _draw_curves(canvas, results),
            ),
        ],
        claims=[
            *claims(rewards, {s: late(results, name_of("APG", s), DISTANCE) for s in SCENARIOS}),
            table1_closest.claim(results),
        ],
    )


DISTANCE = "action_distance"


def _table(results: Results, scenario: str, rewards: dict[str, list[float]]) -> Table:
    base = rewards["DRPO"]
    p = corrected({name: values for name, values in rewards.items() if name != "DRPO"}, base)
    rows = []
    for name in SHOWN:
        cell, published = name_of(name, scenario), TABLE1[scenario].get(name)
        found = mean(results, cell)
        rows.append(
            [
                name,
                interval(rewards[name]),
                "" if published is None else f"{published:.3f}",
                "" if published is None else f"{gap(found, published):+.0%}",
                f"{ECPM * found:.2f}",
                "" if name == "DRPO" else signed(versus(rewards[name], base)),
                "" if name == "DRPO" else f"{p[name]:.3f}",
                interval(late(results, cell, "raw_reward")),
                f"{mean(results, cell, DISTANCE):.2f}",
            ]
        )
    return Table(
        f"{scenario.capitalize()} mixture",
        ["method", "reward", "paper", "gap", "eCPM", "vs DRPO", "p (Holm)", "raw", "distance"],
        rows,
        emphasis=[SHOWN.index("DRPO")],
        note="reward: of the item nearest to the mean action; raw: of the mean action itself; "
        "distance: from the mean action to the best item's embedding, both over sqrt(d).",
    )


def _draw(canvas: Canvas, results: Results) -> None:
    places = range(len(SHOWN))
    for axes, scenario in zip(axes_of(canvas, 2, sharey=True), SCENARIOS, strict=True):
        found = [mean_interval(late(results, name_of(name, scenario))) for name in SHOWN]
        axes.bar(
            places,
            [f.mean for f in found],
            yerr=[f.half_width for f in found],
            color=[COLOUR[name] for name in SHOWN],
            capsize=2,
        )
        paper = [(k, TABLE1[scenario][n]) for k, n in enumerate(SHOWN) if n in TABLE1[scenario]]
        axes.plot(*zip(*paper, strict=True), "kx", markersize=5, label="paper")
        floor = end(results, name_of("DRPO", scenario), "random")
        axes.axhline(floor, color="#777777", linestyle=":")
        axes.set_xticks(places, SHOWN, rotation=40, ha="right", fontsize=7)
        axes.set_title(f"{scenario} mixture", fontsize=10)
    canvas.axes[0].legend(fontsize=7)


def _draw_curves(canvas: Canvas, results: Results) -> None:
    for axes, scenario in zip(axes_of(canvas, 2, sharey=True), SCENARIOS, strict=True):
        for name in SHOWN:
            axes.plot(*curve(results, name_of(name, scenario)), color=COLOUR[name], label=name)
        axes.set_title(f"{scenario} mixture", fontsize=10)
        axes.set_xlabel("gradient steps")
    canvas.axes[0].legend(fontsize=6, ncols=2)


TARGET = Target("table1", "ten methods on two mixtures, beside the paper's table", cells, section)
