"""Sections of what is watched, served, described and confirmed, on numbers of our choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from tests.reproduction.small_worlds import SEEDS, SETUP, make_worlds
from tests.reproduction.synthetic import (
    OPTIONS,
    draw,
    rows_of,
    seeds_around,
    seeds_of,
    trained,
    verdicts,
)
from torchrl_drpo.reproduction.published import ONLINE
from torchrl_drpo.reproduction.simulator import divergence, geometry, online
from torchrl_drpo.reproduction.simulator.beyond import target as beyond
from torchrl_drpo.reproduction.target import Cell, Results

# -- online -------------------------------------------------------------------------------------


def served(
    last: Mapping[str, float], first: float = 0.1, passed: tuple[float, float] = (0.01, 0.3)
) -> dict[str, Any]:
    """Methods that go from ``first`` to ``last``; the share that passes, at the start and late."""
    results = {}
    for turn, cell in enumerate(online.TARGET.cells(OPTIONS)):
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
    assert set(verdicts(online.TARGET, results).values()) == {"held"}
    section = online.TARGET.section(OPTIONS, results)
    assert rows_of(section)["DRPO"][:4] == ["0.100 ± 0.001", "0.392 ± 0.001", "1.96", "1.96"]
    assert rows_of(section)["IQL"][5].startswith("-0.024 ±")
    assert "1% pass DRPO's filter at the start and 30% at the end" in section.text
    assert (
        online.offline(results, "DRPO")
        == results["DRPO"]["result"]["curves"]["retrieved_reward"][1][1]
    )  # at step 0, not the one before
    assert [len(canvas.axes) for canvas in draw(section)] == [3]


def test_going_online_for_nothing_fails_every_claim():
    order = sorted(AS_PUBLISHED, key=lambda name: AS_PUBLISHED[name])
    worst_first = dict(zip(order, sorted(AS_PUBLISHED.values(), reverse=True), strict=True))
    results = served(worst_first, first=0.9, passed=(0.4, 0.2))
    assert set(verdicts(online.TARGET, results).values()) == {"not held"}


def test_without_a_look_before_serving_the_first_one_is_taken():
    results = served(AS_PUBLISHED)
    points = results["AWR"]["result"]["curves"]["retrieved_reward"]
    del points[:2]
    assert online.offline(results, "AWR") == points[0][1]


# -- divergence ---------------------------------------------------------------------------------

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
    for turn, cell in enumerate(divergence.TARGET.cells(OPTIONS)):
        series: dict[str, Any] = {
            name: [seeds_around(first[name], turn, 1e-5)]
            + [seeds_around(value, turn + 1, 1e-5)] * (LOOKS - 1)
            for name, value in late.items()
        }
        series["agreement"][0] = [None] * 4  # nothing to compare the first look with
        result = {"steps": list(range(LOOKS)), "series": series, "metrics": {}}
        results[cell.name] = {"settings": dict(cell.settings), "result": result, "seconds": 1.0}
    return results


PUBLISHED = {"growth": 9.0, "sigma": 58.0, "mean": 2.0, "on": 1.0, "off": 3.0, "up": 0.5}


def test_divergence_as_published_holds():
    results = watched(**PUBLISHED, agreement=0.97)
    assert set(verdicts(divergence.TARGET, results).values()) == {"held"}
    assert divergence.growth(results, "table.APG") == pytest.approx([9.0] * 4, rel=1e-2)
    assert divergence.ratio(results, "table.APG", "sigma") == pytest.approx([58.0] * 4, rel=1e-3)
    section = divergence.TARGET.section(OPTIONS, results)
    assert section.text.count("grows 9.0 times") == 2
    late = rows_of(section)["repulsion / attraction, log sigma"]
    assert all(cell.startswith("58 ± ") for cell in late)
    assert [len(canvas.axes) for canvas in draw(section)] == [3]


def test_what_does_not_diverge_fails_every_claim():
    flat = {"growth": 1.0, "sigma": 1.0, "mean": 0.5, "on": 1.5, "off": 0.9, "up": -0.5}
    found = verdicts(divergence.TARGET, watched(**flat, agreement=0.5))
    assert set(found.values()) == {"not held"}


@pytest.mark.parametrize(("growth", "several", "nine"), [
    (2.1, "held", "not held"), (5.0, "held", "held"), (30.0, "held", "not held"),
])  # fmt: skip
def test_several_times_and_nine_times_are_told_apart(growth: float, several: str, nine: str):
    found = list(
        verdicts(divergence.TARGET, watched(**PUBLISHED | {"growth": growth}, agreement=1)).values()
    )
    assert found[:2] == [several, nine]


def test_a_window_is_the_last_fifth_of_the_looks():
    results: Results = {"c": {"result": {"series": {"x": [[k, 10.0 * k] for k in range(11)]}}}}
    assert divergence.window(results, "c", "x") == [9.5, 95.0]
    results["c"]["result"]["series"]["x"][-1] = [None, 1.0]
    assert math.isnan(divergence.window(results, "c", "x")[0])


# -- geometry -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    setup = {name: value for name, value in SETUP.items() if name not in ("users", "scenario")}
    found = geometry.describe_world(setup={**setup, "scenario": "medium"}, seeds=list(SEEDS))
    return {cell.name: {"result": found} for cell in geometry.TARGET.cells(OPTIONS)}


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
    assert set(verdicts(geometry.TARGET, zipf).values()) == {"held"}
    flat = with_numbers(
        described, skewness=-1.0, good_rows=0.05, reward_exponent=0.1, popularity_exponent=2.5
    )
    assert set(verdicts(geometry.TARGET, flat).values()) == {"not held"}
    many = with_numbers(described, skewness=1.5, good_rows=0.4)
    assert next(iter(verdicts(geometry.TARGET, many).values())) == "not held"
    section = geometry.TARGET.section(OPTIONS, zipf)
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
        assert geometry.rank_exponent(shuffled) == pytest.approx(exponent, rel=1e-3)
    draws = -3 * torch.rand(200_000, generator=torch.Generator().manual_seed(0)).log()
    assert geometry.skewness(draws) == pytest.approx(2.0, abs=0.1)  # of an exponential variable


# -- beyond -------------------------------------------------------------------------------------


def confirmed(**over: float | None) -> dict[str, Any]:
    """Everything earns .3 but what is named: a method, or a method and a setup."""
    known = {
        beyond.cell_name(name, *setup): (name, " ".join(setup))
        for name in (*beyond.CANDIDATES, *beyond.BASELINES)
        for setup in beyond.SETUPS
    }

    def numbers(cell: Cell) -> dict[str, float | None]:
        name, setup = known[cell.name]
        value = over.get(name, 0.3)
        return {"retrieved_reward": over.get(f"{name}, {setup}", value)}

    return trained(beyond.TARGET, numbers)


def test_a_candidate_that_leads_everywhere_beats_every_baseline_and_no_other_does():
    results = confirmed(**{"uphill tapered": 0.32, "AWR, beta .1": 0.31, "taper-Q": 0.31})
    found = verdicts(beyond.TARGET, results)
    assert found.pop("uphill tapered beats every baseline") == "held"
    assert set(found.values()) == {"not held"}
    assert len(found) == len(beyond.CANDIDATES) - 1
    section = beyond.TARGET.section(OPTIONS, results)
    assert rows_of(section)["uphill tapered"] == ["0.320 ± 0.001"] * 4
    (claim,) = (c for c in section.claims if c.statement.startswith("uphill tapered "))
    assert "table medium: +0.0100 over the best, p " in claim.evidence


def test_a_candidate_that_loses_one_setup_holds_in_part():
    results = confirmed(**{"tapered": 0.32, "DRPO, collapse extreme": 0.4})
    assert verdicts(beyond.TARGET, results)["tapered beats every baseline"] == "held in part"


def test_a_lead_within_the_seeds_spread_is_none():
    results = confirmed(tapered=0.3002)
    section = beyond.TARGET.section(OPTIONS, results)
    (claim,) = (c for c in section.claims if c.statement == "tapered beats every baseline")
    assert claim.verdict == "not held"
    assert claim.evidence.count("+0.0002 over the best") == 4


@pytest.mark.parametrize("baseline", ["positive-only", "CRR"])  # the first, and the last
def test_a_baseline_that_broke_down_is_beaten(baseline: str):
    results = confirmed(**{"tapered": 0.32, baseline: None})
    section = beyond.TARGET.section(OPTIONS, results)
    (claim,) = (c for c in section.claims if c.statement == "tapered beats every baseline")
    assert claim.verdict == "held"
    assert f"{baseline} ended at NaN" in claim.evidence


def test_a_candidate_that_broke_down_beats_none():
    results = confirmed(tapered=None)
    section = beyond.TARGET.section(OPTIONS, results)
    (claim,) = (c for c in section.claims if c.statement == "tapered beats every baseline")
    assert claim.verdict == "not held"
    assert "tapered ended at NaN in 1 of 4 seeds" in claim.evidence


def test_seeds_of_confirmation_are_fresh():
    chosen_on = {seed for target in (online, divergence) for cell in target.TARGET.cells(OPTIONS)
                 for seed in cell.settings["seeds"]}  # fmt: skip
    for cell in beyond.TARGET.cells(OPTIONS):
        assert cell.settings["seeds"] == [100, 101, 102, 103]
        assert not chosen_on & set(cell.settings["seeds"])
    assert seeds_of(None, 0)[0] is None
