"""Objectives that maximise a clipped probability ratio: BPPO, and OneRec's ECPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.functional.checks import check_fraction, check_open_fraction, check_positive
from torchrl_drpo.functional.proximal import clipped_surrogate, ecpo_surrogate
from torchrl_drpo.objectives._ratio import RatioKind, check_ratio_kind, ratio_exponent
from torchrl_drpo.objectives._weighting import Scored, Weighting
from torchrl_drpo.objectives.behavior import Behavior, BehaviorLoss


@dataclass(frozen=True)
class _ProximalWeighting(Weighting):
    r"""An advantage for each sample, and what its ratio is made of.

    Attributes:
        old_log_prob: log pi_old; ``None``: the current policy.
        choices: T of the ratio :math:`(\pi/\pi_{old})^{1/T}`.
    """

    old_log_prob: Tensor | None = None
    choices: Tensor | int = 1


class _SurrogateLoss(BehaviorLoss):
    """Maximises a surrogate of the ratio pi/pi_old instead of w log pi."""

    ratio: RatioKind = "product"

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        advantage = self._advantage(tensordict, mask)
        return Weighting(advantage, self._mass(advantage, mask), {})

    def _reweigh(self, weighting: Weighting, scored: Scored) -> Weighting:
        old = self._behavior_log_prob(scored)
        log_ratio = scored.log_prob - (scored.log_prob if old is None else old)
        counted = weighting.weight != 0
        choices = ratio_exponent(self.ratio, scored)
        clipped = self._is_clipped(weighting.weight, log_ratio / choices) & counted
        count, clips, drift = self._whole.sums(
            counted.sum(), clipped.sum(), torch.where(counted, log_ratio, 0.0).sum()
        )
        count = count.clamp_min(1)
        report = {
            **weighting.report,
            "clip_fraction": clips / count,
            "kl_approx": -drift / count,
        }
        return _ProximalWeighting(weighting.weight, weighting.mass, report, old, choices)

    def _reduce_weighted(self, log_prob: Tensor, weighting: Weighting, total: Tensor) -> Tensor:
        advantage = weighting.weight.to(torch.promote_types(log_prob.dtype, torch.float32))
        old, choices = weighting.old_log_prob, weighting.choices
        old = None if old is None else old / choices
        surrogate = self._surrogate(advantage, log_prob / choices, old)
        losses = -torch.where(advantage != 0, surrogate, 0.0)
        if self.reduction == "none":
            return losses
        if self.reduction == "sum":
            return losses.sum()
        total = total.to(losses.dtype)
        return losses.sum() / total.clamp_min(torch.finfo(total.dtype).tiny)

    def _is_clipped(self, advantage: Tensor, log_ratio: Tensor) -> Tensor:
        """Samples whose gradient the clip takes away."""
        ratio, epsilon = log_ratio.exp(), self.clip_epsilon
        return torch.where(advantage >= 0, ratio > 1 + epsilon, ratio < 1 - epsilon)

    def _surrogate(self, advantage: Tensor, log_prob: Tensor, old: Tensor | None) -> Tensor:
        """One value a sample, to be maximised."""
        raise NotImplementedError


class ECPOLoss(_SurrogateLoss):
    r"""ECPO: PPO's clipped objective that also bounds the ratio of negatives.

    .. math::
        L = -\frac1N \sum_i \min\{r_i A_i, \mathrm{clip}(r_i, 1-\epsilon, 1+\epsilon) A_i\},
        \quad r = \pi/\pi',
        \quad \pi' = \max\{\mathrm{sg}\,\pi/(1+\epsilon+\delta), \pi_{old}\} \text{ for } A < 0

    Source: OneRec (arXiv 2506.13695). OneRec normalises A within the group of candidates of one
    request: ``normalize=True`` (the default here) with ``group_key``. The geometric mean in place
    of the ratio of an action of T choices, :math:`(\pi/\pi')^{1/T}` with both bounds, is that of
    Group Sequence Policy Optimization (arXiv 2507.18071).

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
        clip_epsilon: epsilon, in (0, 1).
        delta: slack of the negatives' bound, above 0.
        behavior: where pi_old comes from: ``"auto"`` (logged where the batch has it, else the
            current policy), ``"logged"``, ``"current"`` or a policy.
        ratio: ``"product"``, that of the whole action's probability, or ``"geometric_mean"`` over
            its choices: the codes of a semantic ID, the places of a slate, and at
            ``level="trajectory"`` all valid steps. An action of one choice has one ratio.
        baseline, normalize, group_key: see
            :class:`~torchrl_drpo.objectives.advantage.AdvantageLoss`.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`.

    Outputs:
        ``loss_actor``; and, detached, 0-d and over the samples with an advantage,
        ``clip_fraction`` (share that the clip leaves without a gradient) and ``kl_approx`` (mean
        of log pi_old - log pi).

    Raises:
        ValueError: for numbers out of range, an unknown source or ratio, or bad propensities.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import ECPOLoss, make_gaussian_actor
        >>> loss = ECPOLoss(make_gaussian_actor(state_dim=10, action_dim=4), group_key="request")
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(8, 10),
        ...         "action": torch.randn(8, 4),
        ...         "request": torch.arange(8) // 4,
        ...         "next": {"reward": torch.randn(8)},
        ...     },
        ...     batch_size=[8],
        ... )
        >>> loss(batch)["loss_actor"].backward()
    """

    out_keys: ClassVar[list[NestedKey]] = ["loss_actor", "clip_fraction", "kl_approx"]
    _behavior_sources = ("auto", "logged", "current")

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        clip_epsilon: float = 0.2,
        delta: float = 0.1,
        behavior: Behavior = "auto",
        normalize: bool = True,
        ratio: RatioKind = "product",
        **options: Any,
    ) -> None:
        check_ratio_kind(ratio)
        check_open_fraction("clip_epsilon", clip_epsilon)
        check_positive("delta", delta)
        super().__init__(actor_network, behavior=behavior, normalize=normalize, **options)
        self.clip_epsilon = clip_epsilon
        self.delta = delta
        self.ratio = ratio

    def _surrogate(self, advantage: Tensor, log_prob: Tensor, old: Tensor | None) -> Tensor:
        return ecpo_surrogate(
            advantage, log_prob, old, clip_epsilon=self.clip_epsilon, delta=self.delta
        )


class BPPOLoss(_SurrogateLoss):
    r"""BPPO: PPO's clipped objective against a snapshot of the behaviour policy.

    .. math:: L = -\frac1N \sum_i \min\{r_i A_i, \mathrm{clip}(r_i, 1-\epsilon, 1+\epsilon) A_i\},
        \quad r = \pi/\pi_{snapshot}

    Clone the log first, build this loss from the clone, then train: the snapshot is the actor as
    it was given, unless ``behavior`` names another policy. ``update_behavior()`` moves the
    snapshot up to the current policy, BPPO's iteration, for when an evaluation has improved.

    Source: Zhuang et al. 2023, "Behavior Proximal Policy Optimization" (arXiv 2302.11312).

    Args:
        actor_network: a TorchRL probabilistic actor, already fitted to the log.

    Keyword Args:
        clip_epsilon: epsilon, in (0, 1). A buffer: ``loss.clip_epsilon = 0.1`` schedules it.
        clip_decay: factor in (0, 1] on epsilon after each forward pass in training mode.
        behavior: the policy that is copied as the snapshot; ``None`` for the actor itself.
        baseline, normalize, group_key: see
            :class:`~torchrl_drpo.objectives.advantage.AdvantageLoss`.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`.

    Outputs:
        ``loss_actor``; and, detached and 0-d, ``clip_epsilon`` (used by this step) and, over the
        samples with an advantage, ``clip_fraction`` (share that the clip leaves without a
        gradient) and ``kl_approx`` (mean of log pi_snapshot - log pi).

    Raises:
        ValueError: for numbers out of range.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import BPPOLoss, make_gaussian_actor
        >>> loss = BPPOLoss(make_gaussian_actor(state_dim=10, action_dim=4), clip_decay=0.96)
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(8, 10),
        ...         "action": torch.randn(8, 4),
        ...         "next": {"reward": torch.randn(8)},
        ...     },
        ...     batch_size=[8],
        ... )
        >>> out = loss(batch)
        >>> out["loss_actor"].backward()
        >>> out["clip_epsilon"], loss.clip_epsilon, out["clip_fraction"]
        (tensor(0.2000), tensor(0.1920), tensor(0.))
    """

    out_keys: ClassVar[list[NestedKey]] = [
        "loss_actor",
        "clip_epsilon",
        "clip_fraction",
        "kl_approx",
    ]
    clip_epsilon: Tensor
    _behavior_sources = ()
    _schedulable_buffers = frozenset({"clip_epsilon"})
    _coefficients: ClassVar = {"clip_epsilon": check_open_fraction}

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        clip_epsilon: float = 0.2,
        clip_decay: float = 1.0,
        behavior: ProbabilisticTensorDictSequential | None = None,
        **options: Any,
    ) -> None:
        check_open_fraction("clip_epsilon", clip_epsilon)
        check_fraction("clip_decay", clip_decay)
        behavior = actor_network if behavior is None else behavior
        super().__init__(actor_network, behavior=behavior, **options)
        self.clip_decay = clip_decay
        device = next((p.device for p in actor_network.parameters()), None)
        self.register_coeff_buffer("clip_epsilon", float(clip_epsilon), device=device)

    def _reduce_weighted(self, log_prob: Tensor, weighting: Weighting, total: Tensor) -> Tensor:
        reduced = super()._reduce_weighted(log_prob, weighting, total)
        if self.training and self.clip_decay != 1.0:  # after the last use of this step's epsilon
            least = torch.finfo(self.clip_epsilon.dtype).tiny  # for ever above 0
            self.clip_epsilon.mul_(self.clip_decay).clamp_min_(least)
        return reduced

    def _reweigh(self, weighting: Weighting, scored: Scored) -> Weighting:
        return super()._reweigh(
            weighting.with_report(clip_epsilon=self.clip_epsilon.clone()), scored
        )

    def _surrogate(self, advantage: Tensor, log_prob: Tensor, old: Tensor | None) -> Tensor:
        return clipped_surrogate(advantage, log_prob, old, clip_epsilon=self.clip_epsilon)
