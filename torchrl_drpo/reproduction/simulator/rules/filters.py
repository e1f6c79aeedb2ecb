r"""The objectives of the comparison, as rules for the weights of many seeds at once.

A rule gives :math:`w` of shape ``[S, B]``: each row of the first dimension is a seed's own batch,
and nothing is shared across seeds. The formulas are those of the LossModules that each rule names;
where ``torchrl_drpo.functional`` has them for one batch, they are mapped over the seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.selection import kappa_step
from torchrl_drpo.functional.weights import exponential_weights, kl_dro_weights
from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble, Scores
from torchrl_drpo.reproduction.simulator.worlds import Worlds


class Rule:
    """An objective: weights from what the log says, then from what the policy says.

    Subclasses give :meth:`weigh`, and where needed the other two. A rule object belongs to one
    training run.

    Args:
        quality: column of the log that tells good rows from bad.
    """

    def __init__(self, quality: str = "reward") -> None:
        self.quality = quality

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Called once, before the first step; may add columns to ``worlds.log``."""

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """Weights divided by their count, ``[S, B]``; rows of weight 0 are not scored.

        Args:
            batch: the log's columns at the drawn rows, ``[S, B]``, without observation and action.
            step: from 0.
        """
        raise NotImplementedError

    def reweigh(self, weight: Tensor, scores: Scores, batch: TensorDict, step: int) -> Tensor:
        """Weights that also look at the policy; ``[S, K]`` of the rows that are scored."""
        return weight

    def report(self) -> dict[str, Tensor]:
        """Numbers to be logged, ``[S]`` each."""
        return {}


class Imitation(Rule):
    """Behaviour cloning (``BehaviorCloningLoss``)."""

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """Every row weighs the same."""
        return torch.full_like(batch["reward"], 1.0 / batch.shape[-1])


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


def _check_known(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
