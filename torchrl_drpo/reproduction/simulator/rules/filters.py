"""Rules that keep the best rows: of a batch (DRPO, adaptive BC), or of the whole log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.dro_programs import kl_dro_weights
from torchrl_drpo.functional.selection import kappa_step
from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble, Scores
from torchrl_drpo.reproduction.simulator.rules.base import Rule
from torchrl_drpo.reproduction.simulator.worlds import Worlds


class Top(NamedTuple):
    """What :func:`select_top` found; ``mass`` is ``[S, B]``, the rest ``[S, 1]``."""

    mass: Tensor
    quota: Tensor
    threshold: Tensor
    kept_mean: Tensor
    kept_std: Tensor


def select_top(quality: Tensor, kappa: Tensor) -> Top:
    """The top fraction of each seed's batch; equals at the threshold share the last places.

    Args:
        quality: ``[S, B]``.
        kappa: ``[S, 1]``.
    """
    count = quality.shape[-1]
    quota = (kappa.double() * count + 0.5 + 1e-9).floor().clamp(1, count)
    ranked = quality.sort(-1, descending=True).values
    threshold = ranked.gather(-1, quota.long() - 1)
    above, at = quality > threshold, quality == threshold
    share = (quota - above.sum(-1, keepdim=True)) / at.sum(-1, keepdim=True)
    mass = (above + at * share).to(quality.dtype)
    quota = quota.to(quality.dtype)
    mean = (mass * quality).sum(-1, keepdim=True) / quota
    variance = (mass * (quality - mean).square()).sum(-1, keepdim=True) / (quota - 1).clamp_min(1)
    return Top(mass, quota, threshold, mean, variance.sqrt())


class TopFraction(Rule):
    """DRPO (``DRPOLoss``) and, with ``"uniform"``, adaptive BC (``AdaptiveBCLoss``).

    Args:
        kappa: fixed, or the controller's numbers.
        weighting: ``"linear"``, ``"uniform"``, ``"exponential"``, ``"kl"``, or ``"mean"``: linear
            from the kept rows' mean, which repels half of them (the paper's ablation).
        temperature: of the exponential rules.
        quality: the signal.
        taper: keeps the rejected rows as tapered repulsion, (R - nu) / std(R).
        negative_scale: one factor on that repulsion.
    """

    def __init__(
        self,
        *,
        kappa: AdaptiveKappa | float | None = None,
        weighting: str = "linear",
        temperature: float = 0.05,
        quality: str = "reward",
        taper: Callable[[Tensor], Tensor] | None = None,
        negative_scale: float = 1.0,
    ) -> None:
        super().__init__(quality)
        _check_known("weighting", weighting, ("linear", "uniform", "exponential", "kl", "mean"))
        if weighting == "kl" and taper is not None:
            raise ValueError("weighting 'kl' keeps every row, so a taper of the rejected has none")
        kappa = AdaptiveKappa() if kappa is None else kappa
        self.controller = kappa if isinstance(kappa, AdaptiveKappa) else None
        self.initial = kappa.initial if isinstance(kappa, AdaptiveKappa) else kappa
        self.weighting, self.temperature = weighting, temperature
        self.taper, self.negative_scale = taper, negative_scale
        self.kappa: Tensor = torch.empty(0)

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Every seed has a kappa of its own."""
        self.kappa = torch.full((len(worlds.seeds), 1), self.initial, device=worlds.device)

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """The rule on the kept rows, zero elsewhere; then kappa moves."""
        quality, kappa = batch[self.quality], self.kappa
        top = select_top(quality, kappa)
        spread = quality.std(-1, keepdim=True)
        if self.controller is not None:
            c = self.controller
            self.kappa = kappa_step(
                kappa,
                top.kept_std,
                spread,
                target_ratio=c.target_ratio,
                bounds=c.bounds,
                up=c.up,
                down=c.down,
            )
        if self.weighting == "kl":
            rows = [
                kl_dro_weights(q, float(k), self.temperature)
                for q, k in zip(quality, kappa, strict=True)
            ]
            return torch.stack(rows) / quality.shape[-1]
        if self.weighting == "uniform":
            weight = top.mass
        elif self.weighting == "exponential":
            weight = top.mass * torch.exp((quality - top.kept_mean) / self.temperature)
        else:
            base = top.kept_mean if self.weighting == "mean" else top.threshold
            weight = top.mass * (quality - base) / (top.kept_std + 1e-8)
        if self.taper is not None:
            repulsion = (quality - top.threshold) / (spread + 1e-8) * (top.mass == 0)
            weight = weight + self.negative_scale * repulsion
        return weight / top.quota

    def reweigh(self, weight: Tensor, scores: Scores, batch: TensorDict, step: int) -> Tensor:
        """Rejected rows fade with their remoteness, mean z^2."""
        if self.taper is None:
            return weight
        distance = scores.distance / scores.sigma.shape[-1]
        return torch.where(weight < 0, weight * self.taper(distance), weight)

    def report(self) -> dict[str, Tensor]:
        """The kappa that the next step will use."""
        return {"kappa": self.kappa.squeeze(-1)}


class DatasetTop(Rule):
    """The quantile of the whole log instead of the batch's (``QuantileSampler``'s filter).

    Args:
        kappa: fraction of the log that is kept.
        weighting: ``"uniform"`` or ``"linear"``.
        quality: the signal.
    """

    def __init__(
        self, *, kappa: float, weighting: str = "uniform", quality: str = "reward"
    ) -> None:
        super().__init__(quality)
        _check_known("weighting", weighting, ("uniform", "linear"))
        self.kappa, self.weighting = kappa, weighting

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Weighs every row of the log once."""
        quality = worlds.log[self.quality]
        top = select_top(quality, torch.full_like(quality[:, :1], self.kappa))
        weight = top.mass
        if self.weighting == "linear":
            weight = weight * (quality - top.threshold) / (top.kept_std + 1e-8)
        worlds.log["dataset_weight"] = weight / self.kappa

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """The row's weight over the count."""
        return batch["dataset_weight"] / batch.shape[-1]


def _check_known(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
