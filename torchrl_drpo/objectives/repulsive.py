"""The signed ("repulsive") loss: attract to what beat a baseline, repel from the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.objectives._remoteness import (
    RemotenessKind,
    check_negative_scale,
    check_remoteness_kind,
    remoteness_and_score,
    taper_negatives,
)
from torchrl_drpo.objectives._weighting import Scored, Weighting
from torchrl_drpo.objectives.advantage import AdvantageLoss


class RepulsiveLoss(AdvantageLoss):
    r"""Signed policy gradient on a fixed log, with optional control of its negative branch.

    .. math::
        L = -\frac1N \sum_i \big(A_i^+ - \alpha\, w(D_i)\, A_i^-\big) \log\pi(a_i|s_i),
        \qquad A = R - b

    Without a taper and with :math:`\alpha = 1` this is APG, the objective that diverges on noisy
    logs: a logged action keeps repelling after the policy has left it. ``negative_scale=0`` is
    positive-only learning, the baseline to beat; ``taper`` lets a negative fade with its
    remoteness D from the current policy.

    Source: arXiv 2602.10430, sec. 3 (APG); the tapers are those of the authors' later
    "Dynamic Remoteness-Aware Policy Optimization" (2026).

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
        negative_scale: alpha, at least 0; 0 leaves negatives out of the forward pass as well.
        taper: ``taper(D) -> w`` in [0, 1], such as
            :class:`~torchrl_drpo.functional.tapers.ExponentialTaper`; ``None`` for 1.
        remoteness: ``"auto"`` takes the squared Mahalanobis distance for Gaussians (for squashed
            ones, such as TorchRL's ``TanhNormal``, before the squashing), the surprisal for
            categoricals, the mean-token surprisal for sequences; ``"per_dimension"`` divides the
            first by the action's dimension. Of any other policy a taper needs a method
            ``remoteness(action)`` of its distribution.
        baseline, normalize, group_key: see
            :class:`~torchrl_drpo.objectives.advantage.AdvantageLoss`.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`.

    Outputs:
        ``loss_actor``; and, detached and 0-d: ``negative_mass_ratio`` (rho = E[A-]/E[A+]),
        ``effective_negative_mass_ratio`` (the same after scale and taper),
        ``taper_active_fraction`` (share of the negatives whose weight the taper lowers) and
        ``repulsion_to_attraction`` (ratio of the summed score magnitudes ``|A| |score|``, in
        units of the policy's own scale: sqrt(D) for Gaussians, 1 - pi(a) for categoricals; NaN for
        a policy of which neither is known).

    Raises:
        ValueError: for a negative scale, an unknown baseline or remoteness, and (from ``forward``)
            for a taper on a policy without remoteness.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import ExponentialTaper, RepulsiveLoss, make_gaussian_actor
        >>> actor = make_gaussian_actor(state_dim=10, action_dim=4)
        >>> loss = RepulsiveLoss(actor, taper=ExponentialTaper(threshold=4.0))
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(8, 10),
        ...         "action": torch.randn(8, 4),
        ...         "next": {"reward": torch.arange(8.0).unsqueeze(-1)},
        ...     },
        ...     batch_size=[8],
        ... )
        >>> out = loss(batch)
        >>> out["loss_actor"].backward()
        >>> out["negative_mass_ratio"]  # a mean baseline balances the two
        tensor(1.)
    """

    out_keys: ClassVar[list[NestedKey]] = [
        "loss_actor",
        "negative_mass_ratio",
        "effective_negative_mass_ratio",
        "taper_active_fraction",
        "repulsion_to_attraction",
    ]

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        negative_scale: float = 1.0,
        taper: Callable[[Tensor], Tensor] | None = None,
        remoteness: RemotenessKind = "auto",
        **options: Any,
    ) -> None:
        check_negative_scale(negative_scale)
        check_remoteness_kind(remoteness)
        super().__init__(actor_network, **options)
        self.negative_scale = negative_scale
        self.taper = taper
        self.remoteness = remoteness

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        advantage = self._advantage(tensordict, mask)
        weight = advantage
        if self.negative_scale != 1.0:
            weight = torch.where(advantage < 0, self.negative_scale * advantage, advantage)
        report = {}
        if weight is not advantage or self._has_priority(tensordict):
            # What follows will only see the weights, scaled and multiplied; rho is before that.
            report["negative_mass_ratio"] = rho = self._whole.negative_mass_ratio(advantage)
            report["effective_negative_mass_ratio"] = (
                rho if weight is advantage else self._whole.negative_mass_ratio(weight)
            )
        return Weighting(weight, self._mass(advantage, mask), report)

    def _reweigh(self, weighting: Weighting, scored: Scored) -> Weighting:
        weight = weighting.weight
        distance, score = remoteness_and_score(
            scored.dist,
            scored.action,
            scored.log_prob,
            scored.batch,
            self.remoteness,
            scored.mask,
            needed=self.taper is not None,
        )
        active = None
        if self.taper is not None:
            weight, active = taper_negatives(weight, self.taper, distance, self._whole)
        # All ratios at once: on small batches a step is as long as the number of its operations.
        force = torch.where(weight == 0, 0.0, weight * score)
        before, after, forces = self._whole.negative_mass_ratio(
            torch.stack([weighting.weight, weight, force]).flatten(1), dim=1
        ).unbind()
        report = {
            "negative_mass_ratio": before,
            "effective_negative_mass_ratio": after,
            **weighting.report,
            "taper_active_fraction": torch.zeros_like(before) if active is None else active,
            "repulsion_to_attraction": forces,
        }
        if self.taper is not None:
            report["effective_negative_mass_ratio"] = after
        return Weighting(weight, weighting.mass, report)
