"""Fitted Q evaluation: a policy's q^ and V^ from logged steps, by a regressor of the user's.

Q_0 = 0, and Q_{k+1} is a regression of r_t + gamma V_k(s_{t+1}) on (s_t, a_t), with V_k the
expectation of Q_k under the policy: after k rounds it looks k steps ahead. Source: Le, Voloshin and
Yue 2019, "Batch policy learning under constraints" (arXiv 1903.08738), algorithm 3.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.sequences.sessions import LoggedSessions
from torchrl_drpo.evaluation.off_policy.sequences.step_inputs import (
    Fit,
    Predictor,
    StepInputs,
    expected_q,
    predicted_q,
)
from torchrl_drpo.rewards import assign_folds


def fitted_q(
    sessions: LoggedSessions,
    inputs: StepInputs,
    fit: Fit,
    *,
    iterations: int | None = None,
    learn_from: Tensor | None = None,
) -> Predictor:
    """The policy's Q-function, fitted to logged steps.

    Args:
        sessions: of the log; their discount is the one used.
        inputs: of every step.
        fit: the regressor, made anew in each round.
        iterations: rounds, which is how many steps Q looks ahead; as many as the longest session
            has by default, and to be said where a session is truncated and goes on beyond that.
        learn_from: which sessions, bool ``[S]``; all by default.

    Returns:
        The last round's predictor.

    Raises:
        ValueError: for inputs of other shapes, no step to learn from, or targets that diverge.

    Example:
        >>> from torchrl_drpo.evaluation.off_policy.sequences.ridge import ridge
        >>> half = torch.full((4, 2), 0.5).log()  # one state; action 1 earns 1 a step, 0 nothing
        >>> action = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> sessions = LoggedSessions(action.double(), half, half)
        >>> step = torch.eye(2).expand(4, 2, 2, 2)  # features of the step, and of the action
        >>> one_hot = torch.eye(4)
        >>> logged = one_hot[2 * torch.tensor([0, 1]) + action]
        >>> policy = one_hot.reshape(2, 2, 4).expand(4, 2, 2, 4)
        >>> q = fitted_q(sessions, StepInputs(logged, policy), ridge())
        >>> q(one_hot).round(decimals=3).tolist()  # with half a reward to come after step 0
        [0.5, 1.5, 0.0, 1.0]
    """
    rounds = _rounds(sessions, inputs, iterations)
    learned = torch.ones(len(sessions), dtype=torch.bool) if learn_from is None else learn_from
    session, step = _steps_of(sessions, learned)
    if inputs.following is None and sessions.final_value is None and sessions.truncated is not None:
        known = ~(sessions.truncated[session] & (step == sessions.lengths[session] - 1))
        session, step = session[known], step[known]
    if len(session) == 0:
        raise ValueError("fitted Q evaluation has no step whose reward and successor are known")
    rows, reward = inputs.logged[session, step], sessions.reward[session, step]
    predict: Predictor | None = None
    for k in range(rounds):
        following = _values(predict, sessions, inputs, learned)[session, step + 1]
        target = reward + sessions.gamma * following
        if not target.isfinite().all():
            raise ValueError(
                f"fitted Q evaluation diverged in round {k + 1} of {rounds}: its targets are not "
                "finite; regularise the regressor more"
            )
        predict = fit(rows, target)
    assert predict is not None
    return predict


def with_fitted_q(
    sessions: LoggedSessions,
    inputs: StepInputs,
    fit: Fit,
    *,
    folds: int = 5,
    iterations: int | None = None,
    seed: int = 0,
) -> LoggedSessions:
    """The sessions with q^ and V^ of every step, by a Q-function that has not seen the session.

    What :func:`~torchrl_drpo.evaluation.off_policy.sequences.estimators.sequential_doubly_robust`
    follows. Folds are of sessions, or of the clusters that they lie in (Chernozhukov et al. 2018,
    "Double/debiased machine learning").

    Args:
        sessions: of the log.
        inputs: of every step.
        fit: the regressor.
        folds: K, at least 2; each Q-function learns from (K - 1) / K of the sessions.
        iterations: see :func:`fitted_q`.
        seed: of the folds.

    Returns:
        The sessions, with ``prediction`` and ``value``, and with ``final_value`` where ``inputs``
        know the following states.

    Example:
        >>> from torchrl_drpo.evaluation.off_policy.sequences.ridge import ridge
        >>> half = torch.full((20, 2), 0.5).log()  # one state; every step earns 1
        >>> sessions = LoggedSessions(torch.ones(20, 2), half, half)
        >>> step = torch.eye(2).expand(20, 2, 2)
        >>> found = with_fitted_q(sessions, StepInputs(step, step.unsqueeze(2)), ridge())
        >>> found.value[0].round(decimals=3)
        tensor([2., 1.], dtype=torch.float64)
    """
    fold = assign_folds(len(sessions), folds, group=sessions.cluster, seed=seed)
    prediction = torch.zeros_like(sessions.reward)
    value = torch.zeros(len(sessions), sessions.reward.shape[1] + 1, dtype=torch.float64)
    for k in range(folds):
        held = fold == k
        q = fitted_q(sessions, inputs, fit, iterations=iterations, learn_from=~held)
        session, step = _steps_of(sessions, held)
        prediction[session, step] = predicted_q(q, inputs.logged, session, step)
        value[held] = _values(q, sessions, inputs, held)[held]
    final = sessions.final_value
    if inputs.following is not None and sessions.truncated is not None:
        final = value.gather(1, sessions.lengths.unsqueeze(-1)).squeeze(-1)
    return replace(sessions, prediction=prediction, value=value[:, :-1], final_value=final)


def _rounds(sessions: LoggedSessions, inputs: StepInputs, iterations: int | None) -> int:
    """The number of rounds, once the inputs have the sessions' shape."""
    shape, columns = tuple(sessions.reward.shape), {"logged": inputs.logged}
    columns["policy"] = inputs.policy
    for name, given in columns.items():
        if tuple(given.shape[:2]) != shape:
            raise ValueError(
                f"{name} has shape {tuple(given.shape)}; {shape} sessions and steps are expected "
                "first"
            )
    goes_on = inputs.following is not None and sessions.truncated is not None
    if iterations is None:
        if goes_on and sessions.truncated is not None and sessions.truncated.any():
            raise ValueError(
                "iterations is needed where truncated sessions go on: Q looks that many steps ahead"
            )
        return shape[1]
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    return iterations


def _steps_of(sessions: LoggedSessions, which: Tensor) -> tuple[Tensor, Tensor]:
    """Session and step of every logged step of some sessions, int64 ``[M]`` each."""
    session, step = (sessions.mask & which.unsqueeze(-1)).nonzero(as_tuple=True)
    return session, step


def _values(
    predict: Predictor | None, sessions: LoggedSessions, inputs: StepInputs, which: Tensor
) -> Tensor:
    """V^ of every state of some sessions, ``[S, T + 1]``; 0 after the end, and before Q_1."""
    value = torch.zeros(len(sessions), sessions.reward.shape[1] + 1, dtype=torch.float64)
    if predict is not None:
        session, step = _steps_of(sessions, which)
        value[session, step] = expected_q(predict, inputs.policy, inputs.probability, session, step)
    if sessions.truncated is None:
        return value
    cut = (sessions.truncated & which).nonzero().flatten()
    if inputs.following is not None and predict is not None:
        value[cut, sessions.lengths[cut]] = expected_q(
            predict, inputs.following, inputs.following_probability, cut
        )
    elif inputs.following is None and sessions.final_value is not None:
        value[cut, sessions.lengths[cut]] = sessions.final_value[cut]
    return value
