"""Sessions: put together from flat rows, cut, and refused where they are none."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from torch import Tensor

from torchrl_drpo import LogSchema, RecReplayBuffer
from torchrl_drpo.evaluation.off_policy import LoggedRows
from torchrl_drpo.evaluation.off_policy.sequences import LoggedSessions

SESSION = torch.tensor([7, 7, 4, 7, 9, 4])
STEP = torch.tensor([2, 0, 1, 1, 0, 0])
ENDED = torch.tensor([True, False, True, False, False, False])


def rows(cluster: Tensor | None = None) -> LoggedRows:
    number = torch.arange(6.0)
    return LoggedRows(
        number, -number, -number / 2, prediction=10 + number, value=20 + number, cluster=cluster
    )


def test_rows_in_any_order_become_sessions() -> None:
    cluster = torch.tensor([1, 1, 0, 1, 1, 0])
    found = LoggedSessions.from_rows(
        rows(cluster),
        SESSION,
        step=STEP,
        terminated=ENDED,
        next_value=100 + torch.arange(6.0),
        gamma=0.5,
    )
    at = torch.tensor([[5, 2, 0], [1, 3, 0], [4, 0, 0]]).double()  # which row
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    at_hand = torch.where(mask, at, 0.0)
    torch.testing.assert_close(found.reward, at_hand)
    torch.testing.assert_close(found.log_target, -at_hand)
    torch.testing.assert_close(found.prediction, torch.where(mask, 10 + at, 0.0))
    torch.testing.assert_close(found.value, torch.where(mask, 20 + at, 0.0))
    assert torch.equal(found.mask, mask)
    assert found.lengths.tolist() == [2, 3, 1]
    assert found.truncated.tolist() == [False, False, True]
    assert found.final_value.tolist() == [0, 0, 104]
    assert found.cluster.tolist() == [0, 1, 1]
    assert found.returns().tolist() == [5 + 1, 1 + 1.5, 4 + 52]
    # Weights go on as they were when a session has ended.
    assert found.log_weights.tolist() == [
        [-2.5, -3.5, -3.5],
        [-0.5, -2.0, -2.0],
        [-2.0, -2.0, -2.0],
    ]


def test_the_order_of_the_rows_is_the_steps_where_none_are_given() -> None:
    order = STEP.argsort(stable=True)
    given = LoggedSessions.from_rows(rows(), SESSION, step=STEP)
    found = LoggedSessions.from_rows(rows().take(order), SESSION[order])
    assert torch.equal(found.reward, given.reward)
    assert found.truncated is None


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_first_steps_are_complete_once_they_are_there(steps: int) -> None:
    terminated = torch.zeros(6, dtype=torch.bool)
    whole = LoggedSessions.from_rows(rows(), SESSION, step=STEP, terminated=terminated)
    found = LoggedSessions.from_rows(rows(), SESSION, step=STEP, terminated=terminated, steps=steps)
    for cut in (found, whole.first(steps)):
        assert torch.equal(cut.reward, whole.reward[:, :steps])
        assert torch.equal(cut.mask, whole.mask[:, :steps])
        assert cut.truncated.tolist() == [length < steps for length in (2, 3, 1)]
        assert cut.prediction is None  # what a model says of all steps is not of the first ones


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": STEP + 1}, "session 4 has step 1 where 0 was expected"),
        ({"step": torch.tensor([3, 0, 1, 1, 0, 0])}, "session 7 has step 3 where 2 was expected"),
        ({"step": torch.tensor([1, 0, 1, 1, 0, 0])}, "session 7 has step 1 where 2 was expected"),
        ({"terminated": ~ENDED}, "session 4 is terminated at step 0 and goes on"),
        ({"next_value": torch.zeros(6), "terminated": None}, "say which rows end a session"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"session": SESSION[:5]}, "session has 5 entries for 6 rows"),
        ({"rows": rows(torch.arange(6))}, "session 4 has rows of two clusters"),
    ],
)
def test_rows_that_are_no_sessions_are_refused(change: dict, message: str) -> None:
    given = {"rows": rows(), "session": SESSION, "step": STEP, "terminated": ENDED} | change
    with pytest.raises(ValueError, match=message):
        LoggedSessions.from_rows(**given)


def test_a_buffers_rows_become_its_sessions() -> None:
    log = pd.DataFrame(
        {
            "u": [1, 1, 1, 2, 2, 3],
            "i": [5, 6, 5, 6, 6, 5],
            "t": [3, 1, 2, 1, 2, 1],
            "click": [1.0, 0.0, 1.0, 1.0, 0.0, 1.0],
            "p": [0.5, 0.25, 0.125, 0.5, 0.5, 1.0],
            "end": [True, False, False, False, False, True],
        }
    )
    schema = LogSchema(
        user="u", item="i", time="t", quality="click", propensity="p", terminal="end"
    )
    found = RecReplayBuffer.from_pandas(log, schema, batch_size=2)[:]
    sessions = LoggedSessions.from_rows(
        LoggedRows(found["next", "reward"], torch.full((6,), 0.5).log(), found["propensity"].log()),
        found["trajectory_id"],
        step=found["step"],
        terminated=found["next", "terminated"],
    )
    expected = torch.tensor([[2.0, 8, 8], [1, 1, 1], [0.5, 0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(sessions.log_weights.exp(), expected, rtol=1e-6, atol=0)
    assert sessions.truncated.tolist() == [False, True, False]
    assert sessions.lengths.tolist() == [3, 2, 1]


HALF = torch.full((2, 3), 0.5).log()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": torch.ones(6)}, r"need rewards \[S, T\], got shape \(6,\)"),
        ({"reward": torch.ones(0, 3)}, r"need rewards \[S, T\]"),
        (
            {"reward": HALF.clone().index_fill_(0, torch.tensor(1), math.nan)},
            "of session 1, step 0",
        ),
        ({"log_target": torch.ones(2, 2)}, r"log_target has shape \(2, 2\), expected \(2, 3\)"),
        ({"log_target": torch.full((2, 3), 0.5)}, "are these probabilities"),
        ({"log_behavior": torch.full((2, 3), -torch.inf)}, "the logging policy did this"),
        ({"mask": torch.tensor([[1, 0, 1], [1, 1, 1]])}, "session 0 has a gap before step 2"),
        ({"mask": torch.tensor([[1, 1, 1], [0, 1, 1]])}, "session 1 has no step at its start"),
        ({"mask": torch.ones(2)}, "mask has shape"),
        ({"gamma": 1.1}, r"gamma must lie in \[0, 1\], got 1.1"),
        ({"cluster": torch.ones(3)}, "cluster has 3 entries for 2 sessions"),
        ({"final_value": torch.ones(2)}, "final_value is for truncated sessions"),
        (
            {"final_value": torch.full((2,), math.nan), "truncated": torch.tensor([0, 1])},
            "final_value of session 1 is nan",
        ),
    ],
)
def test_columns_that_are_none_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoggedSessions(**({"reward": HALF, "log_target": HALF, "log_behavior": HALF} | change))


def test_densities_may_lie_above_1() -> None:
    log = torch.full((2, 3), 2.0)
    assert LoggedSessions(HALF, log, log + 1, density=True).log_weights[0, 2] == -3
