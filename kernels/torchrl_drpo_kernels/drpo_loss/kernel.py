"""The loss of the kept rows and its slope in Triton, one launch; step.py is the specification.

In ATen they are a dozen launches of two microseconds each, as long as a tenth of a whole step over
a quarter of a million items.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrl_drpo_kernels._common import COMPILE, launches
from torchrl_drpo_kernels.select.rule import Count

#: Places that the program takes at a time.
BLOCK = 1024


@launches
def loss_and_slope(log_prob: Tensor, weight: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Launches the kernel; arguments and results are those of step.py, float32."""
    loss, slope = log_prob.new_empty(()), torch.empty_like(log_prob)
    loss_kernel[(1,)](
        log_prob, weight, counts, loss, slope, log_prob.shape[0],
        QUOTA=int(Count.QUOTA), BLOCK=BLOCK, num_warps=8, **COMPILE,
    )  # fmt: skip
    return loss, slope


@triton.jit
def loss_kernel(
    log_prob_ptr, weight_ptr, counts_ptr, loss_ptr, slope_ptr, places,
    QUOTA: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program, which adds the places of a block in lanes of their own: a fixed order."""
    quota = tl.maximum(tl.load(counts_ptr + QUOTA), 1).to(tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, places, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < places
        weight = tl.load(weight_ptr + place, inside, other=0.0)
        log_prob = tl.load(log_prob_ptr + place, inside, other=0.0)  # does not wait for the weight
        total += weight * tl.where(weight != 0.0, log_prob, 0.0)
        tl.store(slope_ptr + place, -weight / quota, inside)
    tl.store(loss_ptr, -tl.sum(total, 0) / quota)
