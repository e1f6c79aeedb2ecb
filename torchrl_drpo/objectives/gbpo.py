"""GBPO: OneRec-V2's signed loss whose every gradient is bounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.functional.proximal import gbpo_weights
from torchrl_drpo.objectives._ratio import RatioKind, check_ratio_kind, ratio_exponent
from torchrl_drpo.objectives._weighting import Scored, Weighting
from torchrl_drpo.objectives.behavior import Behavior, BehaviorLoss


class GBPOLoss(BehaviorLoss):
    r"""GBPO: the signed loss with each gradient bounded by that of a binary cross-entropy.

    .. math::
        L = -\frac1N \sum_i \Big(A_i^+ \min\{\pi/\pi_{old}, 1\}
            - A_i^- \min\{\pi/\pi_{old}, \pi/(1-\pi)\}\Big) \log\pi(a_i|s_i)

    the factors being constants of the step. This is the gradient of OneRec-V2's
    :math:`E[(\pi/\pi')A]`, written as weights; the published objective's *value* differs. With
    ``ratio="geometric_mean"`` the same rule is that of the mean choice: every :math:`\pi` of an
    action of T choices is :math:`\pi^{1/T}`.

    Source: OneRec-V2 (arXiv 2508.20900), eq. 15 and 16. Its recipe with A in {+1, 0, -1} from
    :class:`~torchrl_drpo.objectives.drpo.DRPOLoss`'s quantile needs an ``advantage`` entry.

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
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
        ``loss_actor``; and, detached and 0-d, ``negative_mass_ratio`` (rho),
        ``effective_negative_mass_ratio`` (rho after the bounds) and ``effective_sample_size``.

    Raises:
        ValueError: for an unknown source or ratio, or propensities outside (0, 1].

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import GBPOLoss, make_gaussian_actor
        >>> loss = GBPOLoss(make_gaussian_actor(state_dim=10, action_dim=4))
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

    out_keys: ClassVar[list[NestedKey]] = [
        "loss_actor",
        "negative_mass_ratio",
        "effective_negative_mass_ratio",
        "effective_sample_size",
    ]
    _behavior_sources = ("auto", "logged", "current")

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        behavior: Behavior = "auto",
        ratio: RatioKind = "product",
        **options: Any,
    ) -> None:
        check_ratio_kind(ratio)
        super().__init__(actor_network, behavior=behavior, **options)
        self.ratio = ratio

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        advantage = self._advantage(tensordict, mask)
        return Weighting(advantage, self._mass(advantage, mask), {})

    def _reweigh(self, weighting: Weighting, scored: Scored) -> Weighting:
        old = self._behavior_log_prob(scored)
        choices = ratio_exponent(self.ratio, scored)
        old = None if old is None else old / choices
        # The mean choice's log-probability has 1 / choices of the action's gradient.
        weight = gbpo_weights(weighting.weight, scored.log_prob / choices, old) / choices
        weight = torch.where(weighting.weight != 0, weight, 0.0)
        report = {
            **self._mass_ratios(weighting.weight, weight),
            "effective_sample_size": self._whole.effective_sample_size(weight),
        }
        return replace(weighting, weight=weight, report=report)
