"""Positive-only learning that also climbs a learned reward at the same states."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.functional.checks import check_positive
from torchrl_drpo.objectives import _batch
from torchrl_drpo.objectives._expectation import (
    Expectation,
    ModelKeys,
    RewardUnderPolicy,
)
from torchrl_drpo.objectives._weighting import Scored, Weighting
from torchrl_drpo.objectives.advantage import AdvantageLoss


@dataclass(frozen=True)
class _Guided(Weighting):
    """Weights, and beside log pi what they multiply: c E_pi[Q] / std, of ``weight``'s shape."""

    gain: Tensor


class GuidedLoss(AdvantageLoss):
    r"""Positive-only cloning plus ascent on a cross-fitted reward model at the same states.

    .. math::
        L = -\frac1N \sum_i A_i^+ \Big[\log\pi(a_i|s_i)
            + \frac{c}{\operatorname{std} \hat Q}
              \mathbb E_{a \sim \pi(\cdot|s_i)} \hat Q(s_i, a)\Big], \qquad A = R - b

    The first term keeps the policy where good rows are, the second moves it on to what the reward
    model likes best there: what is below the baseline teaches through :math:`\hat Q`, without a
    negative weight that could run away. As :math:`A^+` stands before both, their balance is the
    same at every state. Where the policy is Gaussian and :math:`\hat Q` is linear in the action
    with slope u, write :math:`g = c\,u / \operatorname{std} \hat Q`; the mean settles at
    :math:`E_{A^+}[a] + \sigma^2 g`, at a finite distance for every c. A learned :math:`\sigma` has
    :math:`\sigma^2 = V + (\sigma^2 g)^2` in each dimension, V being the positives' variance: it
    settles too while :math:`2 |g| \sqrt V \le 1`, and otherwise grows to the policy's bound on it.

    :math:`\hat Q` must not have seen the rows that it judges, or it praises what it memorised: see
    :class:`~torchrl_drpo.CrossFittedReward`, which reads each row's ``fold``.

    Sources: TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860, eq. 3 and 5) has plain cloning in the
    place of the first term; positive-only weights are those of arXiv 2602.10430.

    Args:
        actor_network: a TorchRL probabilistic actor.
        reward_model: a TensorDictModule from state and action to a reward, its first out_key,
            shape ``[*B]`` or ``[*B, 1]``. A frozen copy in evaluation mode is kept; it moves and
            is saved with the loss. It finds the action under this loss's own action key, or else
            under ``"action"``. Entries named in its ``optional_in_keys`` are handed on where the
            batch has them.

    Keyword Args:
        guidance: c, in nats for one standard deviation of the reward model, at least 0. 0 is
            positive-only learning.
        reward_scale: the standard deviation of the model's predictions over the log, above 0.
            ``None`` takes the model's ``scale`` buffer where it has one, and 1 otherwise. A buffer
            of this loss.
        expectation: of the reward model under the policy. ``"mean"``: the model at the policy's
            mean, differentiated through it; exact where the model is linear in the action, without
            noise. ``"exact"``: the sum over all actions. ``"sample"``: draws of the policy and the
            score function, each draw against the mean of the others. ``"auto"``: what the reward
            model itself offers as ``expected_reward(tensordict, dist) -> [*B]``, differentiable in
            the distribution, such as a product with a whole catalogue; without that, the first
            where the distribution can be reparametrised, the second up to 64 actions, else the
            third.
        num_samples: draws a row of ``"sample"``, at least 2.
        baseline, normalize, group_key: see
            :class:`~torchrl_drpo.objectives.advantage.AdvantageLoss`; ``normalize`` is on.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`. A trajectory's guidance is
            the sum over its valid steps.

    Outputs:
        ``loss_actor``; and, detached and 0-d, ``effective_sample_size`` (in rows) and
        ``guidance_value``: how much better the model finds the policy's actions than the logged
        ones, in its standard deviations, over the steps with a positive advantage. A value that
        grows past a few says that the policy has left the log behind: lower c.

    Raises:
        TypeError: for a reward model that reads no tensordict or no action.
        ValueError: for numbers out of range, or an expectation that the policy does not offer.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> from torchrl_drpo import GuidedLoss, make_gaussian_actor
        >>> taste = torch.nn.Bilinear(10, 4, 1)  # train it first, on other rows
        >>> model = TensorDictModule(taste, ["observation", "action"], ["predicted_reward"])
        >>> loss = GuidedLoss(make_gaussian_actor(state_dim=10, action_dim=4), model, guidance=0.5)
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
        >>> taste.weight.grad is None
        True
    """

    reward_model: TensorDictModuleBase
    reward_scale: Tensor
    _schedulable_buffers = frozenset({"reward_scale"})
    _coefficients: ClassVar = {"reward_scale": check_positive}
    out_keys: ClassVar[list[NestedKey]] = [
        "loss_actor",
        "guidance_value",
        "effective_sample_size",
    ]

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        reward_model: TensorDictModuleBase,
        *,
        guidance: float = 1.0,
        reward_scale: float | None = None,
        expectation: Expectation = "auto",
        num_samples: int = 8,
        normalize: bool = True,
        **options: Any,
    ) -> None:
        if not isinstance(reward_model, TensorDictModuleBase):
            raise TypeError(
                f"reward_model must be a TensorDictModule, got {type(reward_model).__name__}; wrap "
                "it: TensorDictModule(model, ['observation', 'action'], ['predicted_reward'])"
            )
        if not 0 <= guidance < math.inf:
            raise ValueError(f"guidance must be a finite number of at least 0, got {guidance}")
        if expectation not in ("auto", "mean", "exact", "sample"):
            raise ValueError(
                f"expectation must be 'auto', 'mean', 'exact' or 'sample', got {expectation!r}"
            )
        if num_samples < 2:
            raise ValueError(
                f"num_samples must be at least 2, for a draw is judged by the others, "
                f"got {num_samples}"
            )
        if reward_scale is not None:
            check_positive("reward_scale", reward_scale)
        super().__init__(actor_network, normalize=normalize, **options)
        self.guidance, self.expectation, self.num_samples = guidance, expectation, num_samples
        self.reward_model = copy.deepcopy(reward_model).requires_grad_(False).eval()
        self.register_buffer("reward_scale", self._initial_scale(reward_scale))
        self._reads = ModelKeys.of(self.reward_model, self.tensor_keys.action)

    def train(self, mode: bool = True) -> GuidedLoss:
        """As usual, except that the reward model stays in evaluation mode."""
        super().train(mode)
        self.reward_model.eval()
        return self

    def _initial_scale(self, given: float | None) -> Tensor:
        known = getattr(self.reward_model, "scale", None)
        if given is None and isinstance(known, Tensor):
            return known.detach().clone()
        like = next((p for p in self.parameters()), torch.zeros(()))
        return torch.full((), 1.0 if given is None else given, device=like.device)

    # -- the rule -------------------------------------------------------------------------------

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        advantage = self._advantage(tensordict, mask)
        weight = advantage.clamp_min(0.0)
        report = {"effective_sample_size": self._whole.effective_sample_size(weight)}
        return Weighting(weight, self._mass(advantage, mask), report)

    def _reweigh(self, weighting: Weighting, scored: Scored) -> Weighting:
        reward = self._reward
        with torch.enable_grad():  # the weights are constants of the step, the guidance is not
            own = self._per_step(reward.expected(scored.inputs, scored.dist), scored)
            own = own / self.reward_scale
            gain = self.guidance * (own.flatten(1).sum(1) if self.level == "trajectory" else own)
        action = _batch.fitting_action(scored.dist, scored.action, scored.inputs.shape)
        logged = reward.value(scored.inputs, action) / self.reward_scale
        better = own.detach() - self._per_step(logged, scored)
        report = {
            **weighting.report,
            "guidance_value": self._mean_of_kept(better, weighting, scored),
        }
        return _Guided(weighting.weight, weighting.mass, report, gain)

    def _reduce_weighted(self, log_prob: Tensor, weighting: Weighting, total: Tensor) -> Tensor:
        assert isinstance(weighting, _Guided)  # what _reweigh returned
        return super()._reduce_weighted(log_prob + weighting.gain, weighting, total)

    def _per_step(self, values: Tensor, scored: Scored) -> Tensor:
        return values if scored.mask is None else torch.where(scored.mask, values, 0.0)

    def _mean_of_kept(self, values: Tensor, weighting: Weighting, scored: Scored) -> Tensor:
        """Mean over the valid steps of the samples with weight; 0 where there is none."""
        weight = weighting.weight
        kept = (weight > 0).reshape(weight.shape + (1,) * (values.ndim - weight.ndim))
        kept = kept.expand_as(values)
        if scored.mask is not None:
            kept = kept & scored.mask
        total, count = self._whole.sums(torch.where(kept, values, 0.0).sum(), kept.sum())
        return total / count.clamp_min(1)

    # -- the reward model ----------------------------------------------------------------------

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        super()._forward_value_estimator_keys(**kwargs)
        self._reads = ModelKeys.of(self.reward_model, self.tensor_keys.action)

    @property
    def _reward(self) -> RewardUnderPolicy:
        model = self._modules["reward_model"]
        return RewardUnderPolicy(model, self._reads, self.expectation, self.num_samples)

    def _policy_keys(self) -> list[NestedKey]:
        return list(dict.fromkeys([*super()._policy_keys(), *self._reads.state]))

    def _needed_keys(self) -> list[NestedKey]:
        optional = self._reads.optional
        return [key for key in super()._needed_keys() if key not in optional]
