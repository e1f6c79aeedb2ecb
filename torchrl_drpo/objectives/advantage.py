"""The base of the objectives that weigh by an advantage: a given one, or reward minus baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.functional.groups import group_centred, group_minimum, group_moments
from torchrl_drpo.objectives import _batch
from torchrl_drpo.objectives.weighted import WeightedLoss

Baseline = Literal["mean", "min"] | float | None


class AdvantageLoss(WeightedLoss):
    """Base LossModule of the rules for the weights that look at an advantage.

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
        baseline: b of A = R - b: ``"mean"`` or ``"min"`` of the batch's rewards, a number, or
            ``None`` for 0. Not used where the batch has an ``advantage``.
        normalize: divide the advantage by its standard deviation over the batch.
        group_key: entry with integer ids (user, context, ...): a ``"mean"`` or ``"min"`` baseline
            and the standard deviation are then those of each row's group. A group whose rewards
            are all equal has advantage 0 under the mean baseline.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`.

    Raises:
        ValueError: for an unknown or non-finite baseline.
    """

    @dataclass
    class _AcceptedKeys(WeightedLoss._AcceptedKeys):
        """Entries of the batch.

        Attributes:
            reward: R, ``[*B]`` or ``[*B, 1]``.
            advantage: A, used instead of reward minus baseline where the batch has it.
        """

        reward: NestedKey = ("next", "reward")
        advantage: NestedKey = "advantage"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys
    _signal_keys = ("reward",)

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        baseline: Baseline = "mean",
        normalize: bool = False,
        group_key: NestedKey | None = None,
        **options: Any,
    ) -> None:
        if isinstance(baseline, str) and baseline not in ("mean", "min"):
            raise ValueError(f"baseline must be 'mean', 'min', a number or None, got {baseline!r}")
        if isinstance(baseline, (int, float)) and not math.isfinite(baseline):
            raise ValueError(f"baseline must be finite, got {baseline}")
        super().__init__(actor_network, **options)
        self.baseline = baseline
        self.normalize = normalize
        self.group_key = group_key

    def _needed_keys(self) -> list[NestedKey]:
        keys = super()._needed_keys()
        return keys if self.group_key is None else [*keys, self.group_key]

    def _batch_numbers(self, tensordict: TensorDictBase) -> tuple[str, ...]:
        given = _batch.optional_entry(tensordict, self.tensor_keys.advantage) is not None
        numbers = ("baseline",) if isinstance(self.baseline, str) and not given else ()
        return (*numbers, "standard deviation") if self.normalize else numbers

    def _advantage(self, tensordict: TensorDictBase, mask: Tensor | None) -> Tensor:
        """A of each sample, detached, 0 where the mask is false."""
        given = _batch.optional_entry(tensordict, self.tensor_keys.advantage) is not None
        signal = self._signal(tensordict, "advantage" if given else "reward", mask)
        group = self._group_ids(tensordict, self.group_key, signal.shape)
        advantage = signal if given else self._above_baseline(signal, mask, group)
        if mask is not None:
            advantage = torch.where(mask, advantage, 0.0)
        if self.normalize:
            if group is None:
                spread = self._whole.std(advantage, mask)
            else:
                spread = group_moments(advantage, group, mask)[1]
            advantage = advantage / (spread + 1e-8)
        return advantage

    def _above_baseline(self, reward: Tensor, mask: Tensor | None, group: Tensor | None) -> Tensor:
        """R - b where the mask is true."""
        if self.baseline == "mean":
            if group is None:
                return self._whole.centred(reward, mask)
            return group_centred(reward, group, mask)
        if self.baseline == "min":
            if group is None:
                return reward - self._whole.minimum(reward, mask)
            return reward - group_minimum(reward, group, mask)
        return reward if self.baseline is None else reward - self.baseline

    def _mass(self, advantage: Tensor, mask: Tensor | None) -> Tensor:
        """Every valid sample counts once."""
        return torch.ones_like(advantage) if mask is None else mask.to(advantage.dtype)

    def _mass_ratios(self, advantage: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Rho before and after a rule, both in one pass: small batches cost by the operation."""
        both = torch.stack([advantage, weight]).flatten(1)
        before, after = self._whole.negative_mass_ratio(both, dim=1).unbind()
        return {"negative_mass_ratio": before, "effective_negative_mass_ratio": after}
