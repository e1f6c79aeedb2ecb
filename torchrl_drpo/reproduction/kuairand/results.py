"""From the cells of ``kuairand`` to numbers: what each method reached, and what the tests say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchrl_drpo.evaluation.statistics import (
    Interval,
    corrected_p_values,
    mean_interval,
    paired_interval,
)
from torchrl_drpo.pipeline.table import metrics_from_json
from torchrl_drpo.reproduction.kuairand.frontier import (
    Point,
    best_within,
    contribution,
    dominated_area,
)
from torchrl_drpo.reproduction.kuairand.methods import METHODS
from torchrl_drpo.reproduction.target import Results

HITS, LIFT, GAUC = "hr@50_best", "lift@50", "gauc_quality"
#: What the dominance table compares with: the baseline to beat.
BASELINE = "positive-only"
#: Shares of BC's hit rate that a user may insist on.
SHARES = (0.95, 0.9, 0.8)

#: By method and strength, the metrics of each seed.
Runs = Mapping[tuple[str, float], Sequence[Mapping[str, float]]]


@dataclass(frozen=True)
class Choice:
    """A strength that was chosen on the tuning days, and what it is worth on the test days.

    Attributes:
        strength: of the method's parameter.
        tuning_lift: by which it was chosen.
        lift: on the test days.
        hits: hit rate on the test days as a share of BC's, paired by seed.
    """

    strength: float
    tuning_lift: float
    lift: Interval
    hits: Interval


@dataclass(frozen=True)
class Frontier:
    """What a method's path is worth against the others', on the test days.

    Attributes:
        area: dominated in hit rate and the other goal, in thousandths.
        above: its difference from :data:`BASELINE`'s, paired by seed.
        p: that this is chance, Holm-corrected over the methods.
        alone: what all methods' common frontier would lack without it, in thousandths.
    """

    area: Interval
    above: Interval
    p: float
    alone: Interval


def runs_of(results: Results, part: str) -> Runs:
    """The training cells of a part of the log that are there."""
    out = {}
    for name, record in results.items():
        settings = record["settings"]
        if name.startswith(f"{part}-"):
            key = settings["name"], float(settings["strength"])
            out[key] = [metrics_from_json(seed) for seed in record["result"]["metrics"]]
    order = {method.name: number for number, method in enumerate(METHODS)}
    values = {m.name: m.values for m in METHODS}
    place = lambda key: (order[key[0]], values[key[0]].index(key[1]))  # noqa: E731
    return {key: out[key] for key in sorted(out, key=place)}


def methods_in(runs: Runs) -> list[str]:
    """Names of the methods, in order."""
    return list(dict.fromkeys(name for name, _ in runs))


def values_of(runs: Runs, key: tuple[str, float], metric: str) -> list[float]:
    """A metric of each seed."""
    return [seed[metric] for seed in runs[key]]


def interval(runs: Runs, key: tuple[str, float], metric: str) -> Interval:
    """Its mean and t interval."""
    return mean_interval(values_of(runs, key, metric))


def paired(runs: Runs, a: tuple[str, float], b: tuple[str, float], metric: str) -> Interval:
    """What a has above b, paired by seed."""
    return paired_interval(values_of(runs, a, metric), values_of(runs, b, metric))


def share_of_bc(runs: Runs, key: tuple[str, float]) -> Interval:
    """Hit rate on the best quarter as a share of BC's of the same seed."""
    mine, bc = values_of(runs, key, HITS), values_of(runs, ("BC", 0.0), HITS)
    return mean_interval([x / y for x, y in zip(mine, bc, strict=True)])


def frontiers(runs: Runs, goal: str, origin: Point) -> dict[str, Frontier]:
    """Every method's :class:`Frontier` in hit rate and one other goal.

    Args:
        runs: of the test days.
        goal: the metric beside hit rate.
        origin: a policy counts as far as it passes this goal and this hit rate.
    """
    names = methods_in(runs)
    seeds = range(len(next(iter(runs.values()))))
    areas: dict[str, list[float]] = {name: [] for name in names}
    alone: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        points = {
            name: [(own[seed][goal], own[seed][HITS]) for (n, _), own in runs.items() if n == name]
            for name in names
        }
        for name in names:
            areas[name].append(1e3 * dominated_area(points[name], origin))
            alone[name].append(1e3 * contribution(points, name, origin))
    others = {name: values for name, values in areas.items() if name != BASELINE}
    p = corrected_p_values(others, areas[BASELINE]) | {BASELINE: math.nan}
    return {
        name: Frontier(
            mean_interval(areas[name]),
            paired_interval(areas[name], areas[BASELINE]),
            p[name],
            mean_interval(alone[name]),
        )
        for name in names
    }


def choices(tuning: Runs, test: Runs, share: float) -> dict[str, Choice | None]:
    """By method, the strength of most lift that keeps ``share`` of BC's hits on the tuning days.

    ``None`` where no strength keeps it.
    """
    least = share * _mean(tuning, ("BC", 0.0), HITS)
    out: dict[str, Choice | None] = dict.fromkeys(methods_in(test))
    for name in out:
        points = {
            value: (_mean(tuning, key, LIFT), _mean(tuning, key, HITS))
            for key in tuning
            for method, value in [key]
            if method == name
        }
        best = best_within(points, least)
        if best is not None:
            key = name, best
            lift, hits = interval(test, key, LIFT), share_of_bc(test, key)
            out[name] = Choice(best, points[best][0], lift, hits)
    return out


def recommended(chosen: Mapping[str, Choice | None]) -> str:
    """The method of most lift on the tuning days; the test days are not looked at."""
    lifts = {name: choice.tuning_lift for name, choice in chosen.items() if choice is not None}
    return max(lifts, key=lambda name: lifts[name])


def _mean(runs: Runs, key: tuple[str, float], metric: str) -> float:
    return mean_interval(values_of(runs, key, metric)).mean
