"""Tables of ``kuairand``: every policy, the frontiers, what to choose, and what was checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torchrl_drpo.report.formats import plus_minus
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.kuairand.choices import Choices
from torchrl_drpo.reproduction.kuairand.methods import PATHS, label
from torchrl_drpo.reproduction.kuairand.paths import Key
from torchrl_drpo.reproduction.kuairand.results import (
    BASELINE,
    BC,
    GAUC,
    GAUC_WITHIN,
    HITS,
    LIFT,
    LOWEST,
    LOWEST_ROWS,
    POSITIVE,
    WITHIN,
    Frontier,
    Runs,
    difference,
    interval,
    over_users,
    runs_of,
    values_of,
)
from torchrl_drpo.reproduction.target import Results

SHOWN = {
    HITS: "HR@50 best ↑",
    "hr@50_worst": "HR@50 worst ↓",
    LIFT: "lift ↑",
    WITHIN: "lift within tabs ↑",
    LOWEST: "HR@50 best, lowest tab ↑",
    GAUC: "GAUC quality ↑",
    GAUC_WITHIN: "GAUC within user and tab ↑",
    "gauc_best_worst_within": "best against worst ↑",
}


def all_runs(test: Runs, facts: Mapping[str, Any]) -> Table:
    """Every policy of every path, between the rankings that need no policy."""
    rows = [
        [end, *(_end(facts[end], metric) for metric in SHOWN)] for end in ("random", "popularity")
    ]
    rows += [[label(key), *(_cell(test, key, metric) for metric in SHOWN)] for key in test]
    seeds = len(next(iter(test.values())).seeds)
    return Table(
        f"{facts['test_rows']:,} held-out rows, {seeds} seeds, 95% t intervals",
        ["policy", *SHOWN.values()],
        rows,
        note="Each held-out row's item is ranked among the whole catalogue of "
        f"{facts['items']:,}. Best and worst are the quarters by quality; lift is the ratio of "
        "their hit rates, within tabs at one mix of tabs. The lowest tab is the one, of those with "
        "100 best rows, where these are hit least: the first interval is over seeds, the second "
        "over users (jackknife), and in brackets are its best rows. GAUC is the AUC within users, "
        "GAUC within user and tab that of rows of one tab; the last column orders the best quarter "
        "against the worst there.",
    )


def _end(metrics: Mapping[str, float], metric: str) -> str:
    shown = f"{metrics[metric]:.3f}"
    return f"{shown} ({metrics[LOWEST_ROWS]:.0f} rows)" if metric == LOWEST else shown


def _cell(runs: Runs, key: Key, metric: str) -> str:
    shown = str(interval(runs, key, metric))
    if metric != LOWEST:
        return shown
    rows = sorted({round(value) for value in values_of(runs, key, LOWEST_ROWS)})
    users = over_users(runs, key, metric).half_width
    second = "" if math.isnan(users) else f" ± {users:.3f}"
    return f"{shown}{second} ({' or '.join(map(str, rows))} rows)"


def dominance(by_within: Mapping[str, Frontier], by_lift: Mapping[str, Frontier]) -> Table:
    """What each path dominates, and what it adds to the others."""
    rows = []
    for name, front in by_within.items():
        row = [name]
        for one in (front, by_lift[name]):
            baseline = name == BASELINE
            row += [
                plus_minus(one.area, ".1f"),
                "" if baseline else plus_minus(one.above, ".1f"),
                "" if baseline else _p(one.p),
                plus_minus(one.alone, ".1f"),
            ]
        rows.append(row)
    head = ["area", f"above {BASELINE}", "Holm p", "alone"]
    return Table(
        "Frontiers: area dominated in hit rate and lift within tabs, then in hit rate and lift",
        ["path", *(f"{name}, within" for name in head), *(f"{name}, lift" for name in head)],
        rows,
        note="Thousandths of (hit rate x lift) beyond popularity's hit rate and lift 1: what is "
        f"worse than popularity counts nothing. Above: less the area of {BASELINE}, "
        "paired by seed; p of that, corrected over the paths. Alone: what the common frontier of "
        "all paths would lack without this one. A path of more strengths has more chances.",
    )


def chosen_settings(chosen: Mapping[float, Choices]) -> Table:
    """By share of BC's hits, the strength that was chosen, and what it is worth."""
    rows = []
    for name in next(iter(chosen.values())):
        row = [name]
        for by_path in chosen.values():
            choice = by_path[name]
            if choice is None:
                row += ["none", "", ""]
                continue
            strength = f"{choice.key[1]:g}" if PATHS[name].strength else ""
            row += [strength, str(choice.within), str(choice.hits)]
        rows.append(row)
    header = ["path"]
    for share in chosen:
        header += [f"setting for {share:.0%}", "lift within tabs", "share of BC's hits"]
    return Table(
        "The most lift within tabs that keeps a share of BC's hits",
        header,
        rows,
        note="Settings are chosen on days inside the training period, with another seed; lift and "
        "hits are those of the test days. None: no setting keeps that share on the tuning days.",
    )


def against(runs: Runs, chosen: Mapping[float, Choices]) -> Table:
    """All choices, less BC and less positive-only, on the test days."""
    policies: dict[Key, list[str]] = {}
    for share, by_path in chosen.items():
        for choice in by_path.values():
            if choice is not None and choice.key != BC:
                policies.setdefault(choice.key, []).append(f"{share:.0%}")
    compared = ((HITS, BC), (WITHIN, POSITIVE), (GAUC_WITHIN, BC), (GAUC_WITHIN, POSITIVE))
    columns = (*compared, (LOWEST, BC))
    rows = [
        [
            label(key),
            " ".join(shares),
            *(str(difference(runs, key, other, metric).both) for metric, other in columns),
        ]
        for key, shares in sorted(policies.items(), key=lambda item: list(runs).index(item[0]))
    ]
    names_of = {HITS: "hits", WITHIN: "lift within", GAUC_WITHIN: "GAUC within"}
    return Table(
        "What was chosen on the tuning days, against BC and positive-only on the test days",
        [
            "policy",
            "chosen for",
            *(f"{names_of.get(metric, 'lowest tab')} - {other[0]}" for metric, other in columns),
        ],
        rows,
        note="Differences on the same seeds and users; 95% intervals over both: each half width is "
        "the root of the sum of squares of the one over seeds and the one over users (jackknife).",
    )


def checks(results: Results) -> Table:
    """What a longer schedule and float32 change; no rows in a quick run."""
    rows = []
    here = runs_of(results, "tuning")
    for kind, what in (("schedule", "1,200 steps of 1,024"), ("precision", "float32")):
        again = runs_of(results, kind)
        for key in again:
            if key not in here:
                continue
            pairs = [
                (interval(here, key, metric).mean, interval(again, key, metric).mean)
                for metric in (HITS, WITHIN, GAUC_WITHIN)
            ]
            rows.append([label(key), what, *(f"{a:.3f} / {b:.3f}" for a, b in pairs)])
    used = sorted(
        {
            record["result"]["precision"]
            for name, record in results.items()
            if name.startswith("tuning-")
        }
    )
    return Table(
        "The same run as here / otherwise, on the tuning days, one seed",
        ["policy", "otherwise", SHOWN[HITS], SHOWN[WITHIN], SHOWN[GAUC_WITHIN]],
        rows,
        note="Here: 1,000 steps of 256 rows, the softmax of the training step in "
        f"{' or '.join(used)}.",
    )


def _p(value: float) -> str:
    return "" if math.isnan(value) else "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")
