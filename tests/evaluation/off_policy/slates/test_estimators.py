"""Estimators of slates: by plain formulas, at their limits, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.evaluation.off_policy.slates.draws import random
from torchrl_drpo.evaluation.off_policy.slates import (
    SLATE_ESTIMATORS,
    LoggedSlates,
    independent_ips,
    reward_interaction_ips,
    standard_ips,
)


def drawn(slates: int = 50, length: int = 4, **options) -> LoggedSlates:
    def column(seed: int) -> Tensor:
        return random(slates, length, seed=seed)

    def log(seed: int) -> Tensor:
        return (0.2 + 0.8 * torch.sigmoid(column(seed))).log()

    given = {
        "reward": column(1),
        "log_target": log(2), "log_behavior": log(3),
        "log_target_slot": log(4), "log_behavior_slot": log(5),
        "prediction": column(6), "value": column(7),
    }  # fmt: skip
    return LoggedSlates(**(given | options))


UNEQUAL = torch.arange(4) < torch.tensor([4, 1, 3, 2, 4]).repeat(10).unsqueeze(-1)


def by_formula(name: str, s: LoggedSlates) -> float:
    m = s.mask.numpy()
    r, q, v = (np.where(m, c.numpy(), 0) for c in (s.reward, s.prediction, s.value))
    step = np.where(m, (s.log_target - s.log_behavior).exp().numpy(), 1)
    slot = np.where(m, (s.log_target_slot - s.log_behavior_slot).exp().numpy(), 1)
    down = step.cumprod(1)
    above = np.concatenate([np.ones((len(m), 1)), down[:, :-1]], 1)
    whole, linear = down[:, -1:], 1 - m.sum(1) + (slot * m).sum(1)
    terms = {
        "SIPS": whole * r,
        "SNSIPS": whole * r / whole.mean(),
        "RIPS": down * r,
        "SNRIPS": down * r / down.mean(0),
        "cascade-DR": down * (r - q) + above * v,
        "SN cascade-DR": down * (r - q) / down.mean(0) + above * v / above.mean(0),
        "IIPS": slot * r,
        "SNIIPS": slot * r / slot.mean(0),
        "PI": linear[:, None] * r,
        "SNPI": linear[:, None] * r / linear.mean(),
    }
    return float(terms[name].sum(1).mean())


@pytest.mark.parametrize("mask", [None, UNEQUAL])
@pytest.mark.parametrize("name", SLATE_ESTIMATORS)
def test_value_is_the_formula_whatever_the_padding_holds(name: str, mask: Tensor | None) -> None:
    slates = drawn(mask=mask)
    estimate = SLATE_ESTIMATORS[name](slates)
    assert estimate.name == name
    assert estimate.value == pytest.approx(by_formula(name, slates), rel=1e-12)
    assert estimate.standard_error == pytest.approx(
        (estimate.influence.std() / math.sqrt(50)).item(), rel=1e-9
    )
    padded = {
        column: torch.cat(
            [torch.where(slates.mask, getattr(slates, column), math.nan), torch.full((50, 2), 7.0)],
            1,
        )
        for column in (
            "reward",
            "log_target",
            "log_behavior",
            "log_target_slot",
            "log_behavior_slot",
            "prediction",
            "value",
        )
    }
    wide = torch.cat([slates.mask, torch.zeros(50, 2, dtype=torch.bool)], 1)
    again = SLATE_ESTIMATORS[name](LoggedSlates(**padded, mask=wide))
    assert again.value == pytest.approx(estimate.value, rel=1e-12)
    assert again.standard_error == pytest.approx(estimate.standard_error, rel=1e-12)


@pytest.mark.parametrize("name", [n for n in SLATE_ESTIMATORS if n.startswith("SN")])
def test_ratios_have_the_standard_error_of_ratios(name: str) -> None:
    # A constant reward in every slot: the ratio is that constant in every log, without any error.
    slates = drawn(
        reward=torch.ones(50, 4), prediction=torch.zeros(50, 4), value=torch.zeros(50, 4)
    )
    estimate = SLATE_ESTIMATORS[name](slates)
    assert estimate.value == pytest.approx(4)
    assert estimate.standard_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", SLATE_ESTIMATORS)
def test_one_position_is_importance_sampling(name: str) -> None:
    slates = drawn(length=1, prediction=torch.zeros(50, 1), value=torch.zeros(50, 1))
    slates = replace(
        slates, log_target_slot=slates.log_target, log_behavior_slot=slates.log_behavior
    )
    expected = SLATE_ESTIMATORS["SNSIPS" if name.startswith("SN") else "SIPS"](slates)
    estimate = SLATE_ESTIMATORS[name](slates)
    assert estimate.value == pytest.approx(expected.value, rel=1e-12)
    assert estimate.standard_error == pytest.approx(expected.standard_error, rel=1e-12)


def test_users_slates_vary_as_a_whole() -> None:
    twice = drawn(25).take(torch.arange(50) // 2)
    one = reward_interaction_ips(replace(twice, cluster=torch.arange(50) // 2))
    assert one.standard_error == pytest.approx(reward_interaction_ips(drawn(25)).standard_error)
    assert one.diagnostics.units == 25


def test_a_position_without_overlap_is_an_error_and_the_worst_one_speaks() -> None:
    slates = drawn()
    log = slates.log_target_slot.clone()
    log[1:, 2] = -torch.inf
    assert independent_ips(replace(slates, log_target_slot=log)).verdict == "meaningless"
    log[:, 2] = -torch.inf
    with pytest.raises(ValueError, match="at position 2 none of the 50 logged items"):
        independent_ips(replace(slates, log_target_slot=log))
    with pytest.raises(ValueError, match="no overlap"):
        standard_ips(replace(slates, log_target=log))


def test_thirty_items_near_probability_1e_6_stay_finite() -> None:
    slates = drawn(length=30)
    logs = {
        name: getattr(slates, name) / 10 + math.log(1e-6) for name in ("log_target", "log_behavior")
    }
    found = reward_interaction_ips(replace(slates, **logs))
    assert math.isfinite(found.value)
    assert standard_ips(replace(slates, **logs)).diagnostics.effective_rows > 1


def test_logs_of_whole_slates_serve_the_estimators_of_whole_slates() -> None:
    slates = drawn()
    whole = replace(
        slates, log_target=slates.log_target.sum(-1), log_behavior=slates.log_behavior.sum(-1)
    )
    assert standard_ips(whole).value == pytest.approx(standard_ips(slates).value)
    with pytest.raises(ValueError, match="needs `log_target` by position"):
        reward_interaction_ips(whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": torch.ones(())}, r"slates need rewards \[N, L\] or \[N\]"),
        ({"log_behavior": None}, "log_target and log_behavior come together"),
        ({"log_target_slot": torch.zeros(50, 3)}, "log_target_slot has shape"),
        ({"log_behavior_slot": torch.full((50, 4), -torch.inf)}, "of slate 0, position 0 is -inf"),
        ({"log_target": torch.full((50, 4), 0.5)}, "are these probabilities"),
        ({"prediction": torch.ones(50)}, r"prediction has shape \(50,\)"),
        (
            {"mask": torch.tensor([0, 1, 1, 1]).expand(50, 4)},
            "slate 0 has no position at its start",
        ),
        ({"cluster": torch.ones(3)}, "cluster has 3 entries for 50 slates"),
    ],
)
def test_columns_that_are_none_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(**change)


@pytest.mark.parametrize("name", SLATE_ESTIMATORS)
def test_what_is_missing_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="this estimator needs `log_target"):
        SLATE_ESTIMATORS[name](LoggedSlates(torch.ones(5, 2)))
