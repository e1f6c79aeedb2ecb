"""Offline to online: policies that go on learning from what they serve, all seeds at once.

A row of the buffers holds the rows of all seeds. The split of every batch between the fixed log
and what was served is that of TorchRL's ``OfflineToOnlineReplayBuffer``.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyTensorStorage, OfflineToOnlineReplayBuffer, ReplayBuffer

from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble
from torchrl_drpo.reproduction.simulator.runs import build_rule, build_setup
from torchrl_drpo.reproduction.simulator.training import LATE_WINDOW
from torchrl_drpo.reproduction.simulator.worlds import Worlds

_SERVE_STREAM, _BUFFER_STREAM = 105, 106
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
    setting = worlds.setup.world
    policies = PolicyEnsemble(seeds, setting.state_dim, setting.action_dim, device=device)
    optimizer = torch.optim.Adam(list(policies.parameters.values()), lr=_LEARNING_RATE, fused=True)
    rounds = math.ceil(online_steps / serve_every)
    buffer = make_buffer(worlds, rounds * served, offline_fraction)
    audience = Audience(worlds, served)
    rule, stream = build_rule(method), copy.copy(worlds)
    total = offline_steps + online_steps
    rule.prepare(stream, policies, total)
    row = torch.arange(batch_size, device=worlds.device).expand(len(seeds), -1)
    every = max(1, total // evaluations)
    history: list[tuple[int, dict[str, list[float]]]] = []
    seen: dict[str, list[Tensor]] = {}
    for step in range(-offline_steps, online_steps):
        if step >= 0 and step % serve_every == 0:
            rows = audience.serve(policies)
            buffer.extend(rows)
            seen.setdefault("served_reward", []).append(rows["latent_reward"].mean(0))
        drawn = buffer.sample(batch_size)
        # To the rules a step's batch is the log, of which they read every row.
        stream.log = drawn.apply(lambda v: v.transpose(0, 1).contiguous(), batch_size=row.shape)
        batch = stream.log.select("reward", "online").set("row", row)
        weight = rule.weigh(batch, step + offline_steps)
        scores = policies.score(stream.log["observation"], stream.log["action"])
        weight = rule.reweigh(weight, scores, batch, step + offline_steps)
        policies.backward(scores, weight)
        optimizer.step()
        if step >= 0:
            for name, value in shares(weight, batch["online"]).items():
                seen.setdefault(name, []).append(value)
        if (step + offline_steps + 1) % every == 0 or step + 1 == online_steps:
            found = worlds.evaluate(policies.mean(worlds.users))
            found |= {name: torch.stack(v).mean(0).tolist() for name, v in seen.items()}
            seen.clear()
            history.append((step + 1, found))
    return {**_summary(history, online_steps), "ends": worlds.ends()}


def make_buffer(worlds: Worlds, capacity: int, fraction: float) -> OfflineToOnlineReplayBuffer:
    """The log as the offline part, and room for what will be served; seeded."""
    log = worlds.log.select("observation", "action", "reward", "latent_reward")
    log = log.set("online", torch.zeros_like(log["reward"]))
    log = log.apply(lambda v: v.transpose(0, 1).contiguous(), batch_size=[log.shape[1]])
    offline = ReplayBuffer(storage=LazyTensorStorage(len(log)))
    offline.extend(log)
    buffer = OfflineToOnlineReplayBuffer(
        offline, online_capacity=capacity, offline_fraction=fraction
    )
    for number, part in enumerate((buffer.offline_buffer, buffer.online_buffer)):
        part.set_rng(torch.Generator().manual_seed(_BUFFER_STREAM + number))
    return buffer


class Audience:
    """New users of every seed's world, to be served.

    Args:
        worlds: whose.
        count: users of a round.
    """

    def __init__(self, worlds: Worlds, count: int) -> None:
        self.worlds, self.count = worlds, count
        self.generators = [
            torch.Generator().manual_seed(1_000 * seed + _SERVE_STREAM) for seed in worlds.seeds
        ]

    @torch.no_grad()
    def serve(self, policies: PolicyEnsemble) -> TensorDict:
        """One round: rows ``[count]`` of the buffer's form, each holding all seeds."""
        pairs = list(zip(self.worlds.worlds, self.generators, strict=True))
        states = torch.stack([w.draw_states(self.count, generator=g) for w, g in pairs])
        mean = policies.mean(states.to(self.worlds.device)).cpu()
        sigma = policies.sigma.cpu()
        columns: dict[str, list[Tensor]] = {"action": [], "reward": [], "latent_reward": []}
        for number, (world, generator) in enumerate(pairs):
            noise = torch.randn(mean.shape[1:], generator=generator)
            item = world.retrieve(mean[number] + sigma[number] * noise)
            latent = world.latent_reward(world.interest(states[number]), item)
            columns["action"].append(world.items[item])
            columns["reward"].append(world.observed_reward(latent, generator))
            columns["latent_reward"].append(latent)
        rows = {name: torch.stack(values, 1) for name, values in columns.items()}
        rows["observation"] = states.transpose(0, 1).contiguous()
        rows["online"] = torch.ones_like(rows["reward"])
        return TensorDict(rows, batch_size=[self.count]).to(self.worlds.device)


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
            curves.setdefault(name, []).append((step, [_number(v) for v in values]))
    late = [found for step, found in history if step > (1 - LATE_WINDOW) * online_steps]
    metrics = {
        name: [_number(sum(column) / len(late)) for column in zip(*rows, strict=True)]
        for name, rows in ((name, [found[name] for found in late]) for name in late[0])
    }
    return {"metrics": metrics, "curves": curves}


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
