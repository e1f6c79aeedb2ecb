"""Objectives that imitate the log: every row alike, the better rows, or the better the more."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.functional.weights import exponential_weights
from torchrl_drpo.objectives._weighting import Weighting
from torchrl_drpo.objectives.advantage import AdvantageLoss
from torchrl_drpo.objectives.drpo.loss import DRPOLoss
from torchrl_drpo.objectives.weighted import WeightedLoss


class BehaviorCloningLoss(WeightedLoss):
    r"""Behaviour cloning: :math:`-\frac1N \sum_i \log\pi(a_i|s_i)`, every logged row alike.

    Works with every distribution that has a ``log_prob``, integer actions included.

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`.

    Outputs:
        ``loss_actor``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import BehaviorCloningLoss, make_gaussian_actor
        >>> loss = BehaviorCloningLoss(make_gaussian_actor(state_dim=10, action_dim=4))
        >>> batch = TensorDict(
        ...     {"observation": torch.randn(8, 10), "action": torch.randn(8, 4)}, batch_size=[8]
        ... )
        >>> loss(batch)["loss_actor"].backward()
    """

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        ones = self._ones(tensordict, mask)
        return Weighting(ones, ones, {})


class AdaptiveBCLoss(DRPOLoss):
    r"""Adaptive behaviour cloning: the best kappa of the rows alike, kappa moved by the data.

    :class:`~torchrl_drpo.objectives.drpo.DRPOLoss` with ``weighting="uniform"``: the weights are
    the exact solution of the optimistic DRO problem, :math:`1/\kappa` on the top kappa.

    Source: arXiv 2602.10430, appendix ("Adaptive BC").

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
        kappa, ties, group_key, ...: see :class:`~torchrl_drpo.objectives.drpo.DRPOLoss`; there is
            no ``weighting`` to choose.

    Outputs:
        As :class:`~torchrl_drpo.objectives.drpo.DRPOLoss`.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import AdaptiveBCLoss, make_gaussian_actor
        >>> loss = AdaptiveBCLoss(make_gaussian_actor(state_dim=10, action_dim=4), kappa=0.5)
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(8, 10),
        ...         "action": torch.randn(8, 4),
        ...         "next": {"reward": torch.arange(8.0)},
        ...     },
        ...     batch_size=[8],
        ... )
        >>> loss(batch)["effective_sample_size"]
        tensor(4.)
    """

    def __init__(self, actor_network: ProbabilisticTensorDictSequential, **options: Any) -> None:
        if "weighting" in options:
            raise TypeError(
                "AdaptiveBCLoss weighs its rows alike; DRPOLoss has the other weightings"
            )
        super().__init__(actor_network, weighting="uniform", **options)


class AWRLoss(AdvantageLoss):
    r"""Advantage-weighted regression: :math:`-\frac1N\sum_i \exp(A_i/\beta) \log\pi(a_i|s_i)`.

    Source: Peng et al. 2019, "Advantage-Weighted Regression" (arXiv 1910.00177).

    Args:
        actor_network: a TorchRL probabilistic actor.

    Keyword Args:
        temperature: beta, in units of the advantage, above 0.
        max_weight: cap of a weight, or ``None``.
        self_normalize: scale the weights of a batch to mean 1 before the cap.
        baseline, normalize, group_key: see
            :class:`~torchrl_drpo.objectives.advantage.AdvantageLoss`.
        level, skip_filtered, reduction, functional, check_inputs: see
            :class:`~torchrl_drpo.objectives.weighted.WeightedLoss`.

    Outputs:
        ``loss_actor`` and, detached and 0-d, ``effective_sample_size`` (in rows).

    Raises:
        ValueError: for a temperature or a cap that is not positive.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_drpo import AWRLoss, make_gaussian_actor
        >>> loss = AWRLoss(make_gaussian_actor(state_dim=10, action_dim=4), temperature=0.1)
        >>> batch = TensorDict(
        ...     {
        ...         "observation": torch.randn(8, 10),
        ...         "action": torch.randn(8, 4),
        ...         "next": {"reward": torch.rand(8)},
        ...     },
        ...     batch_size=[8],
        ... )
        >>> loss(batch)["loss_actor"].backward()
    """

    out_keys: ClassVar[list[NestedKey]] = ["loss_actor", "effective_sample_size"]

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        temperature: float = 1.0,
        max_weight: float | None = 20.0,
        self_normalize: bool = False,
        **options: Any,
    ) -> None:
        # Asking the rule once says at once what is out of range.
        exponential_weights(torch.zeros(1), temperature=temperature, max_weight=max_weight)
        super().__init__(actor_network, **options)
        self.temperature = temperature
        self.max_weight = max_weight
        self.self_normalize = self_normalize

    def _batch_numbers(self, tensordict: TensorDictBase) -> tuple[str, ...]:
        numbers = super()._batch_numbers(tensordict)
        return (*numbers, "mean weight") if self.self_normalize else numbers

    def _weigh(self, tensordict: TensorDictBase, mask: Tensor | None) -> Weighting:
        advantage = self._advantage(tensordict, mask)
        weight = self._whole.exponential_weights(
            advantage,
            temperature=self.temperature,
            max_weight=self.max_weight,
            normalize=self.self_normalize,
            mask=mask,
        )
        report = {"effective_sample_size": self._whole.effective_sample_size(weight)}
        return Weighting(weight, self._mass(advantage, mask), report)
