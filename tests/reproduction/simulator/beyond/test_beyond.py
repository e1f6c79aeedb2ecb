"""What beats every baseline, on numbers of our choice."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reproduction.simulator.synthetic import (
    OPTIONS,
    rows_of,
    seeds_of,
    trained,
    verdicts,
)
from torchrl_drpo.reproduction.simulator.beyond import target as beyond
from torchrl_drpo.reproduction.simulator.divergence import target as divergence
from torchrl_drpo.reproduction.simulator.online import target as online
from torchrl_drpo.reproduction.target import Cell


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
