"""Who is served, and where what was served is kept: users, and the buffer of log and served rows.

A row of the buffer holds the rows of all seeds, which are therefore drawn together: a row's number
says nothing of what is in it, so the seeds are as independent as their logs. The split of every
batch between the fixed log and what was served is that of TorchRL's
``OfflineToOnlineReplayBuffer``.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyTensorStorage, OfflineToOnlineReplayBuffer, ReplayBuffer

from torchrl_drpo.envs.streams import stream
from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble
from torchrl_drpo.reproduction.simulator.worlds import Worlds

_BUFFER_STREAM = 106


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
        self.generators = [stream(seed, "served") for seed in worlds.seeds]

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
