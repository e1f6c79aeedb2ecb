"""Calibration of propensities, against sums over whole tables and repeated logs."""

from __future__ import annotations

import json
import math

import pytest
import torch

from torchrl_drpo.evaluation.off_policy.calibration import calibrate

ROWS, DRAWS = 2_000, 4


def drawn_from(table: torch.Tensor, state: torch.Tensor, count: int) -> torch.Tensor:
    """``[count, N]`` actions of a policy ``[S, A]``."""
    return torch.multinomial(table[state], count, replacement=True).T


def compared(table: torch.Tensor, model: torch.Tensor, rows: int = ROWS, draws: int = DRAWS):
    """Calibration of ``model`` on a log of ``table``, both ``[S, A]``."""
    state = torch.randint(len(table), (rows,))
    logged = drawn_from(table, state, 1)[0]
    drawn = drawn_from(model, state, draws)
    log_model = model.log()
    return state, logged, calibrate(log_model[state, logged], log_model[state, drawn])


def test_shares_are_those_of_all_rows_and_items() -> None:
    # Three propensities, a bin each, whose mass a table adds up exactly.
    model = torch.tensor([[0.15, 0.3, 0.55], [0.55, 0.15, 0.3]]).double()
    policy = torch.tensor([[0.2, 0.2, 0.6], [0.5, 0.1, 0.4]]).double()
    state, logged, found = compared(policy, model, rows=20_000, draws=8)
    p = model[state]
    for b, level in enumerate(model[0].tolist()):
        mass = (p * (p == level)).sum() / len(state)
        assert found.predicted[b] == pytest.approx(mass.item(), abs=0.01)
        share = (model[state, logged] == level).double().mean().item()
        assert found.observed[b] == pytest.approx(share, abs=1e-12)
        assert found.log_propensity[b] == pytest.approx(math.log(level), rel=1e-9)
        assert found.excess[b] == pytest.approx(found.predicted[b] / share, rel=1e-12)
    apart = [abs(p - o) for p, o in zip(found.predicted, found.observed, strict=True)]
    assert found.error == pytest.approx(sum(apart) / 2, rel=1e-12)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_error_by_chance_is_the_mean_error_of_a_right_model(spread: float) -> None:
    policy = torch.softmax(spread * torch.randn(5, 40), -1).double()
    found = [compared(policy, policy)[2] for _ in range(200)]
    mean = sum(each.error for each in found) / len(found)
    by_chance = sum(each.error_by_chance for each in found) / len(found)
    assert mean == pytest.approx(by_chance, rel=0.1, abs=1e-12)


def test_chance_moves_nothing_where_the_state_alone_decides_the_propensity() -> None:
    # One state has 2 actions, one 10: the same propensity whatever is logged.
    policy = torch.zeros(2, 10).double()
    policy[0, :2], policy[1] = 0.5, 0.1
    _, _, found = compared(policy, policy)
    assert found.error == found.error_by_chance == 0
    assert len(found.observed) == 2
    _, _, single = compared(policy, policy, draws=1)
    assert single.error_by_chance > 0  # one draw a row cannot tell


def test_a_wrong_model_is_told_from_chance() -> None:
    policy = torch.softmax(torch.randn(5, 40), -1).double()
    sharper = torch.softmax(2 * policy.log(), -1)
    _, _, found = compared(policy, sharper)
    assert found.error > 5 * found.error_by_chance
    assert found.excess[0] < 1 < found.excess[-1]  # too sure of what is likely
    assert sum(found.predicted) == pytest.approx(1)


def test_likelihoods_that_are_impossible_lie_in_the_lowest_bin() -> None:
    drawn = torch.tensor([[0.2, 0.8] * 50]).double().log()
    logged = torch.full((100,), -torch.inf).double()
    found = calibrate(logged, drawn)
    assert found.observed == (1.0, 0.0)
    assert found.excess[1] == float("inf")
    assert found.error == pytest.approx(0.5)
    assert "50.0% of the rows" in str(found)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["error"] == found.error
