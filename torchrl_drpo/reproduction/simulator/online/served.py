"""Offline to online: policies that go on learning from what they serve, all seeds at once."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.evaluation.statistics import late_window
from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble
from torchrl_drpo.reproduction.simulator.online.audience import Audience, make_buffer
from torchrl_drpo.reproduction.simulator.rules import Rule
from torchrl_drpo.reproduction.simulator.runs import build_rule, build_setup
from torchrl_drpo.reproduction.simulator.training import json_number
from torchrl_drpo.reproduction.simulator.worlds import Worlds

_LEARNING_RATE = 3e-4  # of Adam, the paper's


def run_served(
    *,
    method: Mapping[str, Any],
    setup: Mapping[str, Any],
    seeds: Sequence[int],
    offline_steps: int,
    online_steps: int,
    serve_every: int,
    served: int,
    offline_fraction: float = 0.5,
    batch_size: int = 320,
    evaluations: int = 20,
    device: str = "cpu",
) -> dict[str, Any]:
    """A cell: trains on the log, then on the log and on what the policy serves.

    Args:
        method: a rule's JSON description.
        setup: of the worlds.
        seeds: one world each.
        offline_steps: gradient steps on the log alone.
        online_steps: gradient steps on both.
        serve_every: steps from one round of serving to the next.
        served: users of a round, of each seed; the policy samples its action, the nearest item is
            shown, and the buffer gets the item and its noisy reward.
        offline_fraction: share of the log in an online batch.
        batch_size: rows a step, of each seed.
        evaluations: of the mean action on held-out users, over both phases.
        device: where to train.

    Returns:
        ``curves``: by name, (step, ``[seed]``), with step 0 where serving begins;
        ``metrics``: late-window means of each seed; ``ends`` as any run has them.
    """
    logging.getLogger("torchrl").setLevel(logging.WARNING)  # storages announce themselves
    worlds = Worlds(build_setup(setup), seeds, device)
    total = offline_steps + online_steps
    learner = _Learner(worlds, build_rule(method), total)
    rounds = math.ceil(online_steps / serve_every)
    buffer = make_buffer(worlds, rounds * served, offline_fraction)
    audience = Audience(worlds, served)
    every = max(1, total // evaluations)
    history: list[tuple[int, dict[str, list[float]]]] = []
    seen: dict[str, list[Tensor]] = {}
    for step in range(-offline_steps, online_steps):
        if step >= 0 and step % serve_every == 0:
            rows = audience.serve(learner.policies)
            buffer.extend(rows)
            seen.setdefault("served_reward", []).append(rows["latent_reward"].mean(0))
        done = step + offline_steps
        found = shares(*learner.step(buffer.sample(batch_size), done))
        if step >= 0:
            for name, value in found.items():
                seen.setdefault(name, []).append(value)
        if (done + 1) % every == 0 or step + 1 == online_steps:
            means = {name: torch.stack(values).mean(0).tolist() for name, values in seen.items()}
            seen.clear()
            history.append((step + 1, worlds.evaluate(learner.means()) | means))
    return {**_summary(history, online_steps), "ends": worlds.ends()}


class _Learner:
    """Policies of all seeds, and the rule by which they learn from rows that are drawn for them."""

    def __init__(self, worlds: Worlds, rule: Rule, steps: int) -> None:
        setting = worlds.setup.world
        self.worlds, self.rule, self.stream = worlds, rule, copy.copy(worlds)
        self.policies = PolicyEnsemble(
            worlds.seeds, setting.state_dim, setting.action_dim, device=worlds.device
        )
        parameters = list(self.policies.parameters.values())
        self.optimizer = torch.optim.Adam(parameters, lr=_LEARNING_RATE, fused=True)
        rule.prepare(self.stream, self.policies, steps)

    def means(self) -> Tensor:
        """Mean actions for the held-out users."""
        users = self.worlds.users
        return self.rule.serve(self.policies.mean(users), users)

    def step(self, drawn: TensorDict, step: int) -> tuple[Tensor, Tensor]:
        """One step on rows ``[B]`` of the buffer: weights ``[S, B]``, and which were served."""
        seeds, count = len(self.worlds.seeds), len(drawn)
        log = drawn.apply(lambda v: v.transpose(0, 1).contiguous(), batch_size=[seeds, count])
        # To the rules a step's batch is the log, of which they read every row.
        self.stream.log = log
        row = torch.arange(count, device=self.worlds.device).expand(seeds, -1)
        batch = log.select("reward", "online").set("row", row)
        weight = self.rule.weigh(batch, step)
        scores = self.policies.score(log["observation"], log["action"])
        weight = self.rule.reweigh(weight, scores, batch, step)
        self.policies.backward(scores, weight)
        self.optimizer.step()
        return weight, batch["online"]


def shares(weight: Tensor, online: Tensor) -> dict[str, Tensor]:
    """What becomes of the rows that were served, ``[S]`` each.

    Args:
        weight: of the step, ``[S, B]``.
        online: 1 for a row that was served, ``[S, B]``.

    Returns:
        ``passed``: share of the served rows with positive weight; ``attraction``: their share of
        all positive weight.

    Example:
        >>> found = shares(torch.tensor([[1.0, 3.0, 0.0, -1.0]]), torch.tensor([[0, 1.0, 1, 1]]))
        >>> {name: round(float(value), 3) for name, value in found.items()}
        {'passed': 0.333, 'attraction': 0.75}
    """
    positive = weight.clamp_min(0.0)
    passed = ((positive > 0) * online).sum(-1) / online.sum(-1).clamp_min(1)
    attraction = (positive * online).sum(-1) / positive.sum(-1).clamp_min(1e-30)
    return {"passed": passed, "attraction": attraction}


def _summary(
    history: Sequence[tuple[int, dict[str, list[float]]]], online_steps: int
) -> dict[str, Any]:
    curves: dict[str, list[tuple[int, list[float | None]]]] = {}
    for step, found in history:
        for name, values in found.items():
            curves.setdefault(name, []).append((step, [json_number(v) for v in values]))
    window = late_window([step for step, _ in history], online_steps)
    late = [found for _, found in history[window]]
    metrics = {
        name: [json_number(sum(column) / len(late)) for column in zip(*rows, strict=True)]
        for name, rows in ((name, [found[name] for found in late]) for name in late[0])
    }
    return {"metrics": metrics, "curves": curves}
