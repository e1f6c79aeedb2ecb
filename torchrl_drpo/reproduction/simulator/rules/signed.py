"""Rules that repel what is worse than a baseline: the signed loss and AsymRE."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.reproduction.simulator.ensemble import Scores
from torchrl_drpo.reproduction.simulator.rules.base import Rule


class Signed(Rule):
    """The signed loss (``RepulsiveLoss``): APG, its scales and its tapers.

    Args:
        negative_scale: alpha; 0 is positive-only learning.
        taper: of the remoteness; ``None`` for none.
        per_dimension: whether D is divided by the action's dimension.
        baseline: ``"mean"`` or ``"min"``, of the batch, or a number of standard deviations above
            the batch mean.
        normalize: divide the advantage by its batch standard deviation.
        quality: the signal.
    """

    def __init__(
        self,
        *,
        negative_scale: float = 1.0,
        taper: Callable[[Tensor], Tensor] | None = None,
        per_dimension: bool = True,
        baseline: str | float = "mean",
        normalize: bool = True,
        quality: str = "reward",
    ) -> None:
        super().__init__(quality)
        self.negative_scale, self.taper = negative_scale, taper
        self.per_dimension, self.baseline, self.normalize = per_dimension, baseline, normalize

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """The advantage over the count."""
        quality = batch[self.quality]
        spread = quality.std(-1, keepdim=True)
        if self.baseline == "min":
            advantage = quality - quality.amin(-1, keepdim=True)
        else:
            shift = 0.0 if self.baseline == "mean" else float(self.baseline)
            advantage = quality - quality.mean(-1, keepdim=True) - shift * spread
        if self.normalize:
            advantage = advantage / (spread + 1e-8)
        weight = torch.where(advantage < 0, self.negative_scale * advantage, advantage)
        return weight / quality.shape[-1]

    def reweigh(self, weight: Tensor, scores: Scores, batch: TensorDict, step: int) -> Tensor:
        """Negatives fade with their remoteness."""
        if self.taper is None:
            return weight
        distance = scores.distance
        if self.per_dimension:
            distance = distance / scores.sigma.shape[-1]
        return torch.where(weight < 0, weight * self.taper(distance), weight)


class Asymmetric(Rule):
    """AsymRE (``AsymRELoss``): the baseline below the mean, or a fixed weight of negatives.

    Args:
        shift: offset of the baseline from the batch mean, in units of the quality.
        negative_weight: of negative advantages.
        quality: the signal.
    """

    def __init__(
        self, *, shift: float = 0.0, negative_weight: float = 0.1, quality: str = "reward"
    ) -> None:
        super().__init__(quality)
        self.shift, self.negative_weight = shift, negative_weight

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """Signed weights over the count."""
        quality = batch[self.quality]
        advantage = quality - quality.mean(-1, keepdim=True) - self.shift
        weight = torch.where(advantage < 0, self.negative_weight * advantage, advantage)
        return weight / batch.shape[-1]
