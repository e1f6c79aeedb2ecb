"""What would have been chosen on the tuning days, and what that is worth on the test days."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torchrl_drpo.evaluation.statistics import Interval, mean_interval
from torchrl_drpo.reproduction.kuairand.frontier import best_within
from torchrl_drpo.reproduction.kuairand.paths import Key
from torchrl_drpo.reproduction.kuairand.results import (
    BC,
    HITS,
    WITHIN,
    Runs,
    interval,
    methods_in,
    share_of_bc,
    values_of,
)

#: Shares of BC's hit rate that a user may insist on.
SHARES = (1.0, 0.98, 0.9)


@dataclass(frozen=True)
class Choice:
    """A strength that was chosen on the tuning days, and what it is worth on the test days.

    Attributes:
        key: the policy.
        tuning: its lift within tabs there, by which it was chosen.
        within: lift within tabs on the test days.
        hits: hit rate on the test days as a share of BC's, paired by seed.
    """

    key: Key
    tuning: float
    within: Interval
    hits: Interval


#: By path; ``None`` where no policy of it keeps the share.
Choices = Mapping[str, Choice | None]


def choices(tuning: Runs, test: Runs, share: float) -> dict[str, Choice | None]:
    """By path, the strength of most lift within tabs that keeps ``share`` of BC's hits.

    Both on the tuning days. ``None`` where no strength keeps it.
    """
    least = share * _mean(tuning, BC, HITS)
    out: dict[str, Choice | None] = dict.fromkeys(methods_in(test))
    for name in out:
        points = {
            value: (_mean(tuning, (path, value), WITHIN), _mean(tuning, (path, value), HITS))
            for path, value in tuning
            if path == name
        }
        best = best_within(points, least)
        if best is not None:
            key = name, best
            within = interval(test, key, WITHIN)
            out[name] = Choice(key, points[best][0], within, share_of_bc(test, key))
    return out


def recommended(chosen: Choices, among: Collection[str] | None = None) -> Choice | None:
    """The choice of most lift within tabs on the tuning days; the test days are not looked at.

    Args:
        chosen: by path.
        among: paths that may be recommended; all by default.
    """
    there = [
        choice
        for name, choice in chosen.items()
        if choice is not None and (among is None or name in among)
    ]
    return max(there, key=lambda choice: choice.tuning, default=None)


def _mean(runs: Runs, key: Key, metric: str) -> float:
    return mean_interval(values_of(runs, key, metric)).mean
