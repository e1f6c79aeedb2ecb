"""Target ``ablation``: the mean baseline's collapse, the soft base, the filter, its controller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchrl_drpo.evaluation.statistics import (
    corrected_p_values,
    mean_interval,
    paired_interval,
)
from torchrl_drpo.report.formats import plus_minus, signed, spread
from torchrl_drpo.report.methods import SERIES, method
from torchrl_drpo.report.plots import axes_of
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.published import ABLATION
from torchrl_drpo.reproduction.simulator.results import curve, ecpm, end, late
from torchrl_drpo.reproduction.simulator.runs import method_cell
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

SETTINGS = ("table", "collapse")
STEPS = 2_500
#: The paper's four rows, as rules.
ROWS: Mapping[str, Mapping[str, Any]] = {
    "hard filter alone": {"rule": "TopFraction", "kappa": 0.2, "weighting": "mean"},
    "soft base": {"rule": "Signed", "baseline": "min"},
    "soft base + fixed filter": {"rule": "TopFraction", "kappa": 0.2},
    "soft base + adaptive filter": {"rule": "TopFraction"},
}
#: The filter: fixed ratios, and floors under the adaptive one.
FILTERS: Mapping[str, Mapping[str, Any]] = {
    "fixed .05": {"rule": "TopFraction", "kappa": 0.05},
    "fixed .1": {"rule": "TopFraction", "kappa": 0.1},
    "fixed .4": {"rule": "TopFraction", "kappa": 0.4},
    "adaptive, floor .1": {"rule": "TopFraction", "kappa": {"bounds": [0.1, 1.0]}},
    "adaptive, floor .2": {"rule": "TopFraction", "kappa": {"bounds": [0.2, 1.0]}},
    "adaptive, floor .3": {"rule": "TopFraction", "kappa": {"bounds": [0.3, 1.0]}},
}
ADAPTIVE, FIXED, SOFT, HARD = (list(ROWS)[k] for k in (3, 2, 1, 0))
#: The last row is DRPO; the others are no methods of their own.
_COLOURS = dict(zip(ROWS, (*SERIES[2:0:-1], SERIES[0], method("drpo").colour), strict=True))


def cells(options: Options) -> Sequence[Cell]:
    """The four rows in both settings, and the filters in the table setting; extreme mixture."""
    out = [
        _cell(setting, name, rule, options) for setting in SETTINGS for name, rule in ROWS.items()
    ]
    return [*out, *(_cell("table", name, rule, options) for name, rule in FILTERS.items())]


def _cell(setting: str, name: str, rule: Mapping[str, Any], options: Options) -> Cell:
    setup = {"setting": setting, "scenario": "extreme"}
    return method_cell("ablation", _name(setting, name), rule, setup, options, steps=STEPS)


def _name(setting: str, name: str) -> str:
    words = name.replace(" + ", "-").replace(", ", "-").replace(" ", "-")
    return f"{setting}.{words}"


def section(options: Options, results: Results) -> Section:
    """The paper's four rows, then what the filter's own numbers are worth."""
    settings = results[_name("table", ADAPTIVE)]["settings"]
    adaptive, fixed = (late(results, _name("table", name)) for name in (ADAPTIVE, FIXED))
    lift = paired_interval(adaptive, fixed)
    text = (
        "The paper's ablation on the extreme mixture. 'Hard filter alone' keeps the top 20% but "
        "measures advantages from their mean, so half of what it keeps repels; the 'soft base' "
        "measures from the minimum. eCPM is five times the reward of the retrieved item. "
        f"{len(settings['seeds'])} seeds, {settings['schedule']['steps']:,} steps. In the table "
        f"setting the controller is worth {signed(lift)} of reward over the fixed 20% of the same "
        "rule" + ("." if lift.above() else ": there the adaptation is not what does the work.")
    )
    return Section(
        "Ablation",
        text,
        tables=[_rows_table(results), _filters_table(results)],
        figures=[
            Figure(
                "ablation",
                "Reward of the raw mean action along training. The mean baseline on a filtered "
                "set repels half of it.",
                lambda canvas: _draw(canvas, results),
            )
        ],
        claims=_claims(results),
    )


def _rows_table(results: Results) -> Table:
    rows = []
    for name in ROWS:
        row = [name, f"{ABLATION[name]:.2f}"]
        for setting in SETTINGS:
            cell = _name(setting, name)
            found = mean_interval(ecpm(late(results, cell)))
            row += [
                plus_minus(found, ".2f"),
                spread(late(results, cell, "raw_reward")),
                f"{mean_interval(late(results, cell, 'action_distance')).mean:.2f}",
            ]
        rows.append(row)
    header = ["variant", "paper eCPM"]
    for setting in SETTINGS:
        header += [f"{setting}: eCPM", "raw reward", "distance"]
    floors = ", ".join(
        f"{5 * end(results, _name(setting, HARD), 'random'):.2f} ({setting})"
        for setting in SETTINGS
    )
    return Table("The paper's four rows", header, rows, note=f"eCPM of a random policy: {floors}.")


def _filters_table(results: Results) -> Table:
    base = late(results, _name("table", ADAPTIVE))
    names = [FIXED, *FILTERS]
    values = {name: late(results, _name("table", name)) for name in names}
    p = corrected_p_values(values, base)
    rows = [[ADAPTIVE, spread(base), "", "", _kappa(results, ADAPTIVE)]]
    rows += [
        [name, spread(values[name]), signed(paired_interval(values[name], base)), f"{p[name]:.3f}",
         _kappa(results, name)]
        for name in names
    ]  # fmt: skip
    return Table(
        "Fixed and adaptive filters, table setting",
        ["filter", "reward", "vs adaptive", "p (Holm)", "late kappa"],
        rows,
        emphasis=[0],
        note="The paper's floor is .05, its 'fixed filter' keeps .2.",
    )


def _kappa(results: Results, name: str) -> str:
    return f"{mean_interval(late(results, _name('table', name), 'kappa')).mean:.2f}"


def _claims(results: Results) -> list[Claim]:
    where = "arXiv 2602.10430, ablation"

    def steps(better: str, worse: str) -> tuple[list[bool], str]:
        found = {
            setting: paired_interval(
                ecpm(late(results, _name(setting, better))),
                ecpm(late(results, _name(setting, worse))),
            )
            for setting in SETTINGS
        }
        words = "; ".join(f"{setting} {plus_minus(f, '+.2f')}" for setting, f in found.items())
        return [f.above() for f in found.values()], f"paired eCPM: {words}"

    hard = {s: mean_interval(ecpm(late(results, _name(s, HARD)))).mean for s in SETTINGS}
    out = [
        Claim(
            "A hard filter with the mean baseline collapses, to an eCPM of .12",
            where,
            verdict([value < 2 * ABLATION[HARD] for value in hard.values()]),
            "; ".join(f"{setting} {value:.2f}" for setting, value in hard.items())
            + f"; counted as collapse below {2 * ABLATION[HARD]:.2f}",
        )
    ]
    for statement, better, worse in (
        ("The minimum baseline repairs it: the soft base beats the hard filter alone", SOFT, HARD),
        ("A fixed filter on the soft base improves it", FIXED, SOFT),
        ("The adaptive filter improves on the fixed one", ADAPTIVE, FIXED),
    ):
        parts, words = steps(better, worse)
        out.append(Claim(statement, where, verdict(parts), words))
    return out


def _draw(canvas: Canvas, results: Results) -> None:
    for axes, setting in zip(axes_of(canvas, 2), SETTINGS, strict=True):
        for name in ROWS:
            x, y = curve(results, _name(setting, name), "raw_reward")
            axes.plot(x, y, color=_COLOURS[name], label=name)
        floor = end(results, _name(setting, HARD), "random")
        axes.axhline(floor, color=method("random").colour, linestyle=":", label="random item")
        axes.set_title(f"{setting} setting")
        axes.set_xlabel("gradient steps")
    canvas.axes[0].set_ylabel("reward of the raw mean action")
    canvas.axes[0].legend(fontsize=7)


TARGET = Target("ablation", "baseline, filter and controller of DRPO, one by one", cells, section)
