"""Divergence on the published numbers, and on others."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.reproduction.simulator.synthetic import (
    OPTIONS,
    draw,
    rows_of,
    seeds_around,
    verdicts,
)
from torchrl_drpo.reproduction.simulator.divergence import series
from torchrl_drpo.reproduction.simulator.divergence.target import TARGET
from torchrl_drpo.reproduction.target import Results

LOOKS = 11  # of which two are the last fifth


def watched(**given: float) -> dict[str, Any]:
    """Cells whose looks go from a first to a last value at once, the second of the two below."""
    growth, sigma, mean = (given[name] for name in ("growth", "sigma", "mean"))
    late = {
        "negative_sigma": sigma,
        "negative_mean": mean,
        "positive_sigma": 1.0,
        "positive_mean": 1.0,
        "on_policy": given["on"],
        "off_policy": given["off"],
        "mean_norm": 1.0 + given["up"],
        "log_sigma": given["up"],
        "agreement": given["agreement"],
        "remoteness": 2.0,
        "shrinking": 0.5,
    }
    first = {**late, "mean_norm": 1.0, "log_sigma": 0.0}
    first |= {name: late[name] / growth for name in ("negative_sigma", "negative_mean")}
    results = {}
    for turn, cell in enumerate(TARGET.cells(OPTIONS)):
        seen: dict[str, Any] = {
            name: [seeds_around(first[name], turn, 1e-5)]
            + [seeds_around(value, turn + 1, 1e-5)] * (LOOKS - 1)
            for name, value in late.items()
        }
        seen["agreement"][0] = [None] * 4  # nothing to compare the first look with
        result = {"steps": list(range(LOOKS)), "series": seen, "metrics": {}}
        results[cell.name] = {"settings": dict(cell.settings), "result": result, "seconds": 1.0}
    return results


PUBLISHED = {"growth": 9.0, "sigma": 58.0, "mean": 2.0, "on": 1.0, "off": 3.0, "up": 0.5}


def test_divergence_as_published_holds():
    results = watched(**PUBLISHED, agreement=0.97)
    assert set(verdicts(TARGET, results).values()) == {"held"}
    assert series.growth(results, "table.APG") == pytest.approx([9.0] * 4, rel=1e-2)
    assert series.ratio(results, "table.APG", "sigma") == pytest.approx([58.0] * 4, rel=1e-3)
    section = TARGET.section(OPTIONS, results)
    assert section.text.count("grows 9.0 times") == 2
    late = rows_of(section)["repulsion / attraction, log sigma"]
    assert all(cell.startswith("58 ± ") for cell in late)
    assert [len(canvas.axes) for canvas in draw(section)] == [3]


def test_what_does_not_diverge_fails_every_claim():
    flat = {"growth": 1.0, "sigma": 1.0, "mean": 0.5, "on": 1.5, "off": 0.9, "up": -0.5}
    found = verdicts(TARGET, watched(**flat, agreement=0.5))
    assert set(found.values()) == {"not held"}


@pytest.mark.parametrize(("growth", "several", "nine"), [
    (2.1, "held", "not held"), (5.0, "held", "held"), (30.0, "held", "not held"),
])  # fmt: skip
def test_several_times_and_nine_times_are_told_apart(growth: float, several: str, nine: str):
    found = list(verdicts(TARGET, watched(**PUBLISHED | {"growth": growth}, agreement=1)).values())
    assert found[:2] == [several, nine]


def test_a_window_is_the_last_fifth_of_the_looks():
    seen = {"x": [[k, 10.0 * k] for k in range(11)]}
    results: Results = {"c": {"result": {"steps": list(range(11)), "series": seen}}}
    assert series.window(results, "c", "x") == [9.5, 95.0]
    seen["x"][-1] = [None, 1.0]
    assert math.isnan(series.window(results, "c", "x")[0])
