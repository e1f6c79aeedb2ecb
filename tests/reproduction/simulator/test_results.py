"""Numbers by seed, and the synthetic seeds that sections are tested on."""

from __future__ import annotations

import math

import pytest

from tests.reproduction.simulator.synthetic import (
    seeds_around,
)
from torchrl_drpo.reproduction.simulator import results as module


def test_a_seed_that_broke_down_is_nan_in_means_and_curves():
    record = {"metrics": {"retrieved_reward": [0.2, None]}, "curves": {"kappa": [[5, None]]}}
    results = {"c": {"result": record}}
    assert math.isnan(module.late(results, "c")[1])
    assert math.isnan(module.mean(results, "c"))
    steps, values = module.curve(results, "c", "kappa")
    assert steps == [5]
    assert math.isnan(values[0])


def test_synthetic_seeds_are_what_they_say():
    assert sum(seeds_around(0.3, turn=2)) / 4 == pytest.approx(0.3)
    assert seeds_around(0.3, 0) != seeds_around(0.3, 1)
