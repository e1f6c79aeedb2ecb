"""Log-probability of tokens from logits in Triton; reference.py is the specification.

Notation   N rows of T tokens, V items; M places; logits [N, T, V], action and mask [N, T].
Forward    One program a token: one pass over its V logits with a running maximum and sum, so
           the softmax never exists. The T terms of a row are added by one ATen sum.
Backward   One program a token and tile of V; rows that are not kept stay zero from allocation.
Work       Programs of dead places and masked tokens return before their first logit.
Precision  float32 whatever the logits are.
Offsets    int64: N T V may exceed 2^31.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrl_drpo_kernels._common import COMPILE, launches, next_power_of_2
from torchrl_drpo_kernels._common_rows import places
from torchrl_drpo_kernels._common_triton import live_places, rows_at

#: Most logits of a tile.
MAX_TILE = 4096


@launches
def forward(
    logits: Tensor,
    action: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Launches the forward kernel; arguments and results are those of the reference."""
    length, steps = places(index, logits), logits.shape[1]
    lse = logits.new_empty(length, steps, dtype=torch.float32)
    token_log_prob = torch.empty_like(lse)
    if lse.numel():
        tile = _tile(logits)
        forward_kernel[(length * steps,)](
            logits, action, mask, index, n_rows, token_log_prob, lse,
            length, steps, logits.shape[2], *_strides(logits, action, mask),
            HAS_MASK=mask is not None, HAS_INDEX=index is not None, HAS_COUNT=n_rows is not None,
            TILE=tile, num_warps=_warps(tile), **COMPILE,
        )  # fmt: skip
    return token_log_prob.sum(1), lse


@launches
def backward(
    grad: Tensor,
    logits: Tensor,
    lse: Tensor,
    action: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> Tensor:
    """Launches the backward kernel; arguments and results are those of the reference."""
    length, steps, size = places(index, logits), logits.shape[1], logits.shape[2]
    out = logits.new_zeros(logits.shape)
    if length * steps:
        tile = _tile(logits)
        backward_kernel[(length * steps, triton.cdiv(size, tile))](
            grad.contiguous(), logits, lse, action, mask, index, n_rows, out,
            length, steps, size, *_strides(logits, action, mask),
            HAS_MASK=mask is not None, HAS_INDEX=index is not None, HAS_COUNT=n_rows is not None,
            TILE=tile, num_warps=_warps(tile), **COMPILE,
        )  # fmt: skip
    return out


def _tile(logits: Tensor) -> int:
    return min(MAX_TILE, max(64, next_power_of_2(logits.shape[2])))


def _warps(tile: int) -> int:
    return 8 if tile > 1024 else 4


def _strides(logits: Tensor, action: Tensor, mask: Tensor | None) -> tuple[int, int, int, int]:
    """Row and token stride of the logits, row stride of action and mask; last dims are dense."""
    mask_stride = 0 if mask is None else mask.stride(0)
    return logits.stride(0), logits.stride(1), action.stride(0), mask_stride


@triton.jit
def _token(
    action_ptr, mask_ptr, index_ptr, n_rows_ptr, places, steps, action_stride, mask_stride,
    HAS_MASK: tl.constexpr, HAS_INDEX: tl.constexpr, HAS_COUNT: tl.constexpr,
):  # fmt: skip
    """Place, row and step of this program, its token's id, and whether it counts."""
    place = tl.program_id(0) // steps
    step = tl.program_id(0) % steps
    valid = place < live_places(n_rows_ptr, places, HAS_COUNT)
    row = rows_at(index_ptr, place, valid, HAS_INDEX)
    if HAS_MASK:
        valid = valid & tl.load(mask_ptr + row * mask_stride + step, mask=valid, other=0).to(
            tl.int1
        )
    token = tl.load(action_ptr + row * action_stride + step, mask=valid, other=0).to(tl.int64)
    return place, row, step, token, valid


@triton.jit
def forward_kernel(
    logits_ptr, action_ptr, mask_ptr, index_ptr, n_rows_ptr, log_prob_ptr, lse_ptr,
    places, steps, size, row_stride, step_stride, action_stride, mask_stride,
    HAS_MASK: tl.constexpr, HAS_INDEX: tl.constexpr, HAS_COUNT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Normaliser and log-probability of one token; 0 for one that does not count."""
    _, row, step, token, valid = _token(
        action_ptr, mask_ptr, index_ptr, n_rows_ptr, places, steps, action_stride, mask_stride,
        HAS_MASK, HAS_INDEX, HAS_COUNT,
    )  # fmt: skip
    lse = tl.zeros((), tl.float32)
    log_prob = tl.zeros((), tl.float32)
    if valid:
        source = logits_ptr + row * row_stride + step.to(tl.int64) * step_stride
        # Not -inf: where a lane has seen nothing else, -inf - -inf would be NaN.
        peak = tl.full((TILE,), -3.4028234663852886e38, tl.float32)
        total = tl.zeros((TILE,), tl.float32)
        for start in range(0, size, TILE):  # each lane keeps its own maximum and sum
            items = start + tl.arange(0, TILE)
            z = tl.load(source + items, mask=items < size, other=float("-inf")).to(tl.float32)
            # Of exp(peak - higher) and exp(z - higher) one is 1: an exponential a logit.
            other = tl.exp(-tl.abs(z - peak))
            rises = z > peak
            total = tl.where(rises, total * other + 1.0, total + other)  # a NaN goes on in it
            peak = tl.where(rises, z, peak)
        top = tl.max(peak, 0)
        lse = top + tl.log(tl.sum(total * tl.exp(peak - top), 0))
        known = (token >= 0) & (token < size)
        z = tl.load(source + token, mask=known, other=float("-inf")).to(tl.float32)
        log_prob = z - lse
    tl.store(lse_ptr + tl.program_id(0).to(tl.int64), lse)
    tl.store(log_prob_ptr + tl.program_id(0).to(tl.int64), log_prob)


@triton.jit
def backward_kernel(
    grad_ptr, logits_ptr, lse_ptr, action_ptr, mask_ptr, index_ptr, n_rows_ptr, out_ptr,
    places, steps, size, row_stride, step_stride, action_stride, mask_stride,
    HAS_MASK: tl.constexpr, HAS_INDEX: tl.constexpr, HAS_COUNT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The slope, grad (1[v = token] - exp(z - lse)), of one tile of one token."""
    place, row, step, token, valid = _token(
        action_ptr, mask_ptr, index_ptr, n_rows_ptr, places, steps, action_stride, mask_stride,
        HAS_MASK, HAS_INDEX, HAS_COUNT,
    )  # fmt: skip
    if valid:
        items = tl.program_id(1) * TILE + tl.arange(0, TILE)
        inside = items < size
        grad = tl.load(grad_ptr + place)
        lse = tl.load(lse_ptr + tl.program_id(0).to(tl.int64))
        source = logits_ptr + row * row_stride + step.to(tl.int64) * step_stride
        z = tl.load(source + items, mask=inside, other=float("-inf")).to(tl.float32)
        slope = grad * (tl.where(items == token, 1.0, 0.0) - tl.exp(z - lse))
        target = out_ptr + (row * steps + step) * size + items  # the gradient is contiguous
        tl.store(target, slope, mask=inside)
