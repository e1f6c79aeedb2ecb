"""BPPO: behaviour cloning, then steps that stay near it."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble, Scores
from torchrl_drpo.reproduction.simulator.rules.base import Rule
from torchrl_drpo.reproduction.simulator.worlds import Worlds


class Proximal(Rule):
    """BPPO (``BPPOLoss``): clones the log for half of the steps, then PPO's clipped objective.

    The gradient of the surrogate is that of weights A r, zero where the clip is active.

    Args:
        clip_epsilon: epsilon.
        quality: the signal; the advantage is its normalised distance from the batch mean.
    """

    def __init__(self, *, clip_epsilon: float = 0.2, quality: str = "reward") -> None:
        super().__init__(quality)
        self.clip_epsilon = clip_epsilon

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Keeps what the snapshot needs."""
        self.half, self.worlds, self.policies = steps // 2, worlds, policies

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """Ones, then the advantage."""
        if step < self.half:
            return torch.full_like(batch["reward"], 1.0 / batch.shape[-1])
        if step == self.half:
            log = self.worlds.log
            old = self.policies.score(log["observation"], log["action"]).log_prob
            log["old_log_prob"] = old
        quality = batch[self.quality]
        advantage = quality - quality.mean(-1, keepdim=True)
        return advantage / (quality.std(-1, keepdim=True) + 1e-8) / batch.shape[-1]

    def reweigh(self, weight: Tensor, scores: Scores, batch: TensorDict, step: int) -> Tensor:
        """The ratio, where it is not clipped away."""
        if step < self.half:
            return weight
        old = self.worlds.log["old_log_prob"].gather(-1, batch["row"])
        ratio = torch.exp((scores.log_prob - old).clamp_max(20.0))
        free = torch.where(
            weight >= 0, ratio <= 1 + self.clip_epsilon, ratio >= 1 - self.clip_epsilon
        )
        return weight * ratio * free
