"""Logs of the simulated world, as flat TorchRL (TED) rows."""

from __future__ import annotations

import math

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.envs.behavior import mixture_propensity, sample_items
from torchrl_drpo.envs.settings import Scenario, SessionSetting
from torchrl_drpo.envs.world import RecSimWorld, advance
from torchrl_drpo.functional.checks import check_positive

_ROWS = 2**15  # users served at a time, so that working memory does not grow with the log


def simulate_log(
    world: RecSimWorld,
    n: int,
    scenario: Scenario,
    *,
    generator: torch.Generator,
    session: SessionSetting | None = None,
    propensity: bool = True,
    propensity_draws: int = 128,
) -> TensorDict:
    """Lets the logging mixture serve users and writes down ``n`` rows.

    Without ``session`` each row is another user's only step. With it, rows come session by
    session, in order; sessions are whole but for the last, which is cut at row ``n`` (done, not
    terminated). Propensities draw nothing from ``generator``: the log is the same without them.

    Args:
        world: the simulated world.
        n: rows, at least 1.
        scenario: shares of the three loggers.
        generator: of the world's device.
        session: how sessions go on; ``None`` for one-step users.
        propensity: whether to compute ``propensity``; about a second per 3,000 rows.
        propensity_draws: see :func:`~torchrl_drpo.envs.behavior.expert_probability`.

    Returns:
        Batch ``[n]`` on the world's device: ``observation`` ``[n, state_dim]``, ``action``
        ``[n, d]`` (the item's embedding), ``item``, ``component``, ``latent_reward`` and
        ``propensity`` ``[n]``, with sessions ``trajectory_id`` and ``step`` ``[n]``; under
        ``next``: ``observation``, and ``reward``, ``done``, ``terminated`` ``[n, 1]``.

    Raises:
        ValueError: if ``n`` or ``propensity_draws`` is below 1.
    """
    check_positive("n", n)
    check_positive("propensity_draws", propensity_draws)
    if session is None:
        blocks = [_serve_once(world, rows, scenario, generator) for rows in _split(n)]
        log = torch.cat(blocks)
    else:
        log = _serve_sessions(world, n, scenario, session, generator)
    if propensity:
        interest = world.interest(log["observation"])
        log["propensity"] = mixture_propensity(
            world, interest, log["item"], scenario, draws=propensity_draws
        )
    return log


def _split(n: int) -> list[int]:
    return [min(_ROWS, n - start) for start in range(0, n, _ROWS)]


def _serve(
    world: RecSimWorld, state: Tensor, scenario: Scenario, generator: torch.Generator
) -> TensorDict:
    """One item for each state, with its rewards; ``next`` holds the reward only."""
    interest = world.interest(state)
    item, component = sample_items(world, interest, scenario, generator)
    latent = world.latent_reward(interest, item)
    reward = world.observed_reward(latent, generator).unsqueeze(-1)
    row = {
        "observation": state,
        "action": world.items[item],
        "item": item,
        "component": component,
        "latent_reward": latent,
        "next": {"reward": reward},
    }
    return TensorDict(row, batch_size=state.shape[:1], device=state.device)


def _end(rows: TensorDict, state: Tensor, terminated: Tensor) -> None:
    """Writes the next state and the end flags; done is terminated, to be widened by a cut."""
    rows["next", "observation"] = state
    rows["next", "terminated"] = terminated.unsqueeze(-1)
    rows["next", "done"] = terminated.unsqueeze(-1).clone()


def _serve_once(
    world: RecSimWorld, n: int, scenario: Scenario, generator: torch.Generator
) -> TensorDict:
    state = world.draw_states(n, generator=generator)
    rows = _serve(world, state, scenario, generator)
    _end(rows, state.clone(), torch.ones(n, dtype=torch.bool, device=state.device))
    return rows


def _serve_sessions(
    world: RecSimWorld,
    n: int,
    scenario: Scenario,
    session: SessionSetting,
    generator: torch.Generator,
) -> TensorDict:
    """Sessions side by side, batch after batch until they hold n rows; then sorted and cut."""
    parts: list[TensorDict] = []
    total, first_id = 0, 0
    while total < n:
        # An expected session has at least 1 / leave_probability steps.
        users = min(_ROWS, math.ceil((n - total) * session.leave_probability))
        state = world.draw_states(users, generator=generator)
        trajectory = torch.arange(first_id, first_id + users, device=state.device)
        first_id, step = first_id + users, 0
        while len(trajectory) and step < n:  # no session is ever read beyond its first n steps
            rows = _serve(world, state, scenario, generator)
            state, left = advance(state, rows["latent_reward"], session, generator)
            _end(rows, state, left)
            rows["trajectory_id"] = trajectory
            rows["step"] = torch.full_like(trajectory, step)
            parts.append(rows)
            total, step = total + len(trajectory), step + 1
            state, trajectory = state[~left], trajectory[~left]
    log = torch.cat(parts)
    # Within a session the parts are in order of time already.
    log = log[log["trajectory_id"].argsort(stable=True)[:n]]
    log["next", "done"][-1] = True
    return log
