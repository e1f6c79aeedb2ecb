"""Diagonal Gaussian log-density in Triton; reference.py is the specification.

Notation   N rows, d dimensions, M places; mean and action [N, d], log_std [d] or [N, d].
Work       Programs beyond the live places load nothing, so cost follows n_rows on the device.
Precision  float32 whatever the inputs are.
Backward   Gradients of shared log_std: each program sums its own tiles in order, then one sum
           over programs in a fixed order; no atomics, the same bits on every run.
Offsets    Rows are int64 before they are multiplied by a stride.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrl_drpo_kernels._common import COMPILE, launches, next_power_of_2
from torchrl_drpo_kernels._common_rows import places
from torchrl_drpo_kernels._common_triton import live_places, rows_at

#: Elements of a tile, its widest part of d, and the most programs that share a backward.
TILE, MAX_WIDTH, MAX_PROGRAMS = 2048, 256, 512


@launches
def forward(
    mean: Tensor, log_std: Tensor, action: Tensor, index: Tensor | None, n_rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Launches the forward kernel; arguments and results are those of the reference."""
    length, d = places(index, mean), mean.shape[1]
    log_prob = mean.new_empty(length, dtype=torch.float32)
    remoteness = torch.empty_like(log_prob)
    width, rows = tile_of(d)
    if length:
        forward_kernel[(triton.cdiv(length, rows),)](
            mean, log_std, action, index, n_rows, log_prob, remoteness, length, d,
            mean.stride(0), _row_stride(log_std), action.stride(0), math.log(2 * math.pi),
            HAS_INDEX=index is not None, HAS_COUNT=n_rows is not None, WIDTH=width, ROWS=rows,
            **COMPILE,
        )  # fmt: skip
    return log_prob, remoteness


@launches
def backward(
    grad: Tensor,
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Launches the backward kernel; arguments and results are those of the reference."""
    length, d = places(index, mean), mean.shape[1]
    shared = log_std.ndim == 1
    width, rows = tile_of(d)
    programs = max(1, min(MAX_PROGRAMS, triton.cdiv(length, rows)))
    grad_mean = mean.new_zeros(mean.shape)
    grad_log_std = (
        log_std.new_empty(programs, d, dtype=torch.float32)
        if shared
        else log_std.new_zeros(log_std.shape)
    )
    backward_kernel[(programs, triton.cdiv(d, width))](
        grad.contiguous(), mean, log_std, action, index, n_rows, grad_mean, grad_log_std,
        length, d, mean.stride(0), _row_stride(log_std), action.stride(0),
        HAS_INDEX=index is not None, HAS_COUNT=n_rows is not None, SHARED=shared,
        WIDTH=width, ROWS=rows, **COMPILE,
    )  # fmt: skip
    if shared:
        grad_log_std = grad_log_std.sum(0).to(log_std.dtype)
    return grad_mean, grad_log_std


def tile_of(d: int) -> tuple[int, int]:
    """Columns and rows of a tile for actions of ``d`` dimensions."""
    width = min(MAX_WIDTH, next_power_of_2(d))
    return width, TILE // width if width > 32 else 64


def _row_stride(log_std: Tensor) -> int:
    return log_std.stride(0) if log_std.ndim == 2 else 0  # 0: every row reads the same


@triton.jit
def _standardised(
    mean_ptr, log_std_ptr, action_ptr, rows, columns, inside,
    mean_stride, log_std_stride, action_stride,
):  # fmt: skip
    """Z and log_std of a tile, float32; 0 outside."""
    mean = tl.load(mean_ptr + rows[:, None] * mean_stride + columns, mask=inside, other=0.0)
    action = tl.load(action_ptr + rows[:, None] * action_stride + columns, mask=inside, other=0.0)
    source = log_std_ptr + rows[:, None] * log_std_stride + columns
    log_std = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    z = (action.to(tl.float32) - mean.to(tl.float32)) * tl.exp(-log_std)
    return z, log_std


@triton.jit
def forward_kernel(
    mean_ptr, log_std_ptr, action_ptr, index_ptr, n_rows_ptr, log_prob_ptr, remoteness_ptr,
    places, d, mean_stride, log_std_stride, action_stride, log_two_pi,
    HAS_INDEX: tl.constexpr, HAS_COUNT: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program per ROWS places, looping over d in WIDTH columns."""
    place = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    live = place < live_places(n_rows_ptr, places, HAS_COUNT)
    rows = rows_at(index_ptr, place, live, HAS_INDEX)
    remoteness = tl.zeros((ROWS,), tl.float32)
    log_volume = tl.zeros((ROWS,), tl.float32)
    for start in range(0, d, WIDTH):
        columns = start + tl.arange(0, WIDTH)[None, :]
        z, log_std = _standardised(
            mean_ptr, log_std_ptr, action_ptr, rows, columns, live[:, None] & (columns < d),
            mean_stride, log_std_stride, action_stride,
        )  # fmt: skip
        remoteness += tl.sum(z * z, 1)
        log_volume += tl.sum(log_std, 1)
    log_prob = -0.5 * (remoteness + d * log_two_pi) - log_volume
    inside = place < places
    tl.store(remoteness_ptr + place, remoteness, mask=inside)
    tl.store(log_prob_ptr + place, tl.where(live, log_prob, 0.0), mask=inside)


@triton.jit
def backward_kernel(
    grad_ptr, mean_ptr, log_std_ptr, action_ptr, index_ptr, n_rows_ptr,
    grad_mean_ptr, grad_log_std_ptr,
    places, d, mean_stride, log_std_stride, action_stride,
    HAS_INDEX: tl.constexpr, HAS_COUNT: tl.constexpr, SHARED: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program per WIDTH columns and every num_programs-th tile of ROWS places."""
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)[None, :]
    n_live = live_places(n_rows_ptr, places, HAS_COUNT)
    total = tl.zeros((1, WIDTH), tl.float32)
    for start in range(tl.program_id(0) * ROWS, n_live, tl.num_programs(0) * ROWS):
        place = start + tl.arange(0, ROWS)
        live = place < n_live
        rows = rows_at(index_ptr, place, live, HAS_INDEX)
        inside = live[:, None] & (columns < d)
        grad = tl.load(grad_ptr + place, mask=live, other=0.0)[:, None]
        z, log_std = _standardised(
            mean_ptr, log_std_ptr, action_ptr, rows, columns, inside,
            mean_stride, log_std_stride, action_stride,
        )  # fmt: skip
        target = rows[:, None] * d + columns  # gradients are contiguous
        tl.store(grad_mean_ptr + target, grad * z * tl.exp(-log_std), mask=inside)
        score = grad * (z * z - 1.0)
        if SHARED:
            total += tl.sum(score, 0)[None, :]
        else:
            tl.store(grad_log_std_ptr + target, score, mask=inside)
    if SHARED:
        target = grad_log_std_ptr + tl.program_id(0) * d + columns
        tl.store(target, total, mask=columns < d)
