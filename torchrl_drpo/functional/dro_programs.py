r"""The optimistic DRO problem, solved exactly: without a penalty, and with one on the divergence.

.. math:: \max_{Q} E_Q[R] \quad\text{subject to}\quad 0 \le dQ/dP \le 1/\kappa

over a log P with quality signal R is a linear program. Its solution puts the largest allowed
density, :math:`1/\kappa`, on the best :math:`\kappa` of the mass, fractional mass included. The
training step keeps a whole number of rows instead: :mod:`torchrl_drpo.functional.selection`.

Nothing here reads a value back to the host: kappa may be a tensor on the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_fraction, check_positive, check_same_shape
from torchrl_drpo.functional.masks import filled, valid_or_lowest
from torchrl_drpo.functional.precision import at_least_float32
from torchrl_drpo.functional.selection import kth_largest


def optimistic_dro_weights(
    quality: Tensor, kappa: Tensor | float, mask: Tensor | None = None
) -> Tensor:
    r"""Exact density ratio :math:`w = dQ^*/dP` of the optimistic DRO problem.

    ``w`` is :math:`1/\kappa` above the threshold, 0 below it, and at the threshold the rest of the
    mass is shared equally: rows of equal quality get equal weight. ``kappa = 1`` gives ones
    (behaviour cloning).

    Source: arXiv 2602.10430, sec. 4.1 (the hard filter), with the atom at the threshold treated
    exactly.

    Args:
        quality: quality signal R, any shape, finite where ``mask`` is true.
        kappa: fraction of the log's mass to keep, in (0, 1].
        mask: ``True`` where a row exists; the others get weight 0 and do not count.

    Returns:
        Weights of the quality's shape, float32 or the quality's wider type, in [0, 1/kappa], with
        mean 1 over the valid rows.

    Raises:
        ValueError: if ``kappa`` lies outside (0, 1] or the shapes differ.

    Examples:
        >>> optimistic_dro_weights(torch.tensor([0.0, 1.0, 0.0, 3.0]), 0.5)
        tensor([0., 2., 0., 2.])
        >>> optimistic_dro_weights(torch.tensor([0.0, 1.0, 1.0, 3.0]), 0.5)  # a tie shares
        tensor([0., 1., 1., 2.])
    """
    values, mass, ratio = _exact_mass(quality, kappa, mask)
    threshold = kth_largest(values, torch.ceil(mass))
    above = values > threshold
    tied = values == threshold
    if mask is not None:
        tied &= mask.reshape(-1)
    # What is left for the rows at the threshold, shared among them.
    share = (mass - above.sum()) / tied.sum().clamp_min(1)
    weight = (above + tied * share) / ratio
    return weight.to(values.dtype).reshape(quality.shape)


def top_fraction_threshold(
    quality: Tensor, kappa: Tensor | float, mask: Tensor | None = None
) -> Tensor:
    r""":math:`\nu^*`, the :math:`(1-\kappa)`-quantile: the best ``kappa`` of the mass start here.

    The largest minimiser of the dual :math:`\nu + E[(R-\nu)_+]/\kappa` that is a logged quality.

    Args:
        quality: quality signal, any shape.
        kappa: fraction in (0, 1].
        mask: ``True`` where a row exists.

    Returns:
        0-d tensor of the quality's type (float32 at least); ``-inf`` when nothing is valid.

    Raises:
        ValueError: if ``kappa`` lies outside (0, 1] or the shapes differ.

    Examples:
        >>> top_fraction_threshold(torch.tensor([0.1, 0.9, 0.4, 0.7]), 0.5)
        tensor(0.7000)
    """
    values, mass, _ = _exact_mass(quality, kappa, mask)
    return kth_largest(values, torch.ceil(mass)).squeeze(-1)


def optimistic_value(
    quality: Tensor,
    kappa: Tensor | float,
    threshold: Tensor | float,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Dual objective :math:`\nu + E[(R-\nu)_+]/\kappa` (optimistic CVaR) at a threshold.

    Its minimum over the threshold equals the primal value :math:`E[w R]` with
    :func:`optimistic_dro_weights`, and is reached at :func:`top_fraction_threshold`.

    Args:
        quality: quality signal, any shape.
        kappa: fraction in (0, 1].
        threshold: nu.
        mask: ``True`` where a row exists.

    Returns:
        0-d tensor in float64.

    Raises:
        ValueError: if ``kappa`` lies outside (0, 1].

    Examples:
        >>> quality = torch.tensor([0.0, 1.0, 0.0, 3.0])
        >>> optimistic_value(quality, 0.5, top_fraction_threshold(quality, 0.5)).item()
        2.0
    """
    check_fraction("kappa", kappa)
    excess = (quality.double() - threshold).clamp_min(0.0)
    if mask is None:
        return threshold + excess.mean() / kappa
    return threshold + excess[mask].mean() / kappa


