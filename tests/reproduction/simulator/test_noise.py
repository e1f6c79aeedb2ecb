"""Noise injection on numbers that bear the claims out and that do not."""

from __future__ import annotations

import pytest

from tests.reproduction.simulator.synthetic import (
    OPTIONS,
    draw,
    method_of,
    rows_of,
    trained,
    verdicts,
)
from torchrl_drpo.reproduction.simulator import noise
from torchrl_drpo.reproduction.target import Cell


def by_noise(**ends: tuple[float, float]):
    """Rewards that go straight from the first to the second as the noise grows."""

    def numbers(cell: Cell) -> dict[str, float]:
        first, last = ends.get(method_of(cell).replace("-", "_"), (0.35, 0.3))
        level = cell.settings["setup"]["shares"][2]
        return {"retrieved_reward": first + (last - first) * level / 0.8}

    return numbers


def test_noise_as_claimed_holds():
    as_claimed = by_noise(DRPO=(0.36, 0.355), AWR=(0.34, 0.2), AsymRE=(0.34, 0.25))
    results = trained(noise.TARGET, as_claimed)
    assert set(verdicts(noise.TARGET, results).values()) == {"held"}
    section = noise.TARGET.section(OPTIONS, results)
    # (.355 - .15) / (.36 - .15) and (.2 - .15) / (.34 - .15)
    assert rows_of(section)["DRPO"][4] == "98%"
    assert rows_of(section)["AWR"][4] == "26%"
    assert "DRPO keeps 98% of its noise-free reward" in section.text
    assert [len(canvas.axes) for canvas in draw(section)] == [2]


def test_noise_that_hits_drpo_most_fails_every_claim():
    turned = by_noise(
        DRPO=(0.36, 0.2), AWR=(0.34, 0.34), AsymRE=(0.34, 0.34), positive_only=(0.35, 0.35)
    )
    assert set(verdicts(noise.TARGET, trained(noise.TARGET, turned)).values()) == {"not held"}


def test_to_fall_less_far_than_drpo_is_not_to_fall_further():
    results = trained(noise.TARGET, by_noise(DRPO=(0.36, 0.2), AWR=(0.34, 0.3), AsymRE=(0.34, 0.3)))
    found = verdicts(noise.TARGET, results)
    assert found["AWR and AsymRE fall with noise, further than DRPO"] == "not held"


def test_what_is_left_is_above_each_levels_own_floor():
    def numbers(cell: Cell) -> dict[str, float]:
        level = cell.settings["setup"]["shares"][2]
        return {"retrieved_reward": 0.35 - 0.1 * level, "random": 0.15 + 0.05 * level}

    results = trained(noise.TARGET, numbers)
    assert noise.kept(results, "DRPO", 0.8) == pytest.approx((0.27 - 0.19) / (0.35 - 0.15))


def test_the_levels_are_shares_of_random_rows():
    for cell in noise.TARGET.cells(OPTIONS):
        expert, popularity, random = cell.settings["setup"]["shares"]
        assert expert + popularity + random == pytest.approx(1)
        assert popularity == pytest.approx(6 * expert, abs=1e-5)
        assert cell.name.endswith(f".{round(100 * random)}")
