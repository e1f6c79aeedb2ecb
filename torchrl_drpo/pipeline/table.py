"""The offline table: runs over seeds to means with intervals, for people and for machines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torchrl_drpo.evaluation.contexts import BEST_ROWS_NEEDED
from torchrl_drpo.evaluation.statistics import Interval, mean_interval
from torchrl_drpo.report.tables import Table

Metrics = Mapping[str, float]
#: By method and metric, the mean over seeds with its t interval.
Summary = Mapping[str, Mapping[str, Interval]]

NOTE = (
    "Each held-out row's item is ranked in the full catalogue. Best and worst rows are the "
    "quarters by quality; lift is the ratio of their hit rates and says nothing by itself where "
    "the hit rate on the best rows is low. GAUC is the AUC within users. A row has one item, so "
    "its hit rate is its recall."
)
#: What the note says besides where a log has contexts.
CONTEXT_NOTE = (
    "Lift within contexts gives best and worst rows one mix of contexts: it is 1 for a policy that "
    "merely hits less in those where more is skipped. GAUC within contexts compares rows of one "
    "user in one context; GAUC alone rises for a policy that merely scores all of a poor context "
    "low. The lowest context is the one, of those with "
    f"at least {BEST_ROWS_NEEDED} best rows, where these are hit least; how many they are stands "
    "beside it."
)


def summarise(
    runs: Mapping[str, Sequence[Metrics]],
    half_widths: Mapping[str, Metrics] | None = None,
    confidence: float = 0.95,
) -> dict[str, dict[str, Interval]]:
    """Mean and t interval of every metric of every method over its seeds.

    Args:
        runs: by method, the metrics of each seed.
        half_widths: of the intervals of methods with one seed, where something else has any.
        confidence: coverage of the others, in (0, 1).

    Example:
        >>> print(summarise({"bc": [{"lift": 0.9}, {"lift": 1.1}]})["bc"]["lift"])
        1.000 ± 1.271
    """
    found = {
        method: {
            name: mean_interval([seed[name] for seed in seeds], confidence) for name in seeds[0]
        }
        for method, seeds in runs.items()
    }
    for method, widths in (half_widths or {}).items():
        for name, width in widths.items():
            found[method][name] = found[method][name]._replace(half_width=width)
    return found


def differences(
    runs: Mapping[str, Sequence[Metrics]], reference: str, confidence: float = 0.95
) -> dict[str, dict[str, Interval]]:
    """What each method has above ``reference``, paired by seed.

    Seeds share the order of the batches and the initial policy, so differences vary less than
    the methods do. Methods with another number of seeds (random, popularity) are left out.

    Example:
        >>> runs = {"bc": [{"lift": 0.9}, {"lift": 1.1}], "drpo": [{"lift": 1.2}, {"lift": 1.4}]}
        >>> print(differences(runs, "bc")["drpo"]["lift"])
        0.300 ± 0.000
    """
    base = runs[reference]
    return {
        method: {
            name: mean_interval(
                [a[name] - b[name] for a, b in zip(seeds, base, strict=True)], confidence
            )
            for name in base[0]
        }
        for method, seeds in runs.items()
        if method != reference and len(seeds) == len(base)
    }


def table(
    summary: Summary,
    title: str,
    k: int,
    *,
    upright: bool = False,
    further: Mapping[str, Mapping[str, str]] | None = None,
    note: str | None = None,
    remark: str = "",
) -> Table:
    """The table: a row a method, or (``upright``, for narrow terminals) a row a metric.

    Args:
        summary: of at least one method.
        title: what was evaluated.
        k: list length of the hit rates shown.
        upright: see above.
        further: columns that are text already, cells of each method by heading.
        note: in place of what is said of the metrics.
        remark: beside it.
    """
    further = further or {}
    known = [
        name
        for name in next(iter(summary.values()))
        if not all(math.isnan(values[name].mean) for values in summary.values())
    ]
    shown = _headings(known, k)
    if note is None:
        note = f"{NOTE} {CONTEXT_NOTE}" if f"lift@{k}_within" in shown else NOTE
    note = f"{note} {remark}".strip()
    if upright:
        body = [
            [heading, *(_cell(values, name) for values in summary.values())]
            for name, heading in shown.items()
        ]
        body += [
            [heading, *(cells.get(method, "") for method in summary)]
            for heading, cells in further.items()
        ]
        return Table(title, ["metric", *_names(summary)], body, note=note)
    body = [
        [
            name,
            *(_cell(values, n) for n in shown),
            *(cells.get(method, "") for cells in further.values()),
        ]
        for name, (method, values) in zip(_names(summary), summary.items(), strict=True)
    ]
    return Table(title, ["policy", *shown.values(), *further], body, note=note)


def summary_json(summary: Summary) -> dict[str, Any]:
    """The summary as strict JSON data; see :func:`number`."""
    return {
        method: {
            name: {"mean": number(v.mean), "half_width": number(v.half_width), "runs": v.count}
            for name, v in values.items()
        }
        for method, values in summary.items()
    }


def summary_from_json(summary: Mapping[str, Any]) -> dict[str, dict[str, Interval]]:
    """The summary that :func:`summary_json` was given.

    Example:
        >>> summary = {"bc": {"mrr": Interval(0.5, 0.1, 3)}}
        >>> summary_from_json(summary_json(summary)) == summary
        True
    """
    return {
        method: {
            name: Interval(number_from(each["mean"]), number_from(each["half_width"]), each["runs"])
            for name, each in values.items()
        }
        for method, values in summary.items()
    }


def metrics_json(metrics: Metrics) -> dict[str, float | str | None]:
    """Metrics as strict JSON data, which :func:`metrics_from_json` reads; see :func:`number`."""
    return {name: number(value) for name, value in metrics.items()}


def metrics_from_json(metrics: Mapping[str, float | str | None]) -> dict[str, float]:
    """The metrics that :func:`metrics_json` was given.

    Example:
        >>> metrics_from_json({"lift": "inf", "gauc": None, "hr": 0.5})
        {'lift': inf, 'gauc': nan, 'hr': 0.5}
    """
    return {name: number_from(value) for name, value in metrics.items()}


def number(value: float) -> float | str | None:
    """A number as strict JSON data: infinities are strings and NaN is ``None``.

    JSON has neither. A lift over no worst hit is infinite, and not the same as an unknown one.

    Example:
        >>> [number(value) for value in (0.5, math.inf, -math.inf, math.nan)]
        [0.5, 'inf', '-inf', None]
    """
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def number_from(value: float | str | None) -> float:
    """The number that :func:`number` was given."""
    return math.nan if value is None else float(value)


def _names(summary: Summary) -> list[str]:
    """What methods are called: those by reference by its last part, where that tells them apart."""
    short = [method.rpartition(":")[2] for method in summary]
    return short if len(set(short)) == len(short) else list(summary)


def _cell(values: Mapping[str, Interval], name: str) -> str:
    """A metric, with the number of rows behind it where that is known."""
    rows = values.get(f"{name}_rows")
    if rows is None or math.isnan(values[name].mean):
        return str(values[name])
    same = math.isnan(rows.half_width) or rows.half_width == 0  # of all seeds
    return f"{values[name]} ({'' if same else 'about '}{rows.mean:,.0f} rows)"


def _headings(metrics: Sequence[str], k: int) -> dict[str, str]:
    """Metrics of the table and what they are called there, in order."""
    wanted = {
        f"hr@{k}_best": f"HR@{k} best ↑",
        f"hr@{k}_worst": f"HR@{k} worst ↓",
        f"lift@{k}": "lift ↑",
        f"lift@{k}_within": "lift within contexts ↑",
        f"hr@{k}_best_lowest": f"HR@{k} best, lowest context ↑",
        f"ndcg@{k}_best": f"NDCG@{k} best ↑",
        "top100_quality": "top-100 quality ↑",
        f"hr@{k}": f"HR@{k} (recall) ↑",
        f"ndcg@{k}": f"NDCG@{k} ↑",
        "mrr": "MRR ↑",
    }
    wanted |= {
        "gauc_quality": "GAUC quality",
        "gauc_quality_within": "GAUC quality within contexts",
    }
    labels = [m for m in metrics if m.startswith("gauc_") and not m.endswith("_warm")]
    wanted |= {
        m: "GAUC " + m[5:].replace("_", " ")
        for m in labels
        if m not in wanted and m != "gauc_best_worst_within"  # that one is for machines
    }
    for name in (f"hr@{k}_best", f"hr@{k}_worst", f"lift@{k}", f"hr@{k}"):
        heading, arrow = wanted[name].rsplit(" ", 1)
        wanted[f"{name}_warm"] = f"{heading}, warm rows {arrow}"
    return {name: heading for name, heading in wanted.items() if name in metrics}
