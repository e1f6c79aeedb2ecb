"""The base of the rules that compare the policy with the one that wrote the log."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.functional.checks import check_finite, check_probability
from torchrl_drpo.functional.precision import at_least_float32
from torchrl_drpo.objectives import _batch, _checks
from torchrl_drpo.objectives._weighting import Scored
from torchrl_drpo.objectives.advantage import AdvantageLoss

Behavior = Literal["logged", "auto", "current"] | ProbabilisticTensorDictSequential


class BehaviorLoss(AdvantageLoss):
    """Base LossModule of the rules that know the behaviour policy mu.

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
        behavior: where mu(a|s) comes from. ``"logged"``: the batch must have it. ``"auto"``: the
            batch's, and the current policy where it has none. ``"current"``: the current policy,
            a constant of the step. A probabilistic actor: a frozen copy of it is asked, such as a
            policy fitted to the log by behaviour cloning. Not every rule admits every source.
        baseline, normalize, group_key: see
            :class:`~torchrl_drpo.objectives.advantage.AdvantageLoss`.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`.

    Raises:
        ValueError: for a source that the rule does not admit.
    """

    @dataclass
    class _AcceptedKeys(AdvantageLoss._AcceptedKeys):
        """Entries of the batch.

        Attributes:
            propensity: mu(a|s), in (0, 1], ``[*B]`` or ``[*B, 1]``.
            log_propensity: its natural logarithm, as this package's buffers give it beside the
                propensity; used instead where the batch has it, for float32 holds no probability
                below 1e-45.
            behavior_log_prob: log mu(a|s) in nats, used instead of both where the batch has it.
                For continuous actions it is a log-density, and the only right choice.
        """

        propensity: NestedKey = "propensity"
        log_propensity: NestedKey = "log_propensity"
        behavior_log_prob: NestedKey = "behavior_log_prob"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    behavior_network: ProbabilisticTensorDictSequential | None

    #: sources other than a network that this rule admits
    _behavior_sources: ClassVar[tuple[str, ...]] = ("logged",)

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        behavior: Behavior = "logged",
        **options: Any,
    ) -> None:
        if isinstance(behavior, str) and behavior not in self._behavior_sources:
            raise ValueError(
                f"{type(self).__name__} takes its behaviour policy from "
                f"{', '.join(map(repr, self._behavior_sources))} or a policy, got {behavior!r}"
            )
        network = None
        if not isinstance(behavior, str):
            network = copy.deepcopy(behavior).requires_grad_(False).eval()
        super().__init__(actor_network, **options)
        self.behavior = behavior if isinstance(behavior, str) else "network"
        self.behavior_network = network
        if self.behavior == "logged":
            self._signal_keys = (*self._signal_keys, "propensity")

    def train(self, mode: bool = True) -> BehaviorLoss:
        """As usual, except that a behaviour network stays in evaluation mode."""
        super().train(mode)
        if self.behavior_network is not None:
            self.behavior_network.eval()
        return self

    def update_behavior(self) -> None:
        """Makes the current policy the behaviour policy (BPPO's iteration).

        Raises:
            RuntimeError: if mu is not a network.
        """
        if self.behavior_network is None:
            raise RuntimeError(
                f"behavior={self.behavior!r} has no network to update; pass a policy as behavior="
            )
        if self.functional:
            current = self.actor_network_params.data
        else:
            current = TensorDict.from_module(self.actor_network).data
        TensorDict.from_module(self.behavior_network).data.update_(current)

    def _policy_keys(self) -> list[NestedKey]:
        keys = super()._policy_keys()
        if self.behavior_network is not None:
            keys = list(dict.fromkeys([*keys, *self.behavior_network.in_keys]))
        return keys

    def _behavior_log_prob(self, scored: Scored) -> Tensor | None:
        """The log mu(a|s) of the scored rows, or ``None`` for the current policy."""
        if self.behavior_network is not None:
            return self._log_prob(self.behavior_network, scored.inputs, scored.mask)[1]
        if self.behavior == "current":
            return None
        logged = self._logged_log_prob(scored.data)
        return None if logged is None else scored.take(logged)

    def _logged_log_prob(self, tensordict: TensorDictBase) -> Tensor | None:
        there = [
            name
            for name in ("behavior_log_prob", "log_propensity", "propensity")
            if _batch.optional_entry(tensordict, getattr(self.tensor_keys, name)) is not None
        ]
        if not there and self.behavior == "auto":
            return None
        name = there[0] if there else "propensity"
        key = getattr(self.tensor_keys, name)
        values = _batch.read_entry(tensordict, key, name, type(self).__name__).detach()
        values = at_least_float32(values)
        batch = tensordict.shape
        steps = _batch.valid_steps(tensordict, self._loss_mask_keys(), batch)
        whole = self.level == "trajectory" and values.shape in (batch[:1], (*batch[:1], 1))
        values = values.reshape(batch[:1]) if whole else _batch.per_step(values, batch, name, key)
        mask = self._samples(steps) if whole else steps
        if _checks.wants_check(self.check_inputs, values):
            check = check_probability if name == "propensity" else check_finite
            hint = "repair these rows, or fit a policy to the log"
            check(f"{name} {key!r}", values, mask, hint=hint)
        if name == "propensity":
            values = values.log()
        if mask is not None:
            values = torch.where(mask, values, 0.0)
        return values if whole or self.level == "step" else values.flatten(1).sum(1)
