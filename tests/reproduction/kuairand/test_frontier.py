"""Frontiers, against counting cells."""

from __future__ import annotations

import math

import numpy as np
import pytest

from torchrl_drpo.reproduction.kuairand.frontier import (
    best_within,
    contribution,
    dominated_area,
)


def test_dominated_area_equals_counting_cells() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.integers(-2, 12, (5, 2))
        grid = [
            any(x > i and y > j for x, y in points)  # unit cell [i, i+1] x [j, j+1] is dominated
            for i in range(1, 12)
            for j in range(2, 12)
        ]
        found = dominated_area([(float(x), float(y)) for x, y in points], (1.0, 2.0))
        assert found == pytest.approx(sum(grid))


def test_a_lost_goal_and_a_missing_number_add_no_area() -> None:
    assert dominated_area([(3.0, 0.06), (math.nan, 0.3), (0.9, 0.25)], (1.0, 0.15)) == 0


def test_what_another_method_also_reaches_is_no_contribution() -> None:
    points = {"a": [(2.0, 2.0)], "b": [(1.0, 1.0)], "c": [(3.0, 1.0)]}
    assert contribution(points, "b", (0.0, 0.0)) == 0
    assert contribution(points, "c", (0.0, 0.0)) == pytest.approx(1.0)  # [2, 3] x [0, 1]


def test_best_within_finds_nothing_where_nothing_keeps_the_share() -> None:
    assert best_within({1.0: (2.0, 0.1)}, least=0.2) is None


def test_an_infinite_lift_neither_wins_nor_adds() -> None:
    assert best_within({1.0: (math.inf, 0.3), 2.0: (1.5, 0.3)}, least=0.2) == 2.0
    assert best_within({1.0: (math.inf, 0.3)}, least=0.2) is None
    points = [(0.3, 2.0), (0.5, 1.5)]
    assert dominated_area([*points, (0.4, math.inf)], (0, 0)) == dominated_area(points, (0, 0))
