"""CRR: imitate what a critic finds better than the policy's own actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase, dispatch
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torch.distributions import Distribution

from torchrl_drpo.functional.weights import crr_weights
from torchrl_drpo.objectives import _batch
from torchrl_drpo.objectives._weighting import Scored, Weighting
from torchrl_drpo.objectives.advantage import AdvantageLoss
from torchrl_drpo.objectives.critics import CriticLoss


class CRRLoss(CriticLoss, AdvantageLoss):
    r"""Critic-regularised regression: imitate what the critic finds better than the policy's own.

    :math:`w = 1[A > 0]`, or :math:`\exp(A/\beta)` up to a cap, with

    .. math:: A = Q(s, a) - \tfrac1m \sum_j Q(s, a_j) \quad\text{or}\quad
              A = Q(s, a) - \max_j Q(s, a_j), \qquad a_1, \dots, a_m \sim \pi(\cdot|s)

    and Q trained beside the policy towards R + gamma times the mean of the target critics at
    actions of the policy. Without a critic, A is the batch's advantage entry or reward minus
    baseline.

    Source: Wang et al. 2020, "Critic Regularized Regression" (arXiv 2006.15134).

    Args:
        actor_network: a TorchRL probabilistic actor.
        qvalue_network: reads state and action, writes ``state_action_value``; one, copied
            ``num_qvalue_nets`` times with fresh weights, a list, or ``None``.

    Keyword Args:
        mode: ``"binary"`` or ``"exponential"``.
        estimate: ``"mean"`` or ``"max"`` over the policy's own actions. Under ``"max"`` few
            logged actions are better, and the exponential form is the usual one.
        num_samples: m, at least 1.
        temperature: beta of the exponential form, above 0.
        max_weight: cap of the exponential form, above 0.
        gamma: discount, in [0, 1); 0 regresses Q on the reward and reads no next observation.
        num_qvalue_nets: critics of which the smallest counts.
        loss_function: of Q: ``"l2"``, ``"l1"``, ``"smooth_l1"`` (TorchRL's names).
        baseline, normalize, group_key: see
            :class:`~torchrl_drpo.objectives.advantage.AdvantageLoss`; without a critic only.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`; ``level="trajectory"``
            without a critic only.

    Outputs:
        ``loss_actor``, ``loss_qvalue`` (with a critic) and, detached and 0-d,
        ``effective_sample_size`` (in rows).

    Raises:
        ValueError: for numbers out of range or unknown names.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_drpo import CRRLoss, make_gaussian_actor
        >>> critic = TensorDictModule(
        ...     torch.nn.Bilinear(10, 4, 1), ["observation", "action"], ["state_action_value"]
        ... )
        >>> loss = CRRLoss(make_gaussian_actor(state_dim=10, action_dim=4), critic, gamma=0.0)
        >>> targets = SoftUpdate(loss, tau=0.005)
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(8, 10),
        ...         "action": torch.randn(8, 4),
        ...         "next": {"reward": torch.randn(8), "terminated": torch.ones(8, dtype=bool)},
        ...     },
        ...     batch_size=[8],
        ... )
        >>> out = loss(batch)
        >>> (out["loss_actor"] + out["loss_qvalue"]).backward()
    """

    @dataclass
    class _AcceptedKeys(AdvantageLoss._AcceptedKeys):
        """Entries of the batch.

        Attributes:
            terminated: ``True`` where the episode ended; read with a critic.
            state_action_value: what the critics write.
        """

        terminated: NestedKey = ("next", "terminated")
        state_action_value: NestedKey = "state_action_value"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    out_keys: ClassVar[list[NestedKey]] = ["loss_actor", "effective_sample_size"]

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        qvalue_network: TensorDictModuleBase | Sequence[TensorDictModuleBase] | None = None,
        *,
        mode: Literal["binary", "exponential"] = "binary",
        estimate: Literal["mean", "max"] = "mean",
        num_samples: int = 4,
        temperature: float = 1.0,
        max_weight: float = 20.0,
        gamma: float = 0.99,
        num_qvalue_nets: int = 2,
        loss_function: str = "smooth_l1",
        **options: Any,
    ) -> None:
        crr_weights(torch.zeros(1), mode=mode, temperature=temperature, max_weight=max_weight)
        if estimate not in ("mean", "max"):
            raise ValueError(f"estimate must be 'mean' or 'max', got {estimate!r}")
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        super().__init__(actor_network, **options)
        self.mode, self.estimate, self.num_samples = mode, estimate, num_samples
        self.temperature, self.max_weight = temperature, max_weight
        self.has_critic = qvalue_network is not None
        if self.has_critic:
            if self.level == "trajectory":
                raise ValueError("CRRLoss with a critic weighs steps; use level='step'")
            self._add_qvalue(qvalue_network, num_qvalue_nets, gamma, loss_function)
            self._signal_keys = ("reward", "terminated")
            self.out_keys = ["loss_actor", "loss_qvalue", "effective_sample_size"]

    def _needed_keys(self) -> list[NestedKey]:
        keys = super()._needed_keys()
        if not self.has_critic or self.gamma == 0:
            return keys
        return [*keys, *(("next", key) for key in self.actor_network.in_keys)]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The losses and diagnostics; the batch itself is left as it was."""
        out = self._outputs(tensordict)
        if self.has_critic:
            inputs = self._critic_inputs(tensordict)
            with torch.no_grad():
                target = self._td_target(inputs, self._following_value(inputs))
            out["loss_qvalue"] = self._q_objective(tensordict, self._q_values(inputs), target)
        return _batch.assembled(out, torch.Size([]))

    def _batch_numbers(self, tensordict: TensorDictBase) -> tuple[str, ...]:
        return () if self.has_critic else super()._batch_numbers(tensordict)

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        if self.has_critic:  # the weights need the policy's own actions, so all rows are scored
            ones = self._ones(tensordict, mask)
            return Weighting(ones, ones, {})
        advantage = self._advantage(tensordict, mask)
        return self._weighting(advantage, self._mass(advantage, mask), mask)

    def _reweighs(self) -> bool:
        return self.has_critic

    def _reweigh(self, weighting: Weighting, scored: Scored) -> Weighting:
        own = self._own_values(scored.dist, scored.inputs)
        own = own.mean(0) if self.estimate == "mean" else own.amax(0)
        advantage = self._q_values(scored.inputs).amin(0) - own
        judged = self._weighting(advantage, weighting.mass, weighting.mass > 0)
        return replace(judged, weight=judged.weight * weighting.weight)

    def _weighting(self, advantage: Tensor, mass: Tensor, mask: Tensor | None) -> Weighting:
        weight = crr_weights(
            advantage,
            mode=self.mode,
            temperature=self.temperature,
            max_weight=self.max_weight,
            mask=mask,
        )
        return Weighting(
            weight, mass, {"effective_sample_size": self._whole.effective_sample_size(weight)}
        )

    def _own_values(
        self, dist: Distribution, inputs: TensorDictBase, *, target: bool = False
    ) -> Tensor:
        """Q at ``num_samples`` actions of the policy, ``[m, *B]``."""
        own = inputs.expand(self.num_samples, *inputs.shape).copy()
        own.set(self.tensor_keys.action, dist.sample((self.num_samples,)))
        return self._q_values(own, target=target).amin(0)

    def _following_value(self, inputs: TensorDictBase) -> Tensor:
        if self.gamma == 0:
            return torch.zeros(inputs.shape, device=inputs.get(self.tensor_keys.action).device)
        following = inputs.get("next").select(*self.actor_network.in_keys)
        with self._actor_parameters():
            dist = self.actor_network.get_dist(following)
        return self._own_values(dist, following, target=True).mean(0)

    def _policy_keys(self) -> list[NestedKey]:
        keys = super()._policy_keys()
        if not self.has_critic:
            return keys
        action = unravel_key(self.tensor_keys.action)
        return list(
            dict.fromkeys([*keys, *(k for k in self.qvalue_network.in_keys if k != action)])
        )
