"""Objectives that treat what was worse than expected differently from what was better."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.functional.weights import asymmetric_weights, signed_weights, topr_weights
from torchrl_drpo.objectives._weighting import Scored, Weighting
from torchrl_drpo.objectives.advantage import AdvantageLoss
from torchrl_drpo.objectives.behavior import Behavior, BehaviorLoss

_RATIOS = ["negative_mass_ratio", "effective_negative_mass_ratio"]


class AsymRELoss(AdvantageLoss):
    r"""AsymRE: the signed loss with its baseline below the mean reward.

    .. math::
        L = -\frac1N \sum_i (A_i^+ - \alpha A_i^-) \log\pi(a_i|s_i),
        \qquad A = R - (\bar R + \text{shift})

    A baseline below the mean lets attraction outweigh repulsion, which is what keeps a signed loss
    stable on a fixed log; the further below, the closer to behaviour cloning. Two published
    forms: arXiv 2506.20520 shifts the baseline and leaves the weights alone (``shift < 0``,
    ``negative_weight=1``); arXiv 2602.10430 compares against a baseline at the mean and negatives
    at a tenth (``shift=0``, ``negative_weight=0.1``).

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
        shift: offset of the baseline from the batch's mean reward, in units of the reward.
        negative_weight: alpha, at least 0.
        normalize, group_key: see :class:`~torchrl_drpo.objectives.advantage.AdvantageLoss`; the
            shift is in units of the reward all the same.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`.

    Outputs:
        ``loss_actor``; and, detached and 0-d, ``negative_mass_ratio`` (rho = E[A-]/E[A+]) and
        ``effective_negative_mass_ratio`` (the same after alpha).

    Raises:
        ValueError: for a shift that is not finite or a negative alpha.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import AsymRELoss, make_gaussian_actor
        >>> loss = AsymRELoss(make_gaussian_actor(state_dim=10, action_dim=4), shift=-1.0)
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(4, 10),
        ...         "action": torch.randn(4, 4),
        ...         "next": {"reward": torch.tensor([0.0, 1.0, 2.0, 5.0])},
        ...     },
        ...     batch_size=[4],
        ... )
        >>> out = loss(batch)
        >>> out["loss_actor"].backward()
        >>> out["negative_mass_ratio"]  # baseline 1: one negative of mass 1 against 5
        tensor(0.2000)
    """

    out_keys: ClassVar[list[NestedKey]] = ["loss_actor", *_RATIOS]

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        shift: float = 0.0,
        negative_weight: float = 1.0,
        **options: Any,
    ) -> None:
        if "baseline" in options:
            raise TypeError("AsymRELoss has its baseline at the mean plus shift; pass shift=")
        # Building the rule once says at once what is out of range.
        asymmetric_weights(torch.zeros(1), shift=shift, negative_weight=negative_weight)
        super().__init__(actor_network, baseline="mean", **options)
        self.shift = shift
        self.negative_weight = negative_weight

    def _above_baseline(self, reward: Tensor, mask: Tensor | None, group: Tensor | None) -> Tensor:
        return super()._above_baseline(reward, mask, group) - self.shift

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        advantage = self._advantage(tensordict, mask)
        weight = signed_weights(advantage, negative_scale=self.negative_weight)
        report = self._mass_ratios(advantage, weight)
        return Weighting(weight, self._mass(advantage, mask), report)


class TOPRLoss(BehaviorLoss):
    r"""Tapered off-policy REINFORCE: negatives count while the policy is still likely to act so.

    .. math::
        L = -\frac1N \sum_i \Big(A_i^+ - \min\{(\pi/\mu)^\beta, 1\}\, A_i^-\Big) \log\pi(a_i|s_i)

    with the ratio a constant of the step and mu the behaviour policy. It is an exponential taper
    whose threshold is each action's own logged surprisal.

    Source: Le Roux et al. 2025 (arXiv 2503.14286).

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
        beta: exponent of the ratio, at least 0; 1 is the canonical form, 0 the plain signed loss.
        behavior: ``"logged"`` (entries ``propensity`` or ``behavior_log_prob``), or a policy that
            was fitted to the log where no propensity was logged.
        baseline, normalize, group_key: see
            :class:`~torchrl_drpo.objectives.advantage.AdvantageLoss`.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`.

    Outputs:
        ``loss_actor``; and, detached and 0-d, ``negative_mass_ratio`` (rho),
        ``effective_negative_mass_ratio`` (rho after the taper) and ``taper_active_fraction``
        (share of the negatives with pi < mu).

    Raises:
        ValueError: for a negative beta, an unknown source, or propensities outside (0, 1].

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import TOPRLoss, make_gaussian_actor
        >>> actor = make_gaussian_actor(state_dim=10, action_dim=4)
        >>> reference = make_gaussian_actor(state_dim=10, action_dim=4)  # fit it to the log first
        >>> loss = TOPRLoss(actor, behavior=reference)
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(8, 10),
        ...         "action": torch.randn(8, 4),
        ...         "next": {"reward": torch.randn(8)},
        ...     },
        ...     batch_size=[8],
        ... )
        >>> loss(batch)["loss_actor"].backward()
    """

    out_keys: ClassVar[list[NestedKey]] = ["loss_actor", *_RATIOS, "taper_active_fraction"]

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        beta: float = 1.0,
        behavior: Behavior = "logged",
        **options: Any,
    ) -> None:
        one = torch.zeros(1)
        topr_weights(one, one, one, beta=beta)  # says at once if beta is out of range
        super().__init__(actor_network, behavior=behavior, **options)
        self.beta = beta

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        advantage = self._advantage(tensordict, mask)
        return Weighting(advantage, self._mass(advantage, mask), {})

    def _reweigh(self, weighting: Weighting, scored: Scored) -> Weighting:
        advantage, log_mu = weighting.weight, self._behavior_log_prob(scored)
        weight = topr_weights(advantage, scored.log_prob, log_mu, beta=self.beta)
        negative = advantage < 0
        tapered = (negative & (scored.log_prob < log_mu)).sum()
        tapered, negatives = self._whole.sums(tapered, negative.sum())
        report = {
            **self._mass_ratios(advantage, weight),
            "taper_active_fraction": tapered / negatives.clamp_min(1),
        }
        return replace(weighting, weight=weight, report=report)
