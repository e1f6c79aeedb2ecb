r"""Objectives with a probability ratio: clipped surrogates, and OneRec's two production rules.

The clipped surrogates are the family's exceptions: they are not :math:`w \log\pi` but a function
of :math:`\pi/\pi'` with a gradient of its own. They return one value a sample, *to be maximised*.
Where the log has no propensity, OneRec's rules take the current policy itself as the old one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_open_fraction, check_positive, check_same_shape
from torchrl_drpo.functional.precision import at_least_float32


def clipped_surrogate(
    advantage: Tensor, log_prob: Tensor, behavior_log_prob: Tensor, *, clip_epsilon: float | Tensor
) -> Tensor:
    r"""PPO's surrogate, :math:`\min\{r A, \mathrm{clip}(r, 1-\epsilon, 1+\epsilon) A\}`.

    With r = pi/pi_old. Written as one clamp of log r, from above for A >= 0 and from below for
    A < 0, which is the same number but has no infinite branch in its backward. For A < 0 it is
    not bounded as r grows; :func:`ecpo_surrogate` is.

    Source: Schulman et al. 2017 (arXiv 1707.06347), eq. 7; with a snapshot of the behaviour policy
    as the old one it is BPPO's (arXiv 2302.11312).

    Args:
        advantage: A, any shape.
        log_prob: log pi(a|s) under the current policy; the gradient flows into it.
        behavior_log_prob: log pi_old(a|s).
        clip_epsilon: epsilon in (0, 1); a number or a 0-d tensor.

    Returns:
        The surrogate of each sample, float32 or better, to be maximised.

    Raises:
        ValueError: if ``clip_epsilon`` (a number) is out of range or the shapes differ.

    >>> import torch
    >>> log_ratio = torch.tensor([0.5, 2.0, 0.5, 2.0]).log()
    >>> advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    >>> clipped_surrogate(advantage, log_ratio, torch.zeros(4), clip_epsilon=0.2)
    tensor([ 0.5000,  1.2000, -0.8000, -2.0000])
    """
    check_same_shape(advantage=advantage, log_prob=log_prob, behavior_log_prob=behavior_log_prob)
    advantage = at_least_float32(advantage.detach())
    log_ratio = at_least_float32(log_prob) - behavior_log_prob.detach()
    high, low = _log_clip_range(clip_epsilon, log_ratio)
    capped = torch.where(advantage >= 0, log_ratio.minimum(high), log_ratio.maximum(low))
    return capped.exp() * advantage


def ecpo_surrogate(
    advantage: Tensor,
    log_prob: Tensor,
    behavior_log_prob: Tensor | None = None,
    *,
    clip_epsilon: float = 0.2,
    delta: float = 0.1,
) -> Tensor:
    r"""ECPO: PPO's surrogate whose ratio cannot exceed 1 + epsilon + delta on negatives.

    For A < 0 the old policy is raised to
    :math:`\pi' = \max\{\mathrm{sg}\,\pi / (1+\epsilon+\delta), \pi_{old}\}`; elsewhere
    :math:`\pi' = \pi_{old}`. Without ``behavior_log_prob``, pi_old is sg pi and the ratio 1.

    Source: OneRec (arXiv 2506.13695), early-clipped GRPO, delta = 0.1.

    Args:
        advantage: A (OneRec: normalised within a group), any shape.
        log_prob: log pi(a|s) under the current policy; the gradient flows into it.
        behavior_log_prob: log pi_old(a|s), logged; ``None`` where the log has none.
        clip_epsilon: epsilon in (0, 1).
        delta: slack above 1 + epsilon before the old policy is raised, above 0.

    Returns:
        The surrogate of each sample, float32 or better, to be maximised.

    Raises:
        ValueError: if ``clip_epsilon`` or ``delta`` is out of range or the shapes differ.

    >>> import torch
    >>> ratio = torch.tensor([2.0, 1000.0])
    >>> ecpo_surrogate(torch.tensor([-1.0, -1.0]), ratio.log(), torch.zeros(2))
    tensor([-1.3000, -1.3000])
    """
    check_positive("delta", delta)
    log_prob = at_least_float32(log_prob)
    old = log_prob if behavior_log_prob is None else behavior_log_prob
    old = old.detach().to(log_prob)
    raised = torch.maximum(log_prob.detach() - math.log1p(clip_epsilon + delta), old)
    old = torch.where(advantage < 0, raised, old)
    return clipped_surrogate(advantage, log_prob, old, clip_epsilon=clip_epsilon)


def gbpo_weights(
    advantage: Tensor,
    log_prob: Tensor,
    behavior_log_prob: Tensor | None = None,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    r"""GBPO as detached weights: the gradient of :func:`gbpo_surrogate`, sample by sample.

    .. math:: w = A_+ \min\{\pi/\pi_{old}, 1\} - A_- \min\{\pi/\pi_{old}, \pi/(1-\pi)\}

    pi/(1-pi) is the weight that a binary cross-entropy would put on the sample: its gradient
    bounds the policy's. For a density above 1, where 1 - pi is no probability, the bound is
    pi/pi_old alone.

    Source: OneRec-V2 (arXiv 2508.20900), eq. 15 and 16.

    Args:
        advantage: A, any shape.
        log_prob: log pi(a|s) under the current policy, of the same shape.
        behavior_log_prob: log pi_old(a|s), logged; ``None``: the current policy.
        mask: ``True`` where a row counts.

    Returns:
        The signed weights, detached, of the shape of ``advantage``.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> log_prob = torch.tensor([0.2, 0.2, 0.5]).log()
    >>> gbpo_weights(torch.tensor([1.0, -1.0, -1.0]), log_prob, torch.tensor([0.4, 0.1, 0.1]).log())
    tensor([ 0.5000, -0.2500, -1.0000])
    """
    check_same_shape(
        advantage=advantage, log_prob=log_prob, behavior_log_prob=behavior_log_prob, mask=mask
    )
    advantage = at_least_float32(advantage.detach())
    log_prob = at_least_float32(log_prob.detach())
    log_ratio = log_prob - _bounded_old(advantage, log_prob, behavior_log_prob)
    weight = advantage * log_ratio.exp()
    return weight if mask is None else torch.where(mask, weight, 0.0)


def gbpo_surrogate(
    advantage: Tensor, log_prob: Tensor, behavior_log_prob: Tensor | None = None
) -> Tensor:
    r"""GBPO, :math:`(\pi/\pi') A`, with the gradient-bounding denominator.

    :math:`\pi' = \max\{\pi_{old}, \mathrm{sg}\,\pi\}` for A >= 0 and
    :math:`\max\{\pi_{old}, 1 - \mathrm{sg}\,\pi\}` for A < 0.

    Source: OneRec-V2 (arXiv 2508.20900), eq. 15 and 16.

    Args:
        advantage: A, any shape.
        log_prob: log pi(a|s) under the current policy; the gradient flows into it.
        behavior_log_prob: log pi_old(a|s), logged; ``None``: the current policy.

    Returns:
        The surrogate of each sample, float32 or better, to be maximised.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> log_prob = torch.tensor([0.2, 0.2]).log()
    >>> gbpo_surrogate(torch.tensor([1.0, -1.0]), log_prob)
    tensor([ 1.0000, -0.2500])
    """
    check_same_shape(advantage=advantage, log_prob=log_prob, behavior_log_prob=behavior_log_prob)
    advantage = at_least_float32(advantage.detach())
    log_prob = at_least_float32(log_prob)
    return advantage * (log_prob - _bounded_old(advantage, log_prob, behavior_log_prob)).exp()


def _log_clip_range(clip_epsilon: float | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 + epsilon) and log(1 - epsilon) as 0-d tensors, made on the device."""
    if not isinstance(clip_epsilon, Tensor):
        check_open_fraction("clip_epsilon", clip_epsilon)
        return like.new_full((), math.log1p(clip_epsilon)), like.new_full(
            (), math.log1p(-clip_epsilon)
        )
    epsilon = clip_epsilon.detach().to(like)
    return epsilon.log1p(), (-epsilon).log1p()


def _bounded_old(advantage: Tensor, log_prob: Tensor, behavior_log_prob: Tensor | None) -> Tensor:
    """GBPO's log pi', detached."""
    current = log_prob.detach()
    old = current if behavior_log_prob is None else behavior_log_prob.detach().to(current)
    # log(1 - pi); -inf where pi >= 1. Two forms, each exact on its side of pi = 1/2.
    complement = torch.where(
        current > -math.log(2.0),
        torch.log(-torch.expm1(current.clamp_max(0.0))),
        torch.log1p(-torch.exp(current)),
    )
    return torch.maximum(old, torch.where(advantage < 0, complement, current))
