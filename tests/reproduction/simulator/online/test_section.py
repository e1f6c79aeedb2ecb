"""Going online on the published numbers, and on others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.reproduction.simulator.synthetic import (
    OPTIONS,
    draw,
    rows_of,
    seeds_around,
    verdicts,
)
from torchrl_drpo.reproduction.published import ONLINE
from torchrl_drpo.reproduction.simulator.online.results import offline
from torchrl_drpo.reproduction.simulator.online.target import TARGET


def served(
    last: Mapping[str, float], first: float = 0.1, passed: tuple[float, float] = (0.01, 0.3)
) -> dict[str, Any]:
    """Methods that go from ``first`` to ``last``; the share that passes, at the start and late."""
    results = {}
    for turn, cell in enumerate(TARGET.cells(OPTIONS)):
        end = seeds_around(last[cell.name], turn)
        shares = [seeds_around(share, turn + k) for k, share in enumerate(passed)]
        half = seeds_around(0.5, turn)
        rewards = [[-250, seeds_around(0.0)], [0, seeds_around(first, turn + 1)], [1500, end]]
        result = {
            "metrics": {"retrieved_reward": end, "served_reward": half, "passed": shares[1]},
            "curves": {
                "retrieved_reward": rewards,
                "passed": [[100, shares[0]], [1500, shares[1]]],
                **{name: [[100, half], [1500, half]] for name in ("served_reward", "attraction")},
            },
        }
        result["metrics"]["attraction"] = half
        results[cell.name] = {"settings": dict(cell.settings), "result": result, "seconds": 1.0}
    return results


AS_PUBLISHED = {name: value / 5 for name, value in ONLINE.items()}


def test_going_online_as_published_holds():
    results = served(AS_PUBLISHED)
    assert set(verdicts(TARGET, results).values()) == {"held"}
    section = TARGET.section(OPTIONS, results)
    assert rows_of(section)["DRPO"][:4] == ["0.100 ± 0.001", "0.392 ± 0.001", "1.96", "1.96"]
    assert rows_of(section)["IQL"][5].startswith("-0.024 ±")
    assert "1% pass DRPO's filter at the start and 30% at the end" in section.text
    assert (
        offline(results, "DRPO") == results["DRPO"]["result"]["curves"]["retrieved_reward"][1][1]
    )  # at step 0, not the one before
    assert [len(canvas.axes) for canvas in draw(section)] == [3]


def test_going_online_for_nothing_fails_every_claim():
    order = sorted(AS_PUBLISHED, key=lambda name: AS_PUBLISHED[name])
    worst_first = dict(zip(order, sorted(AS_PUBLISHED.values(), reverse=True), strict=True))
    results = served(worst_first, first=0.9, passed=(0.4, 0.2))
    assert set(verdicts(TARGET, results).values()) == {"not held"}


def test_without_a_look_before_serving_the_first_one_is_taken():
    results = served(AS_PUBLISHED)
    points = results["AWR"]["result"]["curves"]["retrieved_reward"]
    del points[:2]
    assert offline(results, "AWR") == points[0][1]
