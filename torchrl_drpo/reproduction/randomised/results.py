"""From the cells of ``randomised`` to numbers: what was chosen, and what it is worth.

Parameters, and the winner, are chosen by the mean NDCG over seeds on the choosing users. All else
is of the reporting users, whom no choice has seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.evaluation.ranking import jackknife
from torchrl_drpo.evaluation.statistics import (
    Interval,
    corrected_p_values,
    mean_interval,
    paired_interval,
)
from torchrl_drpo.reproduction.randomised.judge import ratio
from torchrl_drpo.reproduction.randomised.methods import METHODS
from torchrl_drpo.reproduction.randomised.ratings import CHOOSING_GROUPS, GROUPS

_REPORTING = slice(CHOOSING_GROUPS, None)


@dataclass(frozen=True)
class Run:
    """A method at one value of its parameter.

    Attributes:
        method: its name.
        value: of its parameter.
        choosing: mean NDCG over seeds on the choosing users, by which it was chosen.
        steps: at which the choosing users stopped each seed.
        sums: by seed and metric, numerators and denominators by group of users.
    """

    method: str
    value: Any
    choosing: float
    steps: Sequence[int]
    sums: Sequence[Mapping[str, Sequence[Sequence[float]]]]

    @property
    def label(self) -> str:
        """Its name with the value."""
        return METHODS[self.method].label(self.value)

    def seeds(self, metric: str) -> list[float]:
        """A metric on the reporting users, by seed."""
        return [ratio(sums[metric], _REPORTING) for sums in self.sums]

    def interval(self, metric: str) -> Interval:
        """Its mean and t interval over seeds."""
        return mean_interval(self.seeds(metric))


@dataclass(frozen=True)
class Difference:
    """What one run has above another, on the reporting users.

    Attributes:
        seeds: paired by seed, t interval: these users, other training runs.
        users: mean over seeds, delete-a-group jackknife over users: these runs, other users.
        p: of the first, Holm-corrected over the opponents.
    """

    seeds: Interval
    users: Interval
    p: float

    @property
    def holds(self) -> bool:
        """Whether it lies above zero over seeds, correction and all."""
        return self.seeds.above() and self.p < 0.05

    @property
    def holds_over_users(self) -> bool:
        """Whether it lies above zero over users."""
        return self.users.above()


def runs_of(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Run]]:
    """By method, its runs at all values, from the records of a file's seeds."""
    found: dict[tuple[str, Any], list[Mapping[str, Any]]] = {}
    for record in records:
        for run in record["result"]["runs"]:
            found.setdefault((run["method"], run["value"]), []).append(run)
    out: dict[str, list[Run]] = {name: [] for name in METHODS}
    for (name, value), seeds in found.items():
        choosing = math.fsum(max(seed["looks"]) for seed in seeds) / len(seeds)
        steps, sums = [seed["step"] for seed in seeds], [seed["sums"] for seed in seeds]
        out[name].append(Run(name, value, choosing, steps, sums))
    return {name: runs for name, runs in out.items() if runs}


def chosen(runs: Mapping[str, Sequence[Run]]) -> dict[str, Run]:
    """Of each method the run that the choosing users like best; the first of equals."""
    return {name: max(own, key=lambda run: run.choosing) for name, own in runs.items()}


def winner(best: Mapping[str, Run]) -> Run:
    """The method that the choosing users like best."""
    return max(best.values(), key=lambda run: run.choosing)


def differences(mine: Run, others: Sequence[Run], metric: str) -> dict[str, Difference]:
    """By opponent, what a run has above it."""
    own = mine.seeds(metric)
    p = corrected_p_values({other.method: other.seeds(metric) for other in others}, own)
    return {
        other.method: Difference(
            paired_interval(own, other.seeds(metric)),
            over_users(metric, mine, other),
            p[other.method],
        )
        for other in others
    }


def over_users(metric: str, mine: Run, other: Run | None = None) -> Interval:
    """A metric, or its difference to another run's, with an interval over the reporting users."""
    reporting = torch.arange(CHOOSING_GROUPS, GROUPS)

    def mean(run: Run, groups: Tensor) -> float:
        kept = reporting[groups].tolist()
        values = [ratio([[row[g] for g in kept] for row in sums[metric]]) for sums in run.sums]
        return math.fsum(values) / len(values)

    def difference(groups: Tensor) -> dict[str, float]:
        base = 0.0 if other is None else mean(other, groups)
        return {metric: mean(mine, groups) - base}

    return jackknife(difference, reporting, groups=len(reporting))[metric]
