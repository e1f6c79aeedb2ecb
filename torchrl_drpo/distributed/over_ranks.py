"""The rows of several ranks as one batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from torchrl_drpo.distributed.group import Over, Ranks
from torchrl_drpo.distributed.moments import extremes_over, moments_over
from torchrl_drpo.distributed.selection import select_top_over
from torchrl_drpo.distributed.whole_batch import WholeBatch
from torchrl_drpo.functional.dro_programs import kl_dro_weights
from torchrl_drpo.functional.masks import filled
from torchrl_drpo.functional.precision import at_least_float32
from torchrl_drpo.functional.selection import TopSelection
from torchrl_drpo.functional.weights import exponential_weights


class BatchOverRanks(WholeBatch):
    """The rows of all ranks of a group are one batch, in the order of the ranks.

    Args:
        over: the process group or device mesh.
    """

    among_ranks = True

    def __init__(self, over: Over) -> None:
        self.ranks = Ranks(over)

    @property
    def group(self) -> ProcessGroup:
        """The process group."""
        return self.ranks.group

    def select_top(self, quality: Tensor, kappa: Tensor, **options: Any) -> TopSelection:
        """See :func:`~torchrl_drpo.distributed.selection.select_top_over`."""
        return select_top_over(self.ranks, quality, kappa, **options)

    def kl_weights(
        self, quality: Tensor, kappa: Tensor, temperature: float, mask: Tensor | None
    ) -> Tensor:
        """As on one process: the water level needs all qualities in order, so they are gathered."""
        flat = quality.detach().reshape(-1)
        valid = torch.ones_like(flat, dtype=torch.bool) if mask is None else mask.reshape(-1)
        counts = self.ranks.counts(len(flat), flat)
        every = self.ranks.gather_rows(flat, counts)
        counted = self.ranks.gather_rows(valid.to(torch.uint8), counts).bool()
        weight = kl_dro_weights(every, kappa, temperature, counted)
        return weight.split(counts)[self.ranks.rank].reshape(quality.shape)

    def exponential_weights(
        self, advantage: Tensor, *, mask: Tensor | None, normalize: bool, **rule: Any
    ) -> Tensor:
        """The self-normalised form subtracts the logarithm of the whole batch's mean weight."""
        if normalize:
            advantage = at_least_float32(advantage.detach())
            temperature = rule["temperature"]
            level = self._log_mean_exp(advantage.double() / temperature, mask) * temperature
            advantage = (advantage.double() - level).to(advantage.dtype)
        return exponential_weights(advantage, mask=mask, **rule)

    def centred(self, values: Tensor, mass: Tensor | None = None) -> Tensor:
        """Differences are taken in float64."""
        values = at_least_float32(values)
        found = moments_over(self.ranks, values, mass)
        apart = (values.double() - found.shift - found.mean).to(values.dtype)
        return apart if mass is None else torch.where(mass > 0, apart, 0.0)

    def std(self, values: Tensor, mass: Tensor | None = None) -> Tensor:
        """The same bits for any number of ranks."""
        values = at_least_float32(values)
        return moments_over(self.ranks, values, mass).std.to(values.dtype)

    def minimum(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """``inf`` without any row."""
        return extremes_over(self.ranks, values, mask)[1].to(values.dtype)

    def count(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """Of all ranks."""
        valid = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
        return self.sums(valid.sum())[0].clamp_min(1)

    def sums(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """One collective for all parts, in float64."""
        flat = torch.cat([part.detach().double().reshape(-1) for part in parts])
        found = self.ranks.sum(flat).split([part.numel() for part in parts])
        return tuple(
            total.reshape(part.shape).to(part.dtype)
            for total, part in zip(found, parts, strict=True)
        )

    def effective_sample_size(self, weight: Tensor) -> Tensor:
        """Of the whole batch, in rows."""
        size = at_least_float32(weight.detach()).abs().double()
        total, squares = self.sums(size.sum(), size.square().sum())
        return torch.where(squares > 0, total.square() / squares, 0.0).to(weight.dtype)

    def negative_mass_ratio(self, weight: Tensor, *, dim: int | None = None) -> Tensor:
        """Of the whole batch."""
        signed = weight.detach().double()
        against, toward = self.sums(signed.clamp_max(0.0).sum(dim), signed.clamp_min(0.0).sum(dim))
        ratio = torch.where(against == 0, 0.0, -against / toward)
        return ratio.to(at_least_float32(weight).dtype)

    def loss(self, share: Tensor) -> Tensor:
        """The global loss, with R times the gradient of this rank's share.

        The mean over ranks of these gradients, which DDP and FSDP2 take, is that of the loss.
        """
        return _GlobalLoss.apply(share, self.ranks)

    def _log_mean_exp(self, exponent: Tensor, mask: Tensor | None) -> Tensor:
        """Logarithm of the mean of exp over all valid rows, 0-d, float64."""
        exponent = filled(exponent, mask, -torch.inf).reshape(-1)
        highest, _ = extremes_over(self.ranks, exponent, None)
        highest = torch.where(highest.isfinite(), highest, 0.0)
        rows = exponent.isfinite().sum() if mask is None else mask.sum()
        total, count = self.sums((exponent - highest).exp().sum(), rows)
        return highest + (total / count).log()


class _GlobalLoss(torch.autograd.Function):
    """Adds up over ranks on the way in; multiplies by their number on the way out."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, ranks: Ranks) -> Tensor:
        ctx.size = ranks.size
        return ranks.sum(share.detach().clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.size, None
