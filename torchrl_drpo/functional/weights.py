r"""Rules for the weights w in the one loss of the family, :math:`-\sum_i w_i \log\pi(a_i|s_i)`.

Each function turns the quality signal (or an advantage) of a batch into one weight a sample.
Negative weights repel. All results are constants of the step (detached), in float32 or better, of
the shape of their input, and zero where ``mask`` is ``False``; masked entries may hold anything,
NaN included. None is divided by its own sum unless its formula says so.

The exact solutions of the optimistic DRO problem, with and without a KL penalty, are in
:mod:`torchrl_drpo.functional.dro_programs`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_positive, check_same_shape
from torchrl_drpo.functional.masks import filled
from torchrl_drpo.functional.precision import at_least_float32
from torchrl_drpo.functional.reductions import centred


def exponential_weights(
    advantage: Tensor,
    *,
    temperature: float,
    max_weight: float | None = None,
    normalize: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Advantage-weighted regression, :math:`w = \exp(A/\beta)`.

    ``normalize`` makes it the self-normalised form, the softmax times the number of valid rows: it
    averages to one, does not overflow and does not change when a constant is added to all
    advantages. The cap is taken in the exponent and last, so a large advantage never becomes
    infinite.

    Source: Peng et al. 2019, "Advantage-Weighted Regression" (arXiv 1910.00177), eq. 10.

    Args:
        advantage: A (or a quality), any shape; all entries together are the batch.
        temperature: beta, in units of A, above 0; large: equal weights, small: the best sample
            alone.
        max_weight: upper bound of a weight, above 0; ``None`` for none.
        normalize: scale the weights to mean 1 over the valid rows, before the cap.
        mask: ``True`` where a row counts.

    Returns:
        w, at least 0, of the shape of ``advantage``.

    Raises:
        ValueError: if ``temperature`` or ``max_weight`` is out of range, or shapes differ.

    >>> import torch
    >>> advantage = torch.tensor([0.0, 1.0, 9.0])
    >>> exponential_weights(advantage, temperature=1.0, max_weight=20.0)
    tensor([ 1.0000,  2.7183, 20.0000])
    >>> exponential_weights(advantage, temperature=4.0, normalize=True)
    tensor([0.2548, 0.3272, 2.4179])
    """
    check_same_shape(advantage=advantage, mask=mask)
    check_positive("temperature", temperature)
    if max_weight is not None:
        check_positive("max_weight", max_weight)
    exponent = at_least_float32(advantage.detach()) / temperature
    if normalize:
        flat = filled(exponent, mask, -math.inf).flatten()
        count = flat.numel() if mask is None else mask.sum()
        # log of the softmax times the count; with no valid row it is NaN, masked below.
        exponent = exponent - flat.logsumexp(0) + torch.as_tensor(count, dtype=flat.dtype).log()
    if max_weight is not None:
        exponent = exponent.clamp_max(math.log(max_weight))
    return filled(exponent.exp(), mask, 0.0)


def crr_weights(
    advantage: Tensor,
    *,
    mode: Literal["binary", "exponential"] = "binary",
    temperature: float = 1.0,
    max_weight: float = 20.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Critic-regularised regression: :math:`1[A > 0]`, or :math:`\exp(A/\beta)` up to a cap.

    Source: Wang et al. 2020, "Critic Regularized Regression" (arXiv 2006.15134), eq. 3 and 4.

    Args:
        advantage: A, the critic's value of the logged action over that of the policy's own.
        mode: ``"binary"`` or ``"exponential"``.
        temperature: beta of the exponential form, above 0.
        max_weight: cap of the exponential form, above 0.
        mask: ``True`` where a row counts.

    Returns:
        w, in {0, 1} or [0, max_weight], of the shape of ``advantage``.

    Raises:
        ValueError: for an unknown ``mode``, numbers out of range, or shapes that differ.

    >>> import torch
    >>> crr_weights(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 1.])
    >>> crr_weights(torch.tensor([-1.0, 0.0, 2.0]), mode="exponential")
    tensor([0.3679, 1.0000, 7.3891])
    """
    if mode == "exponential":
        return exponential_weights(
            advantage, temperature=temperature, max_weight=max_weight, mask=mask
        )
    if mode != "binary":
        raise ValueError(f"mode must be 'binary' or 'exponential', got {mode!r}")
    check_same_shape(advantage=advantage, mask=mask)
    better = advantage.detach() > 0
    return filled(better.to(at_least_float32(advantage.detach()).dtype), mask, 0.0)


def asymmetric_weights(
    quality: Tensor,
    *,
    shift: float = 0.0,
    negative_weight: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""AsymRE: :math:`w = A_+ - \alpha A_-` with :math:`A = R - (\bar R + \text{shift})`.

    The baseline sits at the batch mean plus ``shift``. AsymRE takes a negative shift, so that
    attraction outweighs repulsion; arXiv 2602.10430 compares against a variant with the baseline
    at the mean and a fixed ``negative_weight`` of 0.1. Invariant to a constant added to all R.

    Source: arXiv 2506.20520 (the shift), arXiv 2602.10430, appendix (the weight).

    Args:
        quality: R, any shape; all entries together are the batch.
        shift: offset of the baseline from the mean, in units of R; AsymRE: below 0.
        negative_weight: alpha, at least 0; 0 is the positive-only objective.
        mask: ``True`` where a row counts.

    Returns:
        The signed w, of the shape of ``quality``.

    Raises:
        ValueError: if ``shift`` is not finite, ``negative_weight`` negative, or shapes differ.

    >>> import torch
    >>> asymmetric_weights(torch.tensor([0.0, 1.0, 2.0]), negative_weight=0.1)
    tensor([-0.1000,  0.0000,  1.0000])
    >>> asymmetric_weights(torch.tensor([0.0, 1.0, 2.0]), shift=-0.5)
    tensor([-0.5000,  0.5000,  1.5000])
    """
    check_same_shape(quality=quality, mask=mask)
    if not -math.inf < shift < math.inf:
        raise ValueError(f"shift must be a finite number, got {shift}")
    advantage = centred(quality.detach(), mask) - shift
    return filled(signed_weights(advantage, negative_scale=negative_weight), mask, 0.0)


