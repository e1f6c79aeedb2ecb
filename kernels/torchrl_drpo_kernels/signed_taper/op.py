"""Registration of ``drpo::signed_taper``, its gradient, and the public function."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo_kernels._common import (
    HAS_TRITON,
    check_choice,
    check_shape,
    check_tensor,
    uses_triton,
)
from torchrl_drpo_kernels._common_rows import FLOATS
from torchrl_drpo_kernels.signed_taper import reference
from torchrl_drpo_kernels.signed_taper.reference import TAPERS, Taper

if HAS_TRITON:
    from torchrl_drpo_kernels.signed_taper import kernel


def signed_taper(
    log_prob: Tensor,
    advantage: Tensor,
    remoteness: Tensor,
    *,
    strength: float = 1.0,
    threshold: float | Tensor = 0.0,
    scale: float = 1.0,
    taper: str = "exponential",
    order: float = 2.0,
    negative_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    r"""Signed loss of each row with tapered repulsion, and its slope, in one pass.

    .. math:: \ell_i = -(A_i^+ - \alpha\, w(D_i)\, A_i^-) \log\pi(a_i|s_i), \qquad
              x = \big[(D - \text{threshold}) / \text{scale}\big]_+

    with w = exp(-strength x), 1 / (1 + strength x^(order/2)) or 1[D <= threshold]. Advantage,
    remoteness and taper are constants of the step: the gradient with respect to ``log_prob`` is
    the returned slope, and there is no other. A row whose weight is 0 has loss 0, even at
    log-prob -inf. Nothing is averaged: reduce the result as the objective wants.

    Args:
        log_prob: log-probability of the logged action in nats, ``[N]``.
        advantage: A, ``[N]``; its sign decides between attraction and repulsion.
        remoteness: D, ``[N]``: Mahalanobis square, or surprisal in nats.
        strength: lambda, at least 0; at 0 nothing is tapered, wherever D lies.
        threshold: D up to which w is 1: a number, or ``[N]``, one a row. The behaviour policy's
            surprisal, with strength and scale 1, makes the exponential taper TOPR's weight.
        scale: c, in units of D, above 0.
        taper: ``"exponential"``, ``"reciprocal"`` or ``"cutoff"``.
        order: of the reciprocal taper in the distance, above 0: D is a squared distance, so 1
            falls as 1/distance and 2 as 1/distance squared.
        negative_scale: alpha, at least 0, a factor on all repulsion.

    Returns:
        ``loss`` and ``slope`` = d loss / d log_prob, ``[N]`` each: float32, or float64 where
        ``log_prob`` is.

    Raises:
        TypeError: if a dtype is wrong.
        ValueError: if a rank, shape, device, stride or number is wrong.

    Source: "Dynamic Remoteness-Aware Policy Optimization" (2026), the rewrite of arXiv
    2602.10430; TOPR: arXiv 2503.14286.

    Example:
        >>> import torch
        >>> from torchrl_drpo_kernels import signed_taper
        >>> log_prob, advantage = torch.full((3,), -2.0), torch.tensor([1.0, -1.0, -1.0])
        >>> signed_taper(log_prob, advantage, torch.tensor([9.0, 0.0, 1.0]))
        (tensor([ 2.0000, -2.0000, -0.7358]), tensor([-1.0000,  1.0000,  0.3679]))
    """
    thresholds = threshold.detach() if isinstance(threshold, Tensor) else None
    common = 0.0 if isinstance(threshold, Tensor) else threshold
    numbers = Taper(taper, strength, common, scale, order, negative_scale)
    check(log_prob, advantage, remoteness, thresholds, numbers)
    loss, slope = _signed_taper(
        log_prob, advantage.detach(), remoteness.detach(), thresholds, *numbers
    )
    return loss, slope


def check(
    log_prob: Tensor,
    advantage: Tensor,
    remoteness: Tensor,
    thresholds: Tensor | None,
    taper: Taper,
) -> None:
    """Raises on arguments that do not fit; no tensor's value is looked at."""
    check_tensor("log_prob", log_prob, dtypes=FLOATS, ndim=1)
    rows = {"advantage": advantage, "remoteness": remoteness}
    if thresholds is not None:
        rows["threshold"] = thresholds
    for name, tensor in rows.items():
        check_tensor(name, tensor, dtypes=FLOATS, ndim=1, like=log_prob)
        check_shape(name, tensor, tuple(log_prob.shape), "that of log_prob")
    check_choice("taper", taper.kind, TAPERS)
    for name in ("strength", "scale", "order", "negative_scale"):
        value, above = getattr(taper, name), name in ("scale", "order")
        if not (math.isfinite(value) and (value > 0 if above else value >= 0)):
            bound = "above 0" if above else "of at least 0"
            raise ValueError(f"{name} must be a finite number {bound}, got {value}")
    if math.isnan(taper.threshold):
        raise ValueError("threshold must be a number or a tensor of one a row, got nan")


@torch.library.custom_op("drpo::signed_taper", mutates_args=())
def _signed_taper(
    log_prob: Tensor,
    advantage: Tensor,
    remoteness: Tensor,
    thresholds: Tensor | None,
    taper: str,
    strength: float,
    threshold: float,
    scale: float,
    order: float,
    negative_scale: float,
) -> tuple[Tensor, Tensor]:
    """Returns (loss, slope), ``[N]`` each."""
    numbers = Taper(taper, strength, threshold, scale, order, negative_scale)
    # The kernel works in float32, so float64 takes the reference on every device.
    in_triton = uses_triton(log_prob) and log_prob.dtype != torch.float64
    run = kernel.signed_taper if in_triton else reference.signed_taper
    return run(log_prob, advantage, remoteness, thresholds, numbers)


@_signed_taper.register_fake
def _(log_prob: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(log_prob.dtype, torch.float32)
    loss = log_prob.new_empty(log_prob.shape, dtype=dtype)
    return loss, torch.empty_like(loss)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])
    ctx.dtype = inputs[0].dtype


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    (slope,) = ctx.saved_tensors
    # Linear in log_prob: this product is all there is, for second derivatives too. A row of
    # slope 0 gets gradient 0 even where the incoming one is not finite.
    return torch.where(slope == 0, 0.0, grad * slope).to(ctx.dtype), *([None] * 9)


_signed_taper.register_autograd(_differentiate, setup_context=_save)
