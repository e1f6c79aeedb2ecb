"""Remoteness D: how far a logged action lies from the current policy.

Quality says whether an action was good, remoteness whether the policy still stands near it. A
taper (:mod:`torchrl_drpo.functional.tapers`) turns D into the weight of a repulsive sample. D is a
constant of the step, so every function here returns a detached tensor; and D is measured under the
*current* policy, so it is computed anew at each step.
"""

from __future__ import annotations

from torch import Tensor

from torchrl_drpo.functional.checks import check_same_shape
from torchrl_drpo.functional.precision import at_least_float32


def gaussian_remoteness(
    action: Tensor, loc: Tensor, scale: Tensor, *, per_dimension: bool = False
) -> Tensor:
    r"""Squared Mahalanobis distance, :math:`D = (a-\mu)^\top \Sigma^{-1} (a-\mu)`.

    Diagonal covariance. There is no factor 1/2 and no normalising constant: under the policy
    itself D follows a chi-square law with d degrees of freedom, so its mean is d, and 1 with
    ``per_dimension``.

    Args:
        action: logged actions, shape ``[*B, d]``.
        loc: means of the policy, shape ``[*B, d]``.
        scale: standard deviations (not variances), broadcastable to ``[*B, d]``.
        per_dimension: divide D by d, which makes a threshold comparable across widths.

    Returns:
        D, in [0, inf), float32 or better, detached, shape ``[*B]``.

    Raises:
        ValueError: if ``action`` and ``loc`` differ in shape.

    >>> import torch
    >>> action, loc = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    >>> gaussian_remoteness(action, loc, torch.tensor([1.0, 2.0]))
    tensor([13.])
    >>> gaussian_remoteness(action, loc, torch.tensor([1.0, 2.0]), per_dimension=True)
    tensor([6.5000])
    """
    check_same_shape(action=action, loc=loc)
    action, loc, scale = (at_least_float32(t.detach()) for t in (action, loc, scale))
    squared = ((action - loc) / scale).square()
    return squared.mean(-1) if per_dimension else squared.sum(-1)


def categorical_remoteness(log_prob: Tensor) -> Tensor:
    r"""Surprisal of the logged action, :math:`D = -\log\pi(a \mid s)`, in nats.

    Args:
        log_prob: log-probability of each logged action, at most 0, shape ``[*B]``.

    Returns:
        D, in [0, inf], float32 or better, detached, shape ``[*B]``.

    >>> import torch
    >>> categorical_remoteness(torch.tensor([0.5, 0.125]).log())
    tensor([0.6931, 2.0794])
    """
    return -at_least_float32(log_prob.detach())


def sequence_remoteness(token_log_prob: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Mean surprisal of an action's tokens: one D, hence one weight, for the whole action.

    The mean, not the sum: a long action is not remote for being long. The end token, if the
    policy emits one, is a token like any other and belongs to the mean; padding does not.

    Args:
        token_log_prob: log-probability of each token given those before it, shape ``[*B, T]``.
        mask: ``True`` where there is a token, shape ``[*B, T]``; absent, all are tokens. Masked
            entries may hold anything, NaN included.

    Returns:
        D in nats per token, in [0, inf], detached, shape ``[*B]``; 0 where no token is valid.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> token_log_prob = torch.tensor([[-1.0, -3.0, 0.0]])
    >>> sequence_remoteness(token_log_prob, torch.tensor([[True, True, False]]))
    tensor([2.])
    """
    surprisal = categorical_remoteness(token_log_prob)
    if mask is None:
        return surprisal.mean(-1)
    check_same_shape(token_log_prob=token_log_prob, mask=mask)
    total = surprisal.masked_fill(~mask, 0.0).sum(-1)
    return total / mask.sum(-1).clamp_min(1)
