"""The tapered signed loss in Triton: one elementwise pass; reference.py is the specification.

float32 whatever the inputs are; row offsets are int64.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrl_drpo_kernels._common import COMPILE, launches
from torchrl_drpo_kernels.signed_taper.reference import TAPERS, Taper

TILE = 1024


@launches
def signed_taper(
    log_prob: Tensor,
    advantage: Tensor,
    remoteness: Tensor,
    thresholds: Tensor | None,
    taper: Taper,
) -> tuple[Tensor, Tensor]:
    """Launches the kernel; arguments and results are those of the reference."""
    n = log_prob.shape[0]
    loss = log_prob.new_empty(n, dtype=torch.float32)
    slope = torch.empty_like(loss)
    if n:
        signed_taper_kernel[(triton.cdiv(n, TILE),)](
            log_prob, advantage, remoteness, thresholds, loss, slope, n,
            taper.strength, taper.threshold, taper.scale, taper.order / 2, taper.negative_scale,
            KIND=TAPERS.index(taper.kind), PER_ROW=thresholds is not None,
            TAPERED=taper.strength > 0, TILE=TILE, **COMPILE,
        )  # fmt: skip
    return loss, slope


@triton.jit
def signed_taper_kernel(
    log_prob_ptr, advantage_ptr, remoteness_ptr, thresholds_ptr, loss_ptr, slope_ptr, n,
    strength, threshold, scale, power, negative_scale,
    KIND: tl.constexpr, PER_ROW: tl.constexpr, TAPERED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Loss and slope of TILE rows."""
    rows = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = rows < n
    log_prob = tl.load(log_prob_ptr + rows, mask=inside, other=0.0).to(tl.float32)
    advantage = tl.load(advantage_ptr + rows, mask=inside, other=0.0).to(tl.float32)
    distance = tl.load(remoteness_ptr + rows, mask=inside, other=0.0).to(tl.float32)
    near = tl.full((TILE,), 0.0, tl.float32) + threshold
    if PER_ROW:
        near = tl.load(thresholds_ptr + rows, mask=inside, other=0.0).to(tl.float32)

    factor = tl.full((TILE,), 1.0, tl.float32)
    if KIND == 2:  # cutoff; a broken distance does not pass for a distant one
        factor = tl.where(distance <= near, 1.0, tl.where(distance == distance, 0.0, distance))
    elif TAPERED:
        excess = (distance - near) / scale
        excess = tl.where(excess < 0.0, 0.0, excess)  # keeps NaN
        if KIND == 0:  # exponential
            factor = tl.exp(-strength * excess)
        else:  # reciprocal; x^p is 2^(p log2 x) for x > 0, and x itself where x is 0 or NaN
            far = excess > 0.0
            raised = tl.exp2(power * tl.log2(tl.where(far, excess, 1.0)))
            factor = 1.0 / (1.0 + strength * tl.where(far, raised, excess))
    weight = tl.where(advantage < 0.0, advantage * (factor * negative_scale), advantage)
    log_prob = tl.where(weight == 0.0, 0.0, log_prob)  # 0 times -inf would be NaN
    tl.store(loss_ptr + rows, -weight * log_prob, mask=inside)
    tl.store(slope_ptr + rows, -weight, mask=inside)
