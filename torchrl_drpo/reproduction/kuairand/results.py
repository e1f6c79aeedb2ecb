"""From the cells of ``kuairand`` to numbers: what each policy reached, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torchrl_drpo.evaluation.statistics import (
    Interval,
    corrected_p_values,
    jackknife_interval,
    mean_interval,
    paired_interval,
)
from torchrl_drpo.pipeline.table import metrics_from_json
from torchrl_drpo.reproduction.kuairand.frontier import Point, contribution, dominated_area
from torchrl_drpo.reproduction.kuairand.methods import PATHS
from torchrl_drpo.reproduction.kuairand.paths import Key
from torchrl_drpo.reproduction.target import Results

HITS, LIFT, WITHIN = "hr@50_best", "lift@50", "lift@50_within"
LOWEST, LOWEST_ROWS = "hr@50_best_lowest", "hr@50_best_lowest_rows"
GAUC, GAUC_WITHIN = "gauc_quality", "gauc_quality_within"
BC: Key = ("BC", 0.0)
POSITIVE: Key = ("positive-only", 0.5)
#: What the dominance table compares with: the path to beat.
BASELINE = "positive-only"


@dataclass(frozen=True)
class Policy:
    """What a policy of a path reached.

    Attributes:
        seeds: metrics of each seed.
        without: by metric, its mean over seeds without each group of users; of the test days.
    """

    seeds: Sequence[Mapping[str, float]]
    without: Mapping[str, Sequence[float]] = field(default_factory=dict)


#: The policies of a part of the log, in the order of the tables.
Runs = Mapping[Key, Policy]


@dataclass(frozen=True)
class Difference:
    """What one policy has above another, and two intervals of it.

    Attributes:
        seeds: mean over seeds, paired by seed: what other initial policies and batches would give.
        users: the same, over groups of users (jackknife): what other users would give.
    """

    seeds: Interval
    users: Interval

    @property
    def both(self) -> Interval:
        """With a half width that covers either: the root of the sum of their squares."""
        return both(self.seeds, self.users)

    def __str__(self) -> str:
        return f"{self.both} (seeds ± {self.seeds.half_width:.3f})"


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

    @property
    def outside(self) -> bool:
        """Whether it lies outside the baseline's."""
        return self.above.mean > 0 and self.p < 0.05


def runs_of(results: Results, part: str) -> Runs:
    """The policies of a part of the log whose cells are there."""
    out: dict[Key, Policy] = {}
    for name, record in results.items():
        if not name.startswith(f"{part}-"):
            continue
        for path, by_value in record["result"]["paths"].items():
            for value, found in by_value.items():
                without = {
                    metric: list(metrics_from_json(dict(enumerate(values))).values())
                    for metric, values in found["without"].items()
                }
                seeds = [metrics_from_json(seed) for seed in found["metrics"]]
                out[path, float(value)] = Policy(seeds, without)
    order = [(path.name, value) for path in PATHS.values() for value in path.values]
    return {key: out[key] for key in order if key in out}


def methods_in(runs: Runs) -> list[str]:
    """Names of the paths, in order."""
    return list(dict.fromkeys(name for name, _ in runs))


def values_of(runs: Runs, key: Key, metric: str) -> list[float]:
    """A metric of each seed."""
    return [seed[metric] for seed in runs[key].seeds]


def interval(runs: Runs, key: Key, metric: str) -> Interval:
    """Its mean and t interval over seeds."""
    return mean_interval(values_of(runs, key, metric))


def over_users(runs: Runs, key: Key, metric: str) -> Interval:
    """Its mean over seeds and the interval of that over users."""
    return jackknife_interval(interval(runs, key, metric).mean, runs[key].without.get(metric, ()))


def difference(runs: Runs, a: Key, b: Key, metric: str) -> Difference:
    """What a has above b, on the same seeds and users."""
    over_seeds = paired(runs, a, b, metric)
    without = zip(runs[a].without.get(metric, ()), runs[b].without.get(metric, ()), strict=True)
    return Difference(over_seeds, jackknife_interval(over_seeds.mean, [x - y for x, y in without]))


def both(seeds: Interval, users: Interval) -> Interval:
    """An interval for other seeds and other users."""
    return seeds._replace(half_width=math.hypot(seeds.half_width, users.half_width))


def paired(runs: Runs, a: Key, b: Key, metric: str) -> Interval:
    """What a has above b, paired by seed."""
    return paired_interval(values_of(runs, a, metric), values_of(runs, b, metric))


def share_of_bc(runs: Runs, key: Key) -> Interval:
    """Hit rate on the best quarter as a share of BC's of the same seed."""
    mine, bc = values_of(runs, key, HITS), values_of(runs, BC, HITS)
    return mean_interval([x / y for x, y in zip(mine, bc, strict=True)])


def frontiers(runs: Runs, goal: str, origin: Point) -> dict[str, Frontier]:
    """Every method's :class:`Frontier` in hit rate and one other goal.

    Args:
        runs: of the test days.
        goal: the metric beside hit rate.
        origin: a policy counts as far as it passes this goal and this hit rate.
    """
    names = methods_in(runs)
    seeds = range(len(next(iter(runs.values())).seeds))
    areas: dict[str, list[float]] = {name: [] for name in names}
    alone: dict[str, list[float]] = {name: [] for name in names}
    for seed in seeds:
        points: dict[str, list[Point]] = {name: [] for name in names}
        for (name, _), policy in runs.items():
            points[name].append((policy.seeds[seed][goal], policy.seeds[seed][HITS]))
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


def outside(fronts: Mapping[str, Frontier]) -> list[str]:
    """The paths that lie outside the baseline's, the largest first."""
    found = [name for name, front in fronts.items() if front.outside]
    return sorted(found, key=lambda name: -fronts[name].area.mean)


def listed(names: Iterable[str]) -> str:
    """Names in a sentence."""
    return ", ".join(names) or "none"
