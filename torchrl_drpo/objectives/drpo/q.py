"""DRPO on a learned quality signal: IQL's critics say which logged actions were good."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDictBase, TensorDictParams
from tensordict.nn import (
    ProbabilisticTensorDictSequential,
    TensorDictModuleBase,
    dispatch,
)
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import IQLLoss

from torchrl_drpo.functional.checks import check_fraction
from torchrl_drpo.objectives import _batch, _checks
from torchrl_drpo.objectives._parameters import ParameterSlots
from torchrl_drpo.objectives._policy import value_of
from torchrl_drpo.objectives.critics import CriticLoss
from torchrl_drpo.objectives.drpo.loss import DRPOLoss


class DRPOQLoss(CriticLoss, DRPOLoss):
    r"""DRPO with Q(s, a), or the advantage Q(s, a) - V(s), in place of the reward.

    The critics are IQL's, trained on logged actions only: V by expectile regression towards the
    target critics, Q towards R + gamma V(s'). With ``gamma=0`` (a bandit log) Q is a reward model
    and no next observation is read. The signal is the smallest of the target critics.

    Sources: DRPO-Q of arXiv 2602.10430, appendix; Kostrikov et al. 2021, "Implicit Q-Learning"
    (arXiv 2110.06169), eq. 5 and 6.

    Args:
        actor_network: a TorchRL probabilistic actor.
        qvalue_network: reads state and action, writes ``state_action_value``; one, which is
            copied ``num_qvalue_nets`` times with fresh weights, or a list of that length.
        value_network: reads the state, writes ``state_value``.

    Keyword Args:
        signal: ``"advantage"`` for Q - V, ``"q"`` for Q. The second compares states, not only
            actions: states where everything is good take the quota.
        expectile: of V, in (0, 1); above 1/2 V leans to the best logged actions.
        gamma: discount, in [0, 1).
        num_qvalue_nets: critics of which the smallest counts.
        loss_function: of Q: ``"l2"``, ``"l1"``, ``"smooth_l1"`` (TorchRL's names).
        kappa, weighting, temperature, ties, group_key, normalize, ...: see
            :class:`~torchrl_drpo.objectives.drpo.DRPOLoss`.

    Outputs:
        ``loss_actor``, ``loss_qvalue``, ``loss_value``; and DRPO's detached diagnostics, in units
        of the signal. The actor's loss trains the actor only, the others their critics only.

    Raises:
        ValueError: for numbers out of range or an unknown signal.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl.objectives import SoftUpdate
        >>> from torchrl_drpo import DRPOQLoss, make_gaussian_actor
        >>> q, v = torch.nn.Bilinear(10, 4, 1), torch.nn.Linear(10, 1)
        >>> loss = DRPOQLoss(
        ...     make_gaussian_actor(state_dim=10, action_dim=4),
        ...     TensorDictModule(q, ["observation", "action"], ["state_action_value"]),
        ...     TensorDictModule(v, ["observation"], ["state_value"]),
        ...     gamma=0.0,
        ... )
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
        >>> (out["loss_actor"] + out["loss_qvalue"] + out["loss_value"]).backward()
        >>> targets.step()
    """

    @dataclass
    class _AcceptedKeys(DRPOLoss._AcceptedKeys):
        """Entries of the batch.

        Attributes:
            reward: R, ``[*B]`` or ``[*B, 1]``.
            terminated: ``True`` where the episode ended, so that nothing follows.
            state_action_value: what the critics write.
            value: what the value network writes.
            quality: where the signal is put, in a copy of the batch.
        """

        reward: NestedKey = ("next", "reward")
        terminated: NestedKey = ("next", "terminated")
        state_action_value: NestedKey = "state_action_value"
        value: NestedKey = "state_value"
        quality: NestedKey = "quality"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    value_network: TensorDictModuleBase
    value_network_params: TensorDictParams
    target_value_network_params: TensorDictParams
    out_keys: ClassVar[list[NestedKey]] = [
        "loss_actor",
        "loss_qvalue",
        "loss_value",
        *DRPOLoss.out_keys[1:],
    ]
    _signal_keys = ("reward", "terminated")

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        qvalue_network: TensorDictModuleBase | Sequence[TensorDictModuleBase],
        value_network: TensorDictModuleBase,
        *,
        signal: Literal["advantage", "q"] = "advantage",
        expectile: float = 0.7,
        gamma: float = 0.99,
        num_qvalue_nets: int = 2,
        loss_function: str = "smooth_l1",
        **options: Any,
    ) -> None:
        if signal not in ("advantage", "q"):
            raise ValueError(f"signal must be 'advantage' or 'q', got {signal!r}")
        check_fraction("expectile", expectile)
        super().__init__(actor_network, **options)
        self._add_qvalue(qvalue_network, num_qvalue_nets, gamma, loss_function)
        self._value_slots = ParameterSlots()
        if self.functional:
            self.convert_to_functional(value_network, "value_network")
        else:
            self.value_network = value_network
        self.signal = signal
        self.expectile = expectile

    def _needed_keys(self) -> list[NestedKey]:
        keys = [*super()._needed_keys(), *self.qvalue_network.in_keys, *self.value_network.in_keys]
        if self.gamma == 0:
            return keys
        return [*keys, *(("next", key) for key in self.value_network.in_keys)]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The three losses and DRPO's diagnostics; the batch itself is left as it was."""
        empty = self._whole.among_ranks
        _checks.check_shape(tensordict, self.level, type(self).__name__, may_be_empty=empty)
        inputs = self._critic_inputs(tensordict)
        with torch.no_grad():
            quality = self._q_values(inputs, target=True).amin(0)
        value = self._value(inputs)
        value_loss = IQLLoss.loss_value_diff(quality - value, self.expectile)
        with torch.no_grad():
            following = (
                self._value(inputs.get("next")) if self.gamma > 0 else torch.zeros_like(value)
            )
            target = self._td_target(inputs, following)
        q_loss = self._q_objective(tensordict, self._q_values(inputs), target)
        signal = quality - value.detach() if self.signal == "advantage" else quality
        scored = tensordict.copy().set(self.tensor_keys.quality, signal)
        out = self._outputs(scored)
        out["loss_qvalue"] = q_loss
        out["loss_value"] = self._reduce_critic(value_loss, tensordict)
        return _batch.assembled(out, torch.Size([]))

    def _value(self, inputs: TensorDictBase) -> Tensor:
        """V(s), ``[*B]``."""
        placed = contextlib.nullcontext()
        if self.functional:
            placed = self._value_slots.holding(self.value_network_params, self.value_network)
        with placed:
            key = self.tensor_keys.value
            return value_of(self.value_network, inputs, key, "value", "the value network")
