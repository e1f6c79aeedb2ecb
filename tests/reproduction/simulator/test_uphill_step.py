"""How far uphill actions move: what is run, and what the numbers say of the choice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.reproduction.simulator.small_worlds import SEEDS, SETUP, make_worlds
from tests.reproduction.simulator.synthetic import (
    OPTIONS,
    rows_of,
    seeds_around,
    trained,
    verdicts,
)
from torchrl_drpo.reproduction.simulator.uphill_step import (
    DEFAULT,
    FITS,
    TARGET,
    fit_models,
)
from torchrl_drpo.reproduction.target import Cell
from torchrl_drpo.rewards import assign_folds
from torchrl_drpo.rewards.uphill import cross_fit_bilinear, out_of_fold

BEST, ANY, FIT = (
    "Step 0.3 is the best, or within the interval of the best",
    "Every step from .1 to .6 is better than none",
    "No other number of the fit explains more than the default, beyond the seeds' spread",
)


def found(rewards: dict[str, float], fits: dict[str, float] | None = None) -> dict[str, Any]:
    """Steps earn .3, and models explain .2, but for those that are named."""

    def numbers(cell: Cell) -> dict[str, float]:
        step = cell.name.rsplit("step-", 1)[-1]
        return {"retrieved_reward": rewards.get(cell.name, rewards.get(step, 0.3))}

    results = trained(TARGET, numbers)
    for turn, name in enumerate(results):
        if name.endswith(".fits"):
            values = {fit: (fits or {}).get(fit, 0.2) for fit in FITS}
            results[name]["result"] = {f: seeds_around(v, turn) for f, v in values.items()}
    return results


def test_a_step_that_is_best_was_well_chosen():
    results = found({"0": 0.28, "0.3": 0.32})
    assert set(verdicts(TARGET, results).values()) == {"held"}
    rows = rows_of(TARGET.section(OPTIONS, results))
    assert rows["0.3"] == [*["0.320 ± 0.001"] * 4, ""]
    assert rows["0"][-1].startswith("-0.040")


def test_another_step_that_leads_in_a_place_and_models_that_explain_more_are_told():
    over = {"table.medium.step-0.6": 0.31}
    results = found(over, {"192 landmarks": 0.25})
    verdict = verdicts(TARGET, results)
    assert verdict[BEST] == "held in part"
    assert verdict[ANY] == "held in part"  # .6, for that one place
    assert verdict[FIT] == "not held"
    claims = {c.statement: c.evidence for c in TARGET.section(OPTIONS, results).claims}
    assert "table medium: best 0.6, +0.010" in claims[BEST]
    assert claims[FIT].count("192 landmarks") == 4
    assert DEFAULT not in claims[FIT]


def test_the_default_fit_is_the_cross_fitted_models():
    fits = {
        DEFAULT: {},
        "few": {"landmarks": 8},
        "wide": {"stretch": 1.0},
        "stiff": {"ridge": 50.0},
    }
    values = fit_models(setup=SETUP, seeds=list(SEEDS), fits=fits)
    for number, log in enumerate(make_worlds().log):
        rows = log["observation"], log["action"], log["reward"]
        models, fold = cross_fit_bilinear(*rows, fold=assign_folds(len(log), 5))
        predicted, _ = out_of_fold(models, fold, *rows[:2])
        share = 1 - (predicted - rows[2]).square().mean() / rows[2].var(correction=0)
        assert values[DEFAULT][number] == pytest.approx(share.item(), abs=2e-6)
        others = torch.tensor([values[name][number] for name in ("few", "stiff")])
        assert (others != values[DEFAULT][number]).all()
