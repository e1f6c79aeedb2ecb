"""Tables of ``kuairand``: every run, the frontiers, what to choose, and what was checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torchrl_drpo.report.formats import plus_minus
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.kuairand.methods import label, method
from torchrl_drpo.reproduction.kuairand.results import (
    BASELINE,
    GAUC,
    HITS,
    LIFT,
    Choice,
    Frontier,
    Runs,
    interval,
    runs_of,
)
from torchrl_drpo.reproduction.target import Results

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


def all_runs(test: Runs, facts: Mapping[str, Any]) -> Table:
    """Every method at every strength, between the rankings that need no policy."""
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


def dominance(by_lift: Mapping[str, Frontier], by_gauc: Mapping[str, Frontier]) -> Table:
    """What each method's path dominates, and what it adds to the others."""
    rows = []
    for name, front in by_lift.items():
        row = [name]
        for one in (front, by_gauc[name]):
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
        "Frontiers: area dominated in hit rate and lift, then in hit rate and GAUC of quality",
        ["method", *(f"{name}, lift" for name in head), *(f"{name}, GAUC" for name in head)],
        rows,
        note="Thousandths of (hit rate x lift) beyond popularity's hit rate and lift 1, or GAUC "
        f".5: what is worse than popularity counts nothing. Above: less the area of {BASELINE}, "
        "paired by seed; p of that, corrected over the methods. Alone: what the common frontier of "
        "all methods would lack without this one. A path of more strengths has more chances.",
    )


def chosen_settings(chosen: Mapping[float, Mapping[str, Choice | None]]) -> Table:
    """By share of BC's hits, the strength that was chosen, and what it is worth."""
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


def checks(results: Results) -> Table:
    """What a longer schedule and float32 change; no rows in a quick run."""
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


def _p(value: float) -> str:
    return "" if math.isnan(value) else "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")