def kl_dro_weights(
    quality: Tensor, kappa: float | Tensor, temperature: float, mask: Tensor | None = None
) -> Tensor:
    r"""Exact solution of the optimistic DRO problem with a KL penalty.

    .. math::
        \max_Q E_Q[R] - \tau\, KL(Q \| P) \quad\text{s.t.}\quad 0 \le dQ/dP \le 1/\kappa
        \qquad\Longrightarrow\qquad
        w = \min\{1/\kappa, \exp((R - \lambda)/\tau)\},

    lambda set by mean w = 1 over the valid rows. The best samples are capped; none is cut off.
    ``temperature -> inf`` gives ones, ``temperature -> 0`` the hard top-kappa filter, and kappa
    below 1/N the plain softmax. Found by sorting and water-filling, not by iterating: m rows are
    capped for the smallest m at which the next row, sharing what is left by softmax, stays below
    the cap. Waits for no device.

    Source: arXiv 2602.10430, the problem of section 4 with its KL term; the exponential rule that
    the paper derives from it is not its solution (it cuts off below and has no cap).

    Args:
        quality: R, finite, any shape; all entries together are the batch.
        kappa: in (0, 1]; a number or a one-element tensor.
        temperature: tau, in units of R, above 0.
        mask: ``True`` where a row counts.

    Returns:
        w in [0, 1/kappa], mean 1 over the valid rows.

    Raises:
        ValueError: if ``kappa`` (as far as it may be read) or ``temperature`` is out of range, or
            the shapes differ.

    >>> import torch
    >>> kl_dro_weights(torch.tensor([3.0, 0.0, 1.0, 0.0]), kappa=0.5, temperature=1.0)
    tensor([2.0000, 0.4239, 1.1522, 0.4239])
    """
    check_same_shape(quality=quality, mask=mask)
    check_positive("temperature", temperature)
    check_fraction("kappa", kappa)
    if quality.numel() == 0:
        return at_least_float32(quality.detach())

    # float64 where there is any: lambda is a difference of large numbers when tau is small.
    double = torch.float32 if quality.device.type == "mps" else torch.float64
    scores = quality.detach().flatten().to(double) / temperature
    valid = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.flatten()
    cap = 1.0 / torch.as_tensor(kappa, dtype=double, device=scores.device).detach().reshape(())
    weight = filled(_water_filled(filled(scores, valid, -math.inf), valid, cap), valid, 0.0)
    return weight.to(torch.promote_types(quality.dtype, torch.float32)).reshape(quality.shape)


def _water_filled(scores: Tensor, valid: Tensor, cap: Tensor) -> Tensor:
    """``min(cap, exp(score - lambda))`` with mean 1 over the valid rows, all in one sort."""
    ranked = scores.sort(descending=True).values
    capped = torch.arange(ranked.numel(), device=scores.device, dtype=scores.dtype)
    left = (valid.sum() - capped * cap).clamp_min(0.0)  # mass for the rows after the m capped ones
    log_rest = ranked.flip(0).logcumsumexp(0).flip(0)
    next_weight = left.log() + ranked - log_rest  # of the largest row that is not capped, in logs
    # One-element tensors and gather: indexing by a 0-d tensor would wait for the device.
    m = (next_weight <= cap.log()).to(torch.uint8).argmax(0, keepdim=True)
    next_score = ranked.gather(0, m)
    weight = torch.exp(scores - log_rest.gather(0, m) + left.gather(0, m).log()).clamp_max(cap)
    return torch.where(scores > next_score, cap, weight)  # exact where nothing is left below


def _exact_mass(
    quality: Tensor, kappa: Tensor | float, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Flat values, the mass kappa N to hand out (float64), and kappa in float64."""
    check_fraction("kappa", kappa)
    check_same_shape(quality=quality, mask=mask)
    flat_mask = None if mask is None else mask.reshape(-1)
    values = valid_or_lowest(quality, flat_mask)
    count = values.numel() if flat_mask is None else flat_mask.sum()
    ratio = torch.as_tensor(kappa, dtype=torch.float64, device=values.device)
    mass = ratio * count
    # 0.07 * 100 is 7.000000000000001: a mass this near a whole number is that number.
    whole = torch.round(mass)
    return values, torch.where((mass - whole).abs() <= 1e-9 * mass, whole, mass), ratio
