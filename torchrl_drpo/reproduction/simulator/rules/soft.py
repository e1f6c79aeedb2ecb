"""Rules that drop no row: behaviour cloning and AWR."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.functional.weights import exponential_weights
from torchrl_drpo.reproduction.simulator.rules.base import Rule


class Imitation(Rule):
    """Behaviour cloning (``BehaviorCloningLoss``)."""

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """Every row weighs the same."""
        return torch.full_like(batch["reward"], 1.0 / batch.shape[-1])


class Exponential(Rule):
    """AWR (``AWRLoss``): exp(R / beta), normalised to mean one over the batch, capped.

    Args:
        temperature: beta, in units of the quality.
        max_weight: cap, after the normalisation; ``None`` for none.
        quality: the signal.
    """

    def __init__(
        self,
        *,
        temperature: float,
        max_weight: float | None = 20.0,
        quality: str = "reward",
    ) -> None:
        super().__init__(quality)
        self.temperature, self.max_weight = temperature, max_weight

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """Soft weights: no row is dropped."""

        def rule(quality: Tensor) -> Tensor:
            return exponential_weights(
                quality,
                temperature=self.temperature,
                max_weight=self.max_weight,
                normalize=True,
            )

        return torch.vmap(rule)(batch[self.quality]) / batch.shape[-1]
