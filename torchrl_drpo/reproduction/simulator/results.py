"""Numbers of the simulator's cells, seed by seed, from their records."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torchrl_drpo.evaluation.statistics import mean_interval
from torchrl_drpo.reproduction.published import ECPM
from torchrl_drpo.reproduction.target import Results

#: How far a reproduced number may lie from the published one.
TOLERANCE = 0.10


def late(results: Results, cell: str, metric: str = "retrieved_reward") -> list[float]:
    """A cell's late-window number of each seed; NaN where it was not finite."""
    values = results[cell]["result"]["metrics"][metric]
    return [math.nan if value is None else value for value in values]


def finite(values: Sequence[float]) -> bool:
    """Whether no seed's policy broke down.

    >>> finite([0.3, 0.2]), finite([0.3, math.nan])
    (True, False)
    """
    return all(map(math.isfinite, values))


def mean(results: Results, cell: str, metric: str = "retrieved_reward") -> float:
    """Mean of :func:`late`."""
    return mean_interval(late(results, cell, metric)).mean


def curve(
    results: Results, cell: str, metric: str = "retrieved_reward"
) -> tuple[list[int], list[float]]:
    """Steps, and the mean over seeds at each."""
    points = results[cell]["result"]["curves"][metric]
    return [step for step, _ in points], [math.nan if v is None else v for _, v in points]


def end(results: Results, cell: str, which: str) -> float:
    """Mean reward of ``"random"`` or ``"oracle"`` in a cell's worlds."""
    return mean_interval(results[cell]["result"]["ends"][which]).mean


def ecpm(values: Sequence[float]) -> list[float]:
    """The paper's unit."""
    return [ECPM * value for value in values]


def gap(found: float, published: float) -> float:
    """Relative distance from the published number."""
    return found / published - 1
