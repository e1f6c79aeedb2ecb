"""Objectives that imitate the log: every row alike."""

from __future__ import annotations

from tensordict import TensorDictBase
from torch import Tensor

from torchrl_drpo.objectives.weighted import WeightedLoss, Weighting


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
