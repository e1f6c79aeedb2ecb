"""Numbers of the cells of ``online``: before and after serving began."""

from __future__ import annotations

import math

from torchrl_drpo.evaluation.statistics import Interval, paired_interval
from torchrl_drpo.reproduction.simulator.results import late
from torchrl_drpo.reproduction.target import Results

COMPARED = ("DRPO", "DRPO-Exp", "IQL", "AWR", "AsymRE")
FILTERED = ("DRPO", "DRPO-Exp")
NUMBERS = {"offline_steps": 500, "online_steps": 1_500, "serve_every": 10, "served": 32}


def seen(results: Results, name: str, metric: str) -> tuple[list[int], list[list[float]]]:
    """Steps, and the seeds' numbers at each."""
    points = results[name]["result"]["curves"][metric]
    rows = [[math.nan if v is None else v for v in values] for _, values in points]
    return [step for step, _ in points], rows


def offline(results: Results, name: str) -> list[float]:
    """Reward of each seed at the last evaluation before anything was served."""
    steps, rows = seen(results, name, "retrieved_reward")
    before = [row for step, row in zip(steps, rows, strict=True) if step <= 0]
    return before[-1] if before else rows[0]


def gain(results: Results, name: str) -> Interval:
    """What going online is worth to a method, paired by seed."""
    return paired_interval(late(results, name), offline(results, name))
