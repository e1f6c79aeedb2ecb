"""An actor in a LossModule, without a rule: keys, coefficients, parameters, reading a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from tensordict import TensorDictBase, TensorDictParams
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn
from torchrl.objectives.common import LossModule

from torchrl_drpo.distributed.ranks import names_of_shards, world_size
from torchrl_drpo.distributed.whole_batch import whole_batch
from torchrl_drpo.functional.checks import check_not_negative
from torchrl_drpo.functional.precision import as_numbers, at_least_float32
from torchrl_drpo.objectives import _batch, _checks
from torchrl_drpo.objectives._parameters import ParameterSlots
from torchrl_drpo.objectives._ranks import (
    refuse_sharding_that_trains_wrongly,
    tell_of_rank_local_numbers,
)

if TYPE_CHECKING:
    from torchrl_drpo.distributed.group import Over


class _WrappedOnce(type(LossModule)):
    """TorchRL wraps ``forward`` anew in every subclass; one that inherits it needs no more."""

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, object]) -> None:
        super().__init__(name, bases, namespace)
        if "forward" not in namespace:
            del cls.forward


class ActorLoss(LossModule, metaclass=_WrappedOnce):
    """The module that a :class:`~torchrl_drpo.objectives.weighted.WeightedLoss` is.

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
        level, reduction, functional, check_inputs, over: see the loss.

    Raises:
        ValueError: for an unknown ``level`` or ``reduction``.
    """

    @dataclass
    class _AcceptedKeys:
        """Entries of the batch.

        Attributes:
            action: the logged action.
            priority_weight: optional importance weights ``p`` of a sampler; the mean becomes
                ``sum(p w l) / sum(p m)``.
        """

        action: NestedKey = "action"
        priority_weight: NestedKey = "priority_weight"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    actor_network: ProbabilisticTensorDictSequential
    actor_network_params: TensorDictParams
    target_actor_network_params: TensorDictParams

    #: names of the accepted keys, beside the action, that the rule cannot do without
    _signal_keys: tuple[str, ...] = ()
    #: buffers that a user sets and a state brings, each with what raises where it is out of range
    _coefficients: ClassVar[dict[str, Callable[[str, float | Tensor], None]]] = {}

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        level: str = "step",
        reduction: str | None = None,
        functional: bool = True,
        check_inputs: bool | None = None,
        over: Over | None = None,
    ) -> None:
        if level not in ("step", "trajectory"):
            raise ValueError(f"level must be 'step' or 'trajectory', got {level!r}")
        reduction = "mean" if reduction is None else reduction  # as TorchRL has it
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
        self._functional = functional
        self._in_keys: list[NestedKey] | None = None
        super().__init__()
        self._slots = ParameterSlots()
        self._looked_at: type | None = None
        if functional:
            self.convert_to_functional(actor_network, "actor_network", create_target_params=False)
        else:
            self.actor_network = actor_network
        self.level = level
        self.reduction = reduction
        self.check_inputs = check_inputs
        self.over = over

    # -- coefficients ---------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._coefficients and name in self.__dict__.get("_buffers", ()):
            value = value if isinstance(value, Tensor) else float(value)  # NumPy's too
            self._coefficients[name](name, value)
            if isinstance(value, Tensor):
                value = value.to(self._buffers[name])  # its device and type
        super().__setattr__(name, value)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any, **options: Any
    ) -> None:
        for name, check in self._coefficients.items():
            if prefix + name in state_dict:  # refused before anything is loaded
                check(f"{prefix}{name} of the state", float(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *others, **options)

    # -- keys -----------------------------------------------------------------------------------

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries that ``forward`` needs: the actor's inputs, the action, the rule's signals."""
        if self._in_keys is None:
            self._in_keys = list(dict.fromkeys(unravel_key(key) for key in self._needed_keys()))
        return self._in_keys

    @in_keys.setter
    def in_keys(self, values: list[NestedKey] | None) -> None:
        self._in_keys = values

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        self._in_keys = None  # set_keys may have renamed what they are made of

    def _needed_keys(self) -> list[NestedKey]:
        """What ``in_keys`` lists, in this order, repetitions and all."""
        signals = [getattr(self.tensor_keys, name) for name in self._signal_keys]
        return [*self._policy_keys(), self.tensor_keys.action, *signals]

    def _policy_keys(self) -> list[NestedKey]:
        """What the networks read of a row; a rule with a second network adds to it."""
        return self.actor_network.in_keys

    # -- reading a batch ------------------------------------------------------------------------

    def _signal(self, tensordict: TensorDictBase, name: str, mask: Tensor | None) -> Tensor:
        """The entry ``tensor_keys.<name>`` as one finite number a sample, detached."""
        key = getattr(self.tensor_keys, name)
        values = _batch.read_entry(tensordict, key, name, type(self).__name__)
        values = as_numbers(values.detach() if values.requires_grad else values)
        if self.level == "trajectory":
            steps = _batch.valid_steps(tensordict, self._loss_mask_keys(), tensordict.shape)
            values = _batch.per_trajectory(values, tensordict.shape, steps, name, key)
        else:
            values = _batch.per_step(values, tensordict.shape, name, key)
        if _checks.wants_check(self.check_inputs, values):
            _checks.check_signal(name, key, values, mask)
        return values

    def _group_ids(
        self, tensordict: TensorDictBase, key: NestedKey | None, batch: torch.Size
    ) -> Tensor | None:
        """Integer ids, one a sample, or ``None`` without a key."""
        if key is None:
            return None
        return _batch.group_ids(tensordict, key, batch, type(self).__name__)

    def _samples(self, steps: Tensor | None) -> Tensor | None:
        """Valid samples from valid steps: a trajectory is valid when any of its steps is."""
        if steps is None or self.level == "step":
            return steps
        return steps.flatten(1).any(1)

    def _ones(self, tensordict: TensorDictBase, mask: Tensor | None) -> Tensor:
        """One for each valid sample, zero for the others."""
        if mask is not None:
            return mask.float()
        shape = tensordict.shape[:1] if self.level == "trajectory" else tensordict.shape
        key = self.tensor_keys.action
        action = _batch.read_entry(tensordict, key, "action", type(self).__name__)
        return torch.ones(shape, device=action.device)

    def _has_priority(self, tensordict: TensorDictBase) -> bool:
        """Whether the batch comes with a sampler's weights, and they are to be used."""
        if self.use_prioritized_weights not in (True, "auto"):
            return False
        return _batch.optional_entry(tensordict, self.tensor_keys.priority_weight) is not None

    def _priority(self, tensordict: TensorDictBase, mask: Tensor | None) -> Tensor:
        """The sampler's weight of each sample, 0 where the mask is false."""
        key, batch = self.tensor_keys.priority_weight, tensordict.shape
        priority = at_least_float32(tensordict.get(key))
        if self.level == "trajectory" and priority.shape[:1] == batch[:1]:
            priority = priority.reshape(batch[0], -1)[:, 0]
        else:
            priority = _batch.per_step(priority, batch, "priority_weight", key)
        if _checks.wants_check(self.check_inputs, priority):
            hint = "these weights are the sampler's; see how its priorities are updated"
            check_not_negative(f"priority_weight {key!r}", priority, mask, hint=hint)
        return priority if mask is None else torch.where(mask, priority, 0.0)

    # -- the networks ---------------------------------------------------------------------------

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """As :meth:`torch.nn.Module.named_parameters`, without targets, as TorchRL has it.

        TorchRL's own lacks ``remove_duplicate``, which FSDP2 passes.
        """
        every = super(LossModule, self).named_parameters(prefix, recurse, remove_duplicate)
        return ((name, p) for name, p in every if not name.startswith("_target"))

    def reset_parameters_recursive(self) -> None:
        """Makes the parameters of all trained networks what they are at first, or draws them anew.

        TorchRL's own does not see the networks of a loss with ``functional=False``. Coefficients
        stay as they are.
        """
        if self.functional:
            super().reset_parameters_recursive()
            return
        for network in self.children():
            if any(parameter.requires_grad for parameter in network.parameters()):
                network.reset_parameters_recursive()

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DistributedDataParallel leaves alone: tables whose rows lie on several ranks."""
        return names_of_shards(self)

    def _all_modules(self) -> Iterator[nn.Module]:
        """Every module that the loss runs; functional ones are no children of it."""
        held = [value for value in self.__dict__.values() if isinstance(value, nn.Module)]
        return chain(self.modules(), *(network.modules() for network in held))

    def _batch_numbers(self, tensordict: TensorDictBase) -> tuple[str, ...]:
        """Names of the numbers that the rule takes from a whole batch."""
        return ()

    def _look_at_ranks(self, tensordict: TensorDictBase) -> None:
        """Refuses what would train wrongly among ranks, and tells of what they do not share."""
        owner = type(self).__name__.removeprefix("FSDP")
        # Once, and again when fully_shard has changed the class.
        if not torch.compiler.is_compiling() and self._looked_at is not type(self):
            refuse_sharding_that_trains_wrongly(owner, self._all_modules(), self.functional)
            self._looked_at = type(self)
        ranks = world_size()
        if ranks > 1 and not self._whole.among_ranks:
            tell_of_rank_local_numbers(owner, self._batch_numbers(tensordict), ranks)

    @property
    def over(self) -> Over | None:
        """The ranks whose rows are one batch, a process group; ``None`` for this process's rows.

        May be set between steps, on every rank.
        """
        return self._whole.group

    @over.setter
    def over(self, over: Over | None) -> None:
        self._whole = whole_batch(over)

    @property
    def functional(self) -> bool:
        """Whether the actor's parameters are held apart from the module."""
        return self._functional

    def _actor_parameters(self) -> AbstractContextManager[None]:
        """The actor network with its parameters in place."""
        if not self.functional:
            return contextlib.nullcontext()
        return self._slots.holding(self.actor_network_params, self.actor_network)

    def _inputs(
        self, tensordict: TensorDictBase, rows: Tensor | None, steps: Tensor | None
    ) -> TensorDictBase:
        """What the policy reads, and the logged actions, for ``rows`` only."""
        action_key = self.tensor_keys.action
        keys = (*self._policy_keys(), action_key)
        inputs = _batch.take(tensordict, keys, rows)
        if inputs.get(action_key, None) is None:
            _batch.read_entry(tensordict, action_key, "action", type(self).__name__)  # raises
        return inputs if steps is None else _batch.cleared(inputs, steps)
