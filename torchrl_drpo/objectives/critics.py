"""Critics that give an objective its quality signal: an ensemble of Q and its targets."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.objectives.utils import distance_loss
from torchrl.objectives.value.functional import td0_return_estimate

from torchrl_drpo.functional.precision import as_numbers
from torchrl_drpo.objectives import _batch, _checks
from torchrl_drpo.objectives._parameters import ParameterSlots
from torchrl_drpo.objectives._policy import value_of
from torchrl_drpo.objectives.weighted import WeightedLoss


class QEnsemble(nn.Module):
    """Several critics Q(s, a) read as one: their values are stacked in front.

    Args:
        network: a critic that writes its value in shape ``[*B, 1]`` or ``[*B]``, or a list of
            them. A single one is copied, and the copies are initialised anew.
        count: how many, at least 1.

    Raises:
        ValueError: if a list has another length than ``count``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> net = torch.nn.Bilinear(3, 2, 1)
        >>> critic = TensorDictModule(net, ["observation", "action"], ["state_action_value"])
        >>> batch = TensorDict(
        ...     {"observation": torch.randn(5, 3), "action": torch.randn(5, 2)}, batch_size=[5]
        ... )
        >>> QEnsemble(critic, 2)(batch, "state_action_value").shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        network: TensorDictModuleBase | Sequence[TensorDictModuleBase],
        count: int,
    ) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"num_qvalue_nets must be at least 1, got {count}")
        if isinstance(network, Sequence):
            members = list(network)
            if len(members) != count:
                raise ValueError(f"expected {count} critics (num_qvalue_nets), got {len(members)}")
        else:
            members = [network, *(_reset(copy.deepcopy(network)) for _ in range(count - 1))]
        self.members = nn.ModuleList(members)
        self.in_keys = members[0].in_keys

    def reset_parameters_recursive(self) -> None:
        """Draws every critic anew."""
        for member in self.members:
            member.reset_parameters_recursive()

    def forward(self, tensordict: TensorDictBase, value_key: NestedKey) -> Tensor:
        """Q of each critic, shape ``[count, *B]``; ``value_key`` is the entry that they write."""
        return torch.stack(
            [
                value_of(member, tensordict, value_key, "state_action_value", "the critic")
                for member in self.members
            ]
        )


