r"""Rules for the weights w in the one loss of the family, :math:`-\sum_i w_i \log\pi(a_i|s_i)`.

Each function turns the quality signal (or an advantage) of a batch into one weight a sample.
Negative weights repel. All results are constants of the step (detached), in float32 or better, of
the shape of their input, and zero where ``mask`` is ``False``; masked entries may hold anything,
NaN included. None is divided by its own sum unless its formula says so.

The exact solution of the optimistic DRO problem, w in {0, 1/kappa}, is in
:mod:`torchrl_drpo.functional.selection`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_fraction, check_positive, check_same_shape
from torchrl_drpo.functional.precision import at_least_float32


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
        ValueError: if ``kappa`` (a number) or ``temperature`` is out of range, or shapes differ.

    >>> import torch
    >>> kl_dro_weights(torch.tensor([3.0, 0.0, 1.0, 0.0]), kappa=0.5, temperature=1.0)
    tensor([2.0000, 0.4239, 1.1522, 0.4239])
    """
    check_same_shape(quality=quality, mask=mask)
    check_positive("temperature", temperature)
    if not isinstance(kappa, Tensor):
        check_fraction("kappa", kappa)
    if quality.numel() == 0:
        return at_least_float32(quality.detach())

    # float64 where there is any: lambda is a difference of large numbers when tau is small.
    double = torch.float32 if quality.device.type == "mps" else torch.float64
    scores = quality.detach().flatten().to(double) / temperature
    valid = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.flatten()
    scores = torch.where(valid, scores, -math.inf)
    cap = 1.0 / torch.as_tensor(kappa, dtype=double, device=scores.device).detach().reshape(())

    ranked = scores.sort(descending=True).values
    capped = torch.arange(ranked.numel(), device=scores.device, dtype=double)
    left = (valid.sum() - capped * cap).clamp_min(0.0)  # mass for the rows after the m capped ones
    log_rest = ranked.flip(0).logcumsumexp(0).flip(0)
    next_weight = left.log() + ranked - log_rest  # of the largest row that is not capped, in logs
    # One-element tensors and gather: indexing by a 0-d tensor would wait for the device.
    m = (next_weight <= cap.log()).to(torch.uint8).argmax(0, keepdim=True)
    next_score = ranked.gather(0, m)

    weight = torch.exp(scores - log_rest.gather(0, m) + left.gather(0, m).log()).clamp_max(cap)
    weight = torch.where(scores > next_score, cap, weight)  # exact where nothing is left below
    weight = torch.where(valid, weight, 0.0)
    return weight.to(torch.promote_types(quality.dtype, torch.float32)).reshape(quality.shape)