def signed_weights(
    advantage: Tensor, taper: Tensor | float = 1.0, *, negative_scale: float = 1.0
) -> Tensor:
    r"""The signed family, :math:`A_+ - \alpha\, w(D)\, A_-`: attraction, tapered repulsion.

    ``taper`` 1 is the plain signed loss (APG), ``negative_scale`` 0 the positive-only one.

    Args:
        advantage: A, any shape.
        taper: w(D) in [0, 1], of the same shape, from :mod:`torchrl_drpo.functional.tapers`; it
            acts on negative advantages only.
        negative_scale: alpha, at least 0: one global factor on all repulsion.

    Returns:
        The signed weights, detached, of the shape of ``advantage``.

    Raises:
        ValueError: if ``negative_scale`` is negative or not finite, or shapes differ.

    >>> import torch
    >>> signed_weights(torch.tensor([2.0, -2.0, -2.0]), torch.tensor([0.1, 1.0, 0.1]))
    tensor([ 2.0000, -2.0000, -0.2000])
    """
    if not 0 <= negative_scale < math.inf:
        raise ValueError(
            f"the weight of negatives must be a finite number of at least 0, got {negative_scale}"
        )
    advantage = at_least_float32(advantage.detach())
    if isinstance(taper, Tensor):
        check_same_shape(advantage=advantage, taper=taper)
        taper = taper.detach()
    return torch.where(advantage < 0, negative_scale * taper * advantage, advantage)


def topr_weights(
    advantage: Tensor,
    log_prob: Tensor,
    behavior_log_prob: Tensor,
    *,
    beta: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    r"""TOPR: :math:`A_+ - \min\{(\pi/\mu)^\beta, 1\}\, A_-`, mu the logged propensity.

    Positives are cloned without importance correction; negatives lose their force as the policy
    leaves them. With beta 1 it is the exponential taper on the surprisal -log pi with threshold
    -log mu and strength and scale 1.

    Source: Le Roux et al. 2025, "Tapered Off-Policy REINFORCE" (arXiv 2503.14286); beta as in the
    truncated ratio's tempered form, where 0 is the plain signed loss.

    Args:
        advantage: A, any shape.
        log_prob: log pi(a|s) under the current policy, of the same shape.
        behavior_log_prob: log mu(a|s), logged or fitted, of the same shape.
        beta: exponent of the ratio, at least 0; 1 is the canonical form.
        mask: ``True`` where a row counts.

    Returns:
        The signed weights, detached, of the shape of ``advantage``.

    Raises:
        ValueError: if ``beta`` is negative or not finite, or shapes differ.

    >>> import torch
    >>> advantage = torch.tensor([1.0, -1.0, -1.0])
    >>> log_prob = torch.tensor([0.1, 0.1, 0.8]).log()
    >>> topr_weights(advantage, log_prob, torch.tensor([0.4, 0.4, 0.4]).log())
    tensor([ 1.0000, -0.2500, -1.0000])
    """
    check_same_shape(
        advantage=advantage, log_prob=log_prob, behavior_log_prob=behavior_log_prob, mask=mask
    )
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be a finite number of at least 0, got {beta}")
    log_ratio = at_least_float32(log_prob.detach()) - behavior_log_prob.detach()
    ratio = torch.exp(beta * log_ratio.clamp_max(0.0)) if beta > 0 else torch.ones_like(log_ratio)
    return filled(signed_weights(advantage, ratio), mask, 0.0)
