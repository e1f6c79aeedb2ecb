"""Worlds in numbers, and what is claimed of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.reproduction.simulator.small_worlds import SEEDS, SETUP, make_worlds
from tests.reproduction.simulator.synthetic import (
    OPTIONS,
    draw,
    rows_of,
    seeds_around,
    verdicts,
)
from torchrl_drpo.reproduction.simulator.geometry import world
from torchrl_drpo.reproduction.simulator.geometry.target import TARGET
from torchrl_drpo.reproduction.target import Results


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    setup = {name: value for name, value in SETUP.items() if name not in ("users", "scenario")}
    found = world.describe_world(setup={**setup, "scenario": "medium"}, seeds=list(SEEDS))
    return {cell.name: {"result": found} for cell in TARGET.cells(OPTIONS)}


def with_numbers(described: Results, **numbers: float) -> dict[str, Any]:
    return {
        name: {"result": cell["result"] | {"numbers": cell["result"]["numbers"] | {
            key: seeds_around(value, turn) for key, value in numbers.items()
        }}}
        for turn, (name, cell) in enumerate(described.items())
    }  # fmt: skip


def test_a_zipfian_world_of_few_good_rows_holds_and_another_fails(described):
    zipf = with_numbers(
        described, skewness=1.5, good_rows=0.05, reward_exponent=1.0, popularity_exponent=0.9
    )
    assert set(verdicts(TARGET, zipf).values()) == {"held"}
    flat = with_numbers(
        described, skewness=-1.0, good_rows=0.05, reward_exponent=0.1, popularity_exponent=2.5
    )
    assert set(verdicts(TARGET, flat).values()) == {"not held"}
    many = with_numbers(described, skewness=1.5, good_rows=0.4)
    assert next(iter(verdicts(TARGET, many).values())) == "not held"
    section = TARGET.section(OPTIONS, zipf)
    assert rows_of(section)["skewness of rewards"] == ["1.500 ± 0.001"] * 4
    assert [len(canvas.axes) for canvas in draw(section)] == [3, 2]


def test_a_world_is_described_by_its_own_numbers(described):
    found = described["table.medium"]["result"]
    worlds = make_worlds()
    items = torch.nn.functional.normalize(worlds.worlds[0].items, dim=-1).double()
    variance = torch.linalg.eigvalsh(torch.cov(items.T)).flip(0)
    share = variance / variance.sum()
    numbers = found["numbers"]
    assert numbers["effective_rank"][0] == pytest.approx(float(1 / share.square().sum()), rel=1e-3)
    assert numbers["first_ten"][0] == pytest.approx(float(share[:10].sum()), rel=1e-3)
    assert sum(found["spectrum"]) == pytest.approx(1, abs=1e-4)
    for density in found["histograms"].values():
        assert sum(density) / len(density) == pytest.approx(1, abs=1e-3)  # bins are of equal width
    ranks, values = zip(*found["ranked"], strict=True)
    assert list(values) == sorted(values, reverse=True)
    assert (ranks[0], ranks[-1]) == (1, 300)


def test_exponents_and_skewness_are_the_textbooks():
    ranks = torch.arange(1.0, 2001.0)
    for exponent in (0.5, 1.0, 2.0):
        shuffled = ranks.pow(-exponent)[torch.randperm(2000)]
        assert world.rank_exponent(shuffled) == pytest.approx(exponent, rel=1e-3)
    draws = -3 * torch.rand(200_000, generator=torch.Generator().manual_seed(0)).log()
    assert world.skewness(draws) == pytest.approx(2.0, abs=0.1)  # of an exponential variable
