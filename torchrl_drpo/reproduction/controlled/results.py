"""Late windows, curves and events of a cell of arms x seeds, from its JSON data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torchrl_drpo.evaluation.statistics import late_window
from torchrl_drpo.reproduction.controlled.arms import Arm

KINDS = {
    "task_collapse": "task collapse",
    "support_boundary": "support boundary",
    "non_finite": "NaN/Inf",
}


class Runs:
    """The arms of a cell by name.

    Args:
        result: what ``run_arms`` returned: ``arms``, ``steps``, ``metrics`` and perhaps ``events``.

    Attributes:
        arms: by name, in order.
        seeds: how many.
    """

    def __init__(self, result: Mapping[str, Any]) -> None:
        self.arms = {arm["name"]: Arm(**arm) for arm in result["arms"]}
        self.steps: list[int] = result["steps"]
        self._metrics = result["metrics"]
        self._events = result.get("events")
        self._rows = {name: row for row, name in enumerate(self.arms)}
        self.seeds = len(next(iter(self._metrics.values()))[0][0])

    @property
    def first(self) -> str:
        """Name of the first arm."""
        return next(iter(self.arms))

    def late(self, metric: str, name: str) -> list[float]:
        """Mean over the evaluations in the last fifth of the run, a number for each seed."""
        window = self.evaluations(metric, name)[late_window(self.steps)]
        return [math.fsum(values) / len(window) for values in zip(*window, strict=True)]

    @property
    def window(self) -> int:
        """How many evaluations the last fifth of the run has."""
        return len(self.steps[late_window(self.steps)])

    def evaluations(self, metric: str, name: str) -> list[list[float]]:
        """``[evaluation][seed]``; NaN where a number was not finite."""
        rows = [when[self._rows[name]] for when in self._metrics[metric]]
        return [[math.nan if v is None else v for v in row] for row in rows]

    def curve(self, metric: str, name: str) -> list[float]:
        """Mean over the seeds at each of :attr:`steps`."""
        return [math.fsum(row) / len(row) for row in self.evaluations(metric, name)]

    def events(self, name: str) -> list[dict[str, int]]:
        """For each seed the step of each kind of event."""
        if self._events is None:
            raise ValueError("this cell recorded no events")
        return self._events[self._rows[name]]


def count(events: Sequence[Mapping[str, int]], kind: str) -> int:
    """In how many seeds a kind of event happened.

    >>> count([{"non_finite": 3}, {}], "non_finite")
    1
    """
    return sum(kind in of_seed for of_seed in events)


def describe(events: Sequence[Mapping[str, int]]) -> str:
    """Events of an arm for a table: how many seeds, and the median step.

    >>> describe([{"task_collapse": 100}, {"task_collapse": 300}, {}])
    'task collapse 2/3 (step 100)'
    >>> describe([{}])
    'none'
    """
    found = []
    for kind, words in KINDS.items():
        steps = sorted(of_seed[kind] for of_seed in events if kind in of_seed)
        if steps:
            middle = steps[(len(steps) - 1) // 2]
            found.append(f"{words} {len(steps)}/{len(events)} (step {middle:,})")
    return ", ".join(found) or "none"
