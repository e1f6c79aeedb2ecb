"""Searches: seeded, exact after a kill, and worth more than chance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchrl_drpo.pipeline.config.space import Dimension
from torchrl_drpo.pipeline.tune.search import Carried, Trial, frontier, search

pytest.importorskip("optuna")
SPACE = [
    Dimension("x", -2.0, 2.0),
    Dimension("y", 1e-3, 1.0, log=True),
    Dimension("n", 1, 4, whole=True),
]


def near(values: dict[str, Any]) -> Carried:
    return Carried((-((values["x"] - 1) ** 2) - (values["n"] - 2) ** 2,), 7)


def far(values: dict[str, Any]) -> Carried:
    few = (0.25, 9) if values["x"] > 0 else None
    return Carried((values["x"], -(values["x"] ** 2)), 7, few)


def searched(journal: Path, carry: Any = near, trials: int = 12, **changes: Any) -> list[Trial]:
    given = {"name": "s", "metrics": 1, "seed": 3, "first": {"x": 0.5}, **changes}
    return list(search(carry, SPACE, journal=journal, trials=trials, **given))


@pytest.mark.parametrize(("carry", "metrics"), [(near, 1), (far, 2)])
def test_a_killed_search_ends_as_if_it_had_not_been(tmp_path: Path, carry, metrics: int) -> None:
    whole = searched(tmp_path / "whole", carry, 24, metrics=metrics)
    assert whole[0].values["x"] == 0.5
    calls = []

    def killed(values: dict[str, Any]) -> Any:
        calls.append(values)
        if len(calls) in (1, 5, 14):
            raise KeyboardInterrupt
        return carry(values)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path / "killed", killed, 24, metrics=metrics)
    assert searched(tmp_path / "killed", killed, 24, metrics=metrics) == whole
    assert len(calls) == 24 + 3
    assert searched(tmp_path / "killed", killed, 24, metrics=metrics) == whole
    assert len(calls) == 24 + 3  # read from the journal
    assert searched(tmp_path / "killed", killed, 30, metrics=metrics)[:24] == whole
    assert searched(tmp_path / "other", carry, 24, metrics=metrics, seed=4) != whole


def test_it_finds_what_is_there(tmp_path: Path) -> None:
    best = max(searched(tmp_path / "a", trials=40), key=lambda trial: trial.metrics)
    assert best.metrics[0] > -0.05
    assert best.values["n"] == 2


def test_a_trial_without_numbers_counts_and_is_not_best(tmp_path: Path) -> None:
    def half(values: dict[str, Any]) -> Any:
        return near(values) if values["x"] > 0 else Carried((), 9)

    found = searched(tmp_path / "a", half)
    assert len(found) == 12
    assert {trial.metrics == () for trial in found} == {True, False}
    assert all(trial.metrics for trial in frontier(found))
    assert searched(tmp_path / "a", half) == found
