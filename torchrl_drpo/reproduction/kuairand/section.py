"""The section of ``kuairand``: tables, the frontier, claims, and what to use when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.kuairand.claims import claims, plain_winner
from torchrl_drpo.reproduction.kuairand.methods import method
from torchrl_drpo.reproduction.kuairand.tables import (
    BASELINE,
    GAUC,
    HITS,
    LIFT,
    SHARES,
    Choice,
    Frontier,
    Runs,
    choices,
    frontiers,
    interval,
    methods_in,
    recommended,
    runs_of,
)
from torchrl_drpo.reproduction.target import Claim, Figure, Options, Results, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

TITLE = "A real log: every objective on KuaiRand, as frontiers"
COMMAND = "drpo reproduce kuairand --logs <folder>/log_standard_20220425_20220508.parquet"
SHOWN = {
    HITS: "HR@50 best ↑",
    "hr@50_worst": "HR@50 worst ↓",
    LIFT: "lift ↑",
    "ndcg@50_best": "NDCG@50 best ↑",
    "top100_quality": "top-100 quality ↑",
    GAUC: "GAUC quality",
    "gauc_long_view": "GAUC long view",
    "gauc_is_click": "GAUC click",
}
#: By method: colour, marker. Imitation, repulsion and OneRec's forms have a marker each.
STYLES = {
    "BC": ("#56B4E9", "*"),
    "top kappa, uniform": ("#000000", "o"),
    "positive-only": ("#E69F00", "o"),
    "DRPO, adaptive": ("#009E73", "D"),
    "DRPO, exponential": ("#66C2A4", "D"),
    "AWR": ("#8C6D31", "o"),
    "AsymRE": ("#F0A0A0", "s"),
    "global scale": ("#D55E00", "s"),
    "taper": ("#0072B2", "s"),
    "DRPO + taper": ("#7B3294", "s"),
    "GBPO": ("#999999", "^"),
    "top quarter + hated": ("#E7298A", "^"),
    "top quarter + worst, taper": ("#CC79A7", "^"),
    "top quarter + worst, GBPO": ("#B8860B", "^"),
}


def section(options: Options, results: Results) -> Section:
    """The target's part of the report, from the cells' results alone."""
    if options.logs is None:
        return _untested()
    test, tuning = runs_of(results, "test"), runs_of(results, "tuning")
    facts = results["ends"]["result"]
    popularity = facts["popularity"]
    by_lift = frontiers(test, LIFT, (1.0, popularity[HITS]))
    by_gauc = frontiers(test, GAUC, (0.5, popularity[HITS]))
    chosen = {share: choices(tuning, test, share) for share in SHARES}
    tables = [
        _all_runs(test, facts),
        _dominance(by_lift, by_gauc),
        _chosen(chosen),
    ]
    checks = _checks(results)
    return Section(
        title=TITLE,
        text=_text(test, facts, chosen, by_lift),
        tables=[*tables, checks] if checks.rows else tables,
        figures=[_figure(test, facts)],
        claims=claims(test, popularity, by_lift),
    )


def _untested() -> Section:
    claim = Claim(
        "the objectives order as they did in a first look at KuaiRand",
        "a first look at this log",
        "not tested",
        f"no log was given; `{COMMAND}` tests it",
    )
    text = f"Not tested: the log is not part of this package. `{COMMAND}` tests it."
    return Section(TITLE, text, claims=[claim])


def label(name: str, strength: float) -> str:
    """A method at a strength, for a table.

    Example:
        >>> label("taper", 1.0), label("BC", 0.0)
        ('taper, strength 1', 'BC')
    """
    parameter = method(name).strength
    return f"{name}, {parameter} {strength:g}" if parameter else name


def _all_runs(test: Runs, facts: Mapping[str, Any]) -> Table:
    rows = [
        [end, *(f"{facts[end][metric]:.3f}" for metric in SHOWN)]
        for end in ("random", "popularity")
    ]
    rows += [[label(*key), *(str(interval(test, key, metric)) for metric in SHOWN)] for key in test]
    seeds = len(next(iter(test.values())))
    return Table(
        f"{facts['test_rows']:,} held-out rows, {seeds} seeds, 95% t intervals",
        ["policy", *SHOWN.values()],
        rows,
        note="Each held-out row's item is ranked among the whole catalogue of "
        f"{facts['items']:,}. Best and worst are the quarters by quality; lift is the ratio of "
        "their hit rates. GAUC is the AUC within users.",
    )


def _dominance(by_lift: Mapping[str, Frontier], by_gauc: Mapping[str, Frontier]) -> Table:
    rows = []
    for name, front in by_lift.items():
        row = [name]
        for one in (front, by_gauc[name]):
            baseline = name == BASELINE
            row += [
                _short(one.area),
                "" if baseline else _short(one.above),
                "" if baseline else _p(one.p),
                _short(one.alone),
            ]
        rows.append(row)
    head = ["area", f"above {BASELINE}", "Holm p", "alone"]
    return Table(
        "Frontiers: area dominated in hit rate and lift, then in hit rate and GAUC of quality",
        ["method", *(f"{name}, lift" for name in head), *(f"{name}, GAUC" for name in head)],
        rows,
        note="Thousandths of (hit rate x lift) beyond popularity's hit rate and lift 1, or GAUC "
        f".5: what is worse than popularity counts nothing. Above: less the area of {BASELINE}, "
        "paired by seed; p of that, corrected over the methods. Alone: what the common frontier of "
        "all methods would lack without this one. A path of more strengths has more chances.",
    )


def _chosen(chosen: Mapping[float, Mapping[str, Choice | None]]) -> Table:
    rows = []
    for name in next(iter(chosen.values())):
        row = [name]
        for by_method in chosen.values():
            choice = by_method[name]
            if choice is None:
                row += ["none", "", ""]
                continue
            strength = f"{choice.strength:g}" if method(name).strength else ""
            row += [strength, str(choice.lift), str(choice.hits)]
        rows.append(row)
    header = ["method"]
    for share in chosen:
        header += [f"setting for {share:.0%}", "lift", "share of BC's hits"]
    return Table(
        "The most lift that keeps a share of BC's hits",
        header,
        rows,
        note="Settings are chosen on days inside the training period, with another seed; lift and "
        "hits are those of the test days. None: no setting keeps that share on the tuning days.",
    )


def _checks(results: Results) -> Table:
    rows = []
    for kind, what in (("schedule", "1,200 steps of 1,024"), ("precision", "float32")):
        again = runs_of(results, kind)
        here = runs_of(results, "tuning")
        for key in again:
            pairs = [
                (interval(here, key, metric).mean, interval(again, key, metric).mean)
                for metric in (HITS, LIFT, GAUC)
            ]
            rows.append([label(*key), what, *(f"{a:.3f} / {b:.3f}" for a, b in pairs)])
    return Table(
        "The same run as here / otherwise, on the tuning days, one seed",
        ["policy", "otherwise", SHOWN[HITS], SHOWN[LIFT], SHOWN[GAUC]],
        rows,
        note="Here: 1,000 steps of 256 rows, the softmax of the training step in bfloat16.",
    )


def _text(
    test: Runs,
    facts: Mapping[str, Any],
    chosen: Mapping[float, Mapping[str, Choice | None]],
    by_lift: Mapping[str, Frontier],
) -> str:
    parts = [
        f"KuaiRand-Pure, two weeks: {facts['train_rows']:,} training rows (11 days), "
        f"{facts['test_rows']:,} test rows (the last 3), quality = percentile of play time among "
        "videos of like duration, fitted on the training rows. Every method is a path along its "
        "own strength. Settings were chosen on days inside the training period. Explicit dislikes "
        f"are rare ({facts['hated_rows']} training rows carry `is_hate`), so OneRec-V2's recipe "
        "runs with them and, besides, with the worst quarter by quality in their place. CRR "
        "without a critic is the top half; TOPR, BPPO and ECPO weigh by logged propensities, which "
        "this log does not have. A policy is evaluated once, after its last step."
    ]
    advice = ["**Which objective when.**"]
    for share, by_method in chosen.items():
        name = recommended(by_method)
        choice = by_method[name]
        assert choice is not None  # recommended() returns one that was chosen
        advice.append(
            f"To keep {share:.0%} of BC's hits: {label(name, choice.strength)} (lift "
            f"{choice.lift}, {choice.hits} of BC's hits on the test days)."
        )
    largest = max(by_lift, key=lambda name: by_lift[name].area.mean)
    advice.append(f"The largest frontier in hit rate and lift is that of {largest}.")
    plain = plain_winner(test)
    advice.append(
        f"Plain hit rate over all rows, good and bad, would have chosen {label(*plain)} (lift "
        f"{interval(test, plain, LIFT)})."
    )
    return "\n\n".join([*parts, " ".join(advice)])


def _figure(test: Runs, facts: Mapping[str, Any]) -> Figure:
    return Figure(
        name="kuairand_frontiers",
        caption="Hit rate@50 on the best quarter against lift and against GAUC of quality, 95% t "
        "intervals; each method along its own strength. Up and to the right is better. Dotted: "
        "popularity.",
        draw=partial(draw_frontiers, test=test, popularity=facts["popularity"]),
        size=(9.0, 3.9),
    )


def draw_frontiers(canvas: Canvas, test: Runs, popularity: Mapping[str, float]) -> None:
    """Draws hit rate against lift and against GAUC, a path a method."""
    panels = canvas.subplots(1, 2, sharey=True)
    for axes, goal, title in zip(
        panels, (LIFT, GAUC), ("lift (best / worst quarter)", "GAUC of quality"), strict=True
    ):
        for name in methods_in(test):
            keys = [key for key in test if key[0] == name]
            x = [interval(test, key, goal) for key in keys]
            y = [interval(test, key, HITS) for key in keys]
            colour, marker = STYLES[name]
            axes.errorbar(
                [one.mean for one in x],
                [one.mean for one in y],
                xerr=[_width(one) for one in x],
                yerr=[_width(one) for one in y],
                color=colour,
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


def _short(value: Interval) -> str:
    return f"{value.mean:.1f} ± {value.half_width:.1f}"


def _p(value: float) -> str:
    return "" if math.isnan(value) else "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")