class CriticLoss(WeightedLoss):
    """A weighted loss that also trains critics; a mix-in above :class:`WeightedLoss`.

    Subclasses name the entries ``reward``, ``terminated`` and ``state_action_value`` among their
    accepted keys. Attach TorchRL's ``SoftUpdate`` or ``HardUpdate`` to move the targets; a
    non-functional loss, which these do not handle, has :meth:`update_targets`.
    """

    qvalue_network: QEnsemble | None
    qvalue_network_params: TensorDictParams
    target_qvalue_network_params: TensorDictParams

    def _add_qvalue(
        self,
        network: TensorDictModuleBase | Sequence[TensorDictModuleBase],
        count: int,
        gamma: float,
        loss_function: str,
    ) -> None:
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma must lie in [0, 1), got {gamma}; 0 regresses Q on the reward")
        ensemble = QEnsemble(network, count)
        self._q_slots, self._target_q_slots = ParameterSlots(), ParameterSlots()
        if self.functional:
            self.convert_to_functional(ensemble, "qvalue_network", create_target_params=True)
        else:
            self.qvalue_network = ensemble
            self.target_qvalue_network = copy.deepcopy(ensemble).requires_grad_(False)
        self.gamma = gamma
        self.loss_function = loss_function

    def update_targets(self, tau: float = 0.005) -> None:
        """Moves the target critics by ``tau`` towards the trained ones (Polyak averaging)."""
        with torch.no_grad():
            if self.functional:
                source = self.qvalue_network_params.data
                self._modules["target_qvalue_network_params"].data.lerp_(source, tau)
            else:
                source = TensorDict.from_module(self.qvalue_network).data
                TensorDict.from_module(self.target_qvalue_network).data.lerp_(source, tau)

    def reset_parameters_recursive(self) -> None:
        """As usual; targets start at the critics, not at draws of their own."""
        super().reset_parameters_recursive()
        if getattr(self, "qvalue_network", None) is not None:
            self.update_targets(1.0)

    def _q_values(self, inputs: TensorDictBase, *, target: bool = False) -> Tensor:
        """Q of each critic at the inputs' actions, ``[count, *B]``; targets are detached."""
        key = self.tensor_keys.state_action_value
        if not self.functional:
            network = self.target_qvalue_network if target else self.qvalue_network
            return network(inputs, key)
        if target:
            slots, params = self._target_q_slots, self.target_qvalue_network_params
        else:
            slots, params = self._q_slots, self.qvalue_network_params
        with slots.holding(params, self.qvalue_network):
            return self.qvalue_network(inputs, key)

    def _q_objective(self, tensordict: TensorDictBase, q: Tensor, target: Tensor) -> Tensor:
        """The distance of every critic to the target, summed over critics and reduced."""
        distance = distance_loss(q, target.expand_as(q), loss_function=self.loss_function).sum(0)
        return self._reduce_critic(distance, tensordict)

    def _reduce_critic(self, per_step: Tensor, tensordict: TensorDictBase) -> Tensor:
        """TorchRL's reduction over valid steps, sampler weights included."""
        weights = None
        if self._has_priority(tensordict):
            steps = _batch.valid_steps(tensordict, self._loss_mask_keys(), tensordict.shape)
            weights = self._priority(tensordict, steps).to(per_step.dtype)
        if self._whole.among_ranks and self.reduction != "none":
            return self._reduce_over_ranks(per_step, tensordict, weights)
        return self._reduce_loss(per_step, tensordict, weights=weights)

    def _reduce_over_ranks(
        self, per_step: Tensor, tensordict: TensorDictBase, weights: Tensor | None
    ) -> Tensor:
        """The same of the rows of all ranks, of which this one may have none."""
        steps = _batch.valid_steps(tensordict, self._loss_mask_keys(), tensordict.shape)
        if weights is None:
            weights = torch.ones_like(per_step) if steps is None else steps.to(per_step.dtype)
        share = torch.where(weights != 0, weights * per_step, 0.0).sum()
        if self.reduction == "mean":
            (total,) = self._whole.sums(weights.sum())
            share = share / total.clamp_min(torch.finfo(total.dtype).tiny)
        return self._whole.loss(share)

    def _td_target(self, inputs: TensorDictBase, next_value: Tensor) -> Tensor:
        """The one-step return R + gamma V(s'), ``[*B]``."""
        reward = as_numbers(self._step_entry(inputs, "reward"))
        terminated = self._step_entry(inputs, "terminated")
        if _checks.wants_check(self.check_inputs, reward):
            _checks.check_signal("reward", self.tensor_keys.reward, reward, None)
        return td0_return_estimate(self.gamma, next_value, reward.to(next_value), terminated.bool())

    def _step_entry(self, inputs: TensorDictBase, name: str) -> Tensor:
        key = getattr(self.tensor_keys, name)
        values = _batch.read_entry(inputs, key, name, type(self).__name__)
        return _batch.per_step(values, inputs.shape, name, key)

    def _critic_inputs(self, tensordict: TensorDictBase) -> TensorDictBase:
        """A copy of what the critics read, with zeros at invalid steps."""
        key = self.tensor_keys.action
        _batch.read_entry(tensordict, key, "action", type(self).__name__)
        inputs = tensordict.select(*self.in_keys, strict=False)
        steps = _batch.valid_steps(tensordict, self._loss_mask_keys(), tensordict.shape)
        return inputs if steps is None else _batch.cleared(inputs, steps)


def _reset(network: nn.Module) -> nn.Module:
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return network
