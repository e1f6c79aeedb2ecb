"""A reward model under a policy: what it says of given actions, and of those the policy takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torch.distributions import Distribution

from torchrl_drpo.objectives import _batch

Expectation = Literal["auto", "mean", "exact", "sample"]

#: Up to so many actions, ``"auto"`` adds up over all of them instead of sampling a few.
EXACT_UP_TO = 64


@dataclass(frozen=True)
class ModelKeys:
    """What a reward model reads of a row.

    Attributes:
        action: where it finds the action.
        state: what it reads besides.
        optional: what of that need not be there.
    """

    action: NestedKey
    state: tuple[NestedKey, ...]
    optional: tuple[NestedKey, ...]

    @classmethod
    def of(cls, model: TensorDictModuleBase, logged: NestedKey) -> ModelKeys:
        """The keys of a model that finds the action under the loss's own key, or ``"action"``.

        Raises:
            TypeError: for a model that reads neither.
        """
        known = [unravel_key(key) for key in model.in_keys]
        optional = tuple(unravel_key(key) for key in getattr(model, "optional_in_keys", ()))
        for key in (logged, "action"):
            if unravel_key(key) in known:
                state = [other for other in known if other != unravel_key(key)]
                return cls(key, (*state, *optional), optional)
        raise TypeError(
            f"reward_model reads {known}, which holds no action; name its action entry {logged!r}"
        )


@dataclass(frozen=True)
class RewardUnderPolicy:
    """A reward model and how it is asked; see :class:`~torchrl_drpo.GuidedLoss`.

    Attributes:
        model: reads state and action, writes the reward as its first out_key.
        keys: what it reads.
        expectation: how the expectation under the policy is taken.
        num_samples: draws a row of ``"sample"``.
    """

    model: TensorDictModuleBase
    keys: ModelKeys
    expectation: Expectation
    num_samples: int

    def value(self, inputs: TensorDictBase, action: Tensor) -> Tensor:
        """Q at one action a step, ``[*B]``."""
        rows = inputs.select(*self.keys.state, strict=False)
        rows.set(self.keys.action, action)
        key = self.model.out_keys[0]
        found = self.model(rows).get(key, None)
        if found is None:
            raise KeyError(f"the reward model says that it writes {key!r}, and does not")
        return _batch.per_step(found, inputs.shape, "the reward model's prediction")

    def expected(self, inputs: TensorDictBase, dist: Distribution) -> Tensor:
        """E_pi[Q] at each step, ``[*B]``, with the gradient that the policy gets of it."""
        own = getattr(self.model, "expected_reward", None)
        if own is not None and self.expectation == "auto":
            found = own(inputs.select(*self.keys.state, strict=False), dist)
            return _batch.per_step(found, inputs.shape, "the reward model's expectation")
        kind = self._kind(dist)
        if kind == "mean":
            return self.value(inputs, _centre(dist))
        if kind == "exact":
            every = dist.enumerate_support()
            return (dist.log_prob(every).exp() * self._values(inputs, every)).sum(0)
        drawn = dist.sample((self.num_samples,))
        value = self._values(inputs, drawn)
        # Against the mean of the other draws: unbiased, and no value need be known beforehand.
        mean = value.mean(0)
        above = (value - mean) / (self.num_samples - 1)
        score = (above * _log_prob_of_many(dist, drawn, value.shape)).sum(0)
        return mean + score - score.detach()

    def _values(self, inputs: TensorDictBase, action: Tensor) -> Tensor:
        """Q at several actions a step, ``[m, *B]``; no gradient: none of it is the policy's."""
        many = inputs.expand(action.shape[0], *inputs.shape)
        with torch.no_grad():
            return self.value(many, action)

    def _kind(self, dist: Distribution) -> str:
        listed = dist.has_enumerate_support and dist.event_shape == torch.Size([])
        if self.expectation == "auto":
            if dist.has_rsample:
                return "mean"
            size = _support_size(dist) if listed else math.inf
            return "exact" if size <= EXACT_UP_TO else "sample"
        if self.expectation == "exact" and not listed:
            raise ValueError(f"expectation='exact' needs few actions, not {type(dist).__name__}")
        if self.expectation == "mean" and not dist.has_rsample:
            raise ValueError(f"expectation='mean' has no meaning for {type(dist).__name__}")
        return self.expectation


def _centre(dist: Distribution) -> Tensor:
    """The policy's mean, or what TorchRL acts with where a distribution has no closed form."""
    try:
        return dist.mean
    except (NotImplementedError, AttributeError):
        return dist.deterministic_sample


def _support_size(dist: Distribution) -> float:
    for name in ("num_items", "_num_events"):
        size = getattr(dist, name, None)
        if size is not None:
            return int(size)
    return math.inf


def _log_prob_of_many(dist: Distribution, drawn: Tensor, shape: torch.Size) -> Tensor:
    """``log pi`` of several actions a step, ``[m, *B]``; sums over open event dimensions."""
    log_prob = dist.log_prob(drawn)
    return log_prob if log_prob.shape == shape else log_prob.flatten(len(shape)).sum(-1)
