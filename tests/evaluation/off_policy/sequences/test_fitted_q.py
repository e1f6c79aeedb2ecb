"""Fitted Q evaluation against dynamic programming over the log's own frequencies."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.sequences import (
    LoggedSessions,
    StepInputs,
    fitted_q,
    per_decision_is,
    ridge,
    sequential_direct_method,
    sequential_doubly_robust,
    with_fitted_q,
)

STATES, ACTIONS, GAMMA = 3, 2, 0.9
TARGET = torch.tensor([[0.3, 0.7], [0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
BEHAVIOR = torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.4, 0.6]], dtype=torch.float64)
CELLS = torch.eye(STATES * ACTIONS, dtype=torch.float64)


def world(sessions: int, steps: int, *, cut: bool = False, seed: int = 0):
    """A walk over three states that a session may leave after each step, and its inputs."""
    g = torch.Generator().manual_seed(seed)
    state = torch.zeros(sessions, steps + 1, dtype=torch.long)
    state[:, 0] = torch.randint(STATES, (sessions,), generator=g)
    action = torch.zeros(sessions, steps, dtype=torch.long)
    for t in range(steps):
        action[:, t] = torch.multinomial(BEHAVIOR[state[:, t]], 1, generator=g)[:, 0]
        jump = torch.rand(sessions, generator=g) < 0.2
        state[:, t + 1] = (state[:, t] + 1 + action[:, t] + jump) % STATES
    leaves = torch.rand(sessions, steps, generator=g) < 0.3
    if cut:
        leaves[:, steps // 2 :] = False
    ended = leaves.any(-1)
    length = torch.where(ended, leaves.int().argmax(-1) + 1, steps)
    now = state[:, :steps]
    noise = torch.randn(sessions, steps, generator=g, dtype=torch.float64)
    logged = LoggedSessions(
        reward=now.double() * action + 0.1 * noise,
        log_target=TARGET[now, action].log(),
        log_behavior=BEHAVIOR[now, action].log(),
        mask=torch.arange(steps) < length.unsqueeze(-1),
        truncated=~ended if cut else None,
        gamma=GAMMA,
    )
    every = CELLS.reshape(STATES, ACTIONS, -1)
    inputs = StepInputs(CELLS[now * ACTIONS + action], every[now], TARGET[now])
    return logged, inputs, state, action


def programming(logged: LoggedSessions, state: Tensor, action: Tensor, rounds: int, go_on: bool):
    """Q by frequencies: the mean of r + gamma V(s') of each state and action, again and again."""
    table = torch.zeros(STATES, ACTIONS, dtype=torch.float64)
    for _ in range(rounds):
        value, targets = (TARGET * table).sum(-1), {}
        for s in range(len(logged)):
            length = int(logged.lengths[s])
            for t in range(length):
                last = t == length - 1
                truncated = last and logged.truncated is not None and bool(logged.truncated[s])
                if truncated and not go_on:
                    continue
                after = value[state[s, t + 1]].item() if truncated or not last else 0.0
                cell = (int(state[s, t]), int(action[s, t]))
                target = logged.reward[s, t].item() + GAMMA * after
                targets.setdefault(cell, []).append(target)
        table = torch.zeros_like(table)
        for cell, found in targets.items():
            table[cell] = sum(found) / len(found)
    return table


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("go_on", [False, True])
def test_a_table_is_dynamic_programming(cut: bool, go_on: bool) -> None:
    logged, inputs, state, action = world(60, 6, cut=cut)
    if go_on:
        last = state.gather(1, logged.lengths.unsqueeze(-1)).squeeze(-1)
        every = CELLS.reshape(STATES, ACTIONS, -1)
        inputs = replace(inputs, following=every[last], following_probability=TARGET[last])
    expected = programming(logged, state, action, 6, go_on)
    q = fitted_q(logged, inputs, ridge(1e-9), iterations=6)
    torch.testing.assert_close(q(CELLS).reshape(STATES, ACTIONS), expected, atol=1e-7, rtol=0)


def test_a_given_final_value_is_what_follows_a_cut() -> None:
    logged, inputs, state, action = world(60, 6, cut=True)
    after = torch.linspace(1, 3, 60).double()
    q = fitted_q(replace(logged, final_value=after), inputs, ridge(1e-9), iterations=1)
    paid = logged.reward.clone()
    for s in logged.truncated.nonzero().flatten().tolist():
        paid[s, logged.lengths[s] - 1] += GAMMA * after[s]
    plain = replace(logged, reward=paid, truncated=None)
    expected = programming(plain, state, action, 1, go_on=False)
    torch.testing.assert_close(q(CELLS).reshape(STATES, ACTIONS), expected, atol=1e-7, rtol=0)


def test_a_tensordict_is_read_and_draws_stand_for_probabilities() -> None:
    logged, inputs, *_ = world(40, 4)
    drawn = CELLS.reshape(STATES, ACTIONS, -1)[torch.zeros(40, 4, dtype=torch.long)]
    by_tensor = StepInputs(inputs.logged, drawn)

    def boxed(x: Tensor) -> TensorDict:
        return TensorDict({"x": x}, batch_size=x.shape[:-1])

    plain = ridge()

    def fit(rows: TensorDict, target: Tensor):
        q = plain(rows["x"], target)
        return lambda found: q(found["x"]).unsqueeze(-1)

    given = StepInputs(boxed(inputs.logged), boxed(drawn))
    expected = fitted_q(logged, by_tensor, plain)(CELLS)
    torch.testing.assert_close(fitted_q(logged, given, fit)(boxed(CELLS)).squeeze(-1), expected)
    uniform = replace(by_tensor, probability=torch.full((40, 4, ACTIONS), 0.5))
    torch.testing.assert_close(fitted_q(logged, uniform, plain)(CELLS), expected)


def test_no_session_is_judged_by_a_function_that_saw_it_or_its_cluster() -> None:
    logged, inputs, *_ = world(40, 4)
    logged = replace(logged, cluster=torch.arange(40) // 2)
    found = with_fitted_q(logged, inputs, ridge(), folds=3)
    reward = logged.reward.clone()
    reward[:2] += 100
    other = with_fitted_q(replace(logged, reward=reward), inputs, ridge(), folds=3)
    assert torch.equal(found.prediction[:2], other.prediction[:2])
    assert torch.equal(found.value[:2], other.value[:2])
    assert not torch.allclose(found.value[2:], other.value[2:])
    assert (found.value[~logged.mask] == 0).all()


def test_fitted_q_makes_the_doubly_robust_interval_narrower_around_the_value() -> None:
    value = [0.0] * STATES
    for _ in range(12):  # of the world itself, which a session leaves with probability .3 a step
        after = [
            [0.8 * value[(s + 1 + a) % 3] + 0.2 * value[(s + 2 + a) % 3] for a in (0, 1)]
            for s in range(3)
        ]
        value = [
            sum(TARGET[s, a].item() * (s * a + GAMMA * 0.7 * after[s][a]) for a in (0, 1))
            for s in range(3)
        ]
    logged, inputs, *_ = world(1_000, 12, seed=6)
    found = with_fitted_q(logged, inputs, ridge())
    better, plain = sequential_doubly_robust(found), per_decision_is(logged)
    assert better.standard_error < 0.8 * plain.standard_error
    assert better.low < sum(value) / 3 < better.high
    assert sequential_direct_method(found).value == pytest.approx(sum(value) / 3, abs=0.05)


def test_truncated_sessions_go_on_by_the_fitted_function() -> None:
    logged, inputs, state, _ = world(200, 6, cut=True)
    last = state.gather(1, logged.lengths.unsqueeze(-1)).squeeze(-1)
    every = CELLS.reshape(STATES, ACTIONS, -1)
    inputs = replace(inputs, following=every[last], following_probability=TARGET[last])
    with pytest.raises(ValueError, match="iterations is needed where truncated sessions go on"):
        with_fitted_q(logged, inputs, ridge())
    found = with_fitted_q(logged, inputs, ridge(), iterations=30)
    cut = logged.truncated
    assert (found.final_value[cut] != 0).all()
    assert (found.final_value[~cut] == 0).all()
    sequential_doubly_robust(found)  # and no warning is left


@pytest.mark.parametrize(
    ("change", "fit", "message"),
    [
        ({"logged": torch.zeros(40, 3, 6)}, ridge(), r"logged has shape \(40, 3, 6\)"),
        ({"policy": torch.zeros(39, 4, 2, 6)}, ridge(), r"policy has shape \(39, 4, 2, 6\)"),
        (
            {"probability": torch.ones(40, 4, 2)},
            ridge(),
            "sum to 1 in each state; they miss it by 1",
        ),
        ({}, lambda x, y: lambda rows: rows, "one number a row, 2"),
        ({}, lambda x, y: lambda rows: rows[:, 0] * torch.inf, "diverged in round 2 of 4"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: dict, fit, message: str) -> None:
    logged, inputs, *_ = world(40, 4)
    with pytest.raises(ValueError, match=message):
        fitted_q(logged, replace(inputs, **change), fit)


def test_other_arguments_are_refused() -> None:
    logged, inputs, *_ = world(40, 4)
    with pytest.raises(ValueError, match="penalty must be above 0, got 0"):
        ridge(0.0)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        fitted_q(logged, inputs, ridge(), iterations=0)
    with pytest.raises(ValueError, match="no step whose reward and successor are known"):
        fitted_q(logged, inputs, ridge(), learn_from=torch.zeros(40, dtype=torch.bool))
