"""The backward pass of kernel.py, in Triton.

Items      A program owns one tile of items and walks the live rows: nothing is written twice, so no
           atomics and the same bits on every run. 4 D flops a logit. kernel_order.py goes before.
Rows       The forward left the expected item of each row, so the gradient of h is elementwise.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from torchrl_drpo_kernels._common import COMPILE, launches, next_power_of_2
from torchrl_drpo_kernels.linear_log_prob.kernel import (
    LOG2E,
    described,
    load_rows,
    precision_of,
    source_of,
)
from torchrl_drpo_kernels.linear_log_prob.kernel_order import live_count, order
from torchrl_drpo_kernels.linear_log_prob.problem import Problem, Slopes
from torchrl_drpo_kernels.linear_log_prob.shapes import Tile, architecture, tile_of


@launches
def items_gradient(
    problem: Problem,
    slopes: Slopes,
    need_bias: bool,
    tile: Tile | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of the items ``[V, D]`` and of the bias ``[V]`` (``[0]`` unless needed).

    ``out`` takes the items' gradient, with any row stride.
    """
    hidden, items, bias = problem.hidden, problem.items, problem.bias
    n, v, d = problem.shape
    width = max(16, next_power_of_2(d))
    descriptors = described(hidden) and described(items) and n > 0
    tile = tile or tile_of("items", architecture(hidden), width, hidden.element_size(), descriptors)
    d_items = items.new_empty(v, d) if out is None else out
    d_bias = slopes.lse.new_empty(v if need_bias else 0)
    rows, bounds, offset = order(problem, slopes, tile.items)
    items_kernel[(triton.cdiv(v, tile.items),)](
        source_of(hidden, tile.rows, width, descriptors), hidden,
        source_of(items, tile.items, width, descriptors),
        problem.action, bias, problem.n_rows, offset, slopes.soft, slopes.logged, rows, bounds,
        d_items, d_bias,
        n, v, hidden.stride(0), items.stride(0), d_items.stride(0),
        problem.inverse_temperature * LOG2E,
        D=d, WIDTH=width, ROWS=tile.rows, ITEMS=tile.items,
        NEED_BIAS=need_bias, DESCRIPTORS=descriptors, PRECISION=precision_of(hidden),
        num_warps=tile.warps, num_stages=tile.stages, **COMPILE,
    )  # fmt: skip
    return d_items, d_bias if bias is None else d_bias.to(bias.dtype)


@launches
def hidden_gradient(
    problem: Problem, mean: Tensor, slopes: Slopes, out: Tensor, index: Tensor | None = None
) -> None:
    """``soft[i] mean[i] + logged[i] E[a[i]]`` of each live row, into ``out``.

    Row i goes to row ``index[i]`` of ``out [N, D]`` (contiguous), to row i without an index; other
    rows are left alone.
    """
    (n, d), items = mean.shape, problem.items
    if n:
        hidden_kernel[(n,)](
            items, problem.action, problem.n_rows, index, mean, slopes.soft, slopes.logged, out,
            n, items.shape[0], items.stride(0),
            D=d, WIDTH=max(16, next_power_of_2(d)), num_warps=2, **COMPILE,
        )  # fmt: skip


@triton.jit
def hidden_kernel(
    items_ptr, action_ptr, n_rows_ptr, index_ptr, mean_ptr, soft_ptr, logged_ptr, out_ptr,
    n, n_items, items_stride, D: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradient of one row of h; an action outside the catalogue sends nothing."""
    place = tl.program_id(0)
    if place < live_count(n_rows_ptr, n):
        row = place.to(tl.int64)
        if index_ptr is not None:
            row = tl.load(index_ptr + place).to(tl.int64)
        column = tl.arange(0, WIDTH)
        inside = column < D
        action = tl.load(action_ptr + place).to(tl.int64)
        known = (action >= 0) & (action < n_items)
        source = items_ptr + tl.where(known, action, 0) * items_stride + column
        e = tl.load(source, inside, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + place.to(tl.int64) * D + column, inside, other=0.0)
        logged = tl.where(known, tl.load(logged_ptr + place), 0.0)
        slope = tl.load(soft_ptr + place) * mean + logged * e
        tl.store(out_ptr + row * D + column, slope.to(out_ptr.dtype.element_ty), inside)


@triton.jit
def _add_rows(
    d_items, d_bias, e, b, h, start, live, offset_ptr, soft_ptr, scale,
    ROWS: tl.constexpr, EDGE: tl.constexpr, SIGNED: tl.constexpr, HAS_BIAS: tl.constexpr,
    NEED_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds ``soft[i] * p[i, j] h[i]`` of one tile of rows to one tile of items.

    ``EDGE`` says that not all of the rows may live, ``SIGNED`` that soft may be negative.
    """
    row = start + tl.arange(0, ROWS)
    if EDGE:
        offset = tl.load(offset_ptr + row, row < live, other=float("-inf"))
    else:
        offset = tl.load(offset_ptr + row)
    z = tl.dot(e, h.T, input_precision=PRECISION)
    if HAS_BIAS:
        z = z * scale + b[:, None]
        slope = tl.exp2(z + offset[None, :])
    else:  # one fused multiply-add a score
        slope = tl.exp2(z * scale + offset[None, :])
    if SIGNED:
        soft = tl.load(soft_ptr + row, row < live, other=0.0)
        slope *= tl.where(soft < 0.0, -1.0, 1.0)[None, :]
    d_items = tl.dot(slope.to(h.dtype), h, d_items, input_precision=PRECISION)
    if NEED_BIAS:
        d_bias += tl.sum(slope, 1)
    return d_items, d_bias


@triton.jit
def _add_logged(
    d_items, d_bias, first, begin, end, hidden_ptr, action_ptr, logged_ptr, rows_ptr, hidden_stride,
    D: tl.constexpr, WIDTH: tl.constexpr, ITEMS: tl.constexpr, NEED_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds ``logged[i] h[i]`` of the rows whose logged item is one of this tile, 16 at a time."""
    column = tl.arange(0, WIDTH)
    for start in range(begin, end, 16):
        place = start + tl.arange(0, 16)
        known = place < end
        row = tl.load(rows_ptr + place, known, other=0).to(tl.int64)
        logged = tl.load(logged_ptr + row, known, other=0.0)
        local = tl.load(action_ptr + row, known, other=-1).to(tl.int32) - first
        source = hidden_ptr + row[:, None] * hidden_stride + column[None, :]
        h = tl.load(source, known[:, None] & (column < D)[None, :], other=0.0)
        same = local[None, :] == tl.arange(0, ITEMS)[:, None]
        slope = tl.where(same, logged[None, :], 0.0)
        d_items = tl.dot(slope.to(h.dtype), h, d_items, input_precision=PRECISION)
        if NEED_BIAS:
            d_bias += tl.sum(slope, 1)
    return d_items, d_bias


@triton.jit
def items_kernel(
    hidden, hidden_ptr, items, action_ptr, bias_ptr, n_rows_ptr, offset_ptr, soft_ptr, logged_ptr,
    rows_ptr, bounds_ptr, d_items_ptr, d_bias_ptr,
    n, n_items, hidden_stride, items_stride, out_stride, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, ITEMS: tl.constexpr,
    NEED_BIAS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of one tile of items (and their bias) from all live rows."""
    live = live_count(n_rows_ptr, n)
    first = tl.program_id(0) * ITEMS
    item = first + tl.arange(0, ITEMS)
    begin = tl.load(bounds_ptr + tl.program_id(0))
    end = tl.load(bounds_ptr + tl.program_id(0) + 1)
    signed = tl.load(bounds_ptr + tl.num_programs(0) + 1)
    d_items, d_bias = _add_logged(
        tl.zeros((ITEMS, WIDTH), tl.float32), tl.zeros((ITEMS,), tl.float32), first, begin, end,
        hidden_ptr, action_ptr, logged_ptr, rows_ptr, hidden_stride,
        D, WIDTH, ITEMS, NEED_BIAS, PRECISION,
    )  # fmt: skip
    e = load_rows(items, first, n_items, items_stride, D, WIDTH, ITEMS, DESCRIPTORS)
    b = tl.zeros((ITEMS,), tl.float32)
    if bias_ptr is not None:
        b = tl.load(bias_ptr + item, item < n_items, other=0.0).to(tl.float32) * scale
    whole = 0
    if DESCRIPTORS:
        whole = (live // ROWS) * ROWS
        if signed == 0:
            for start in range(0, whole, ROWS):
                h = load_rows(hidden, start, n, hidden_stride, D, WIDTH, ROWS, True)
                d_items, d_bias = _add_rows(
                    d_items, d_bias, e, b, h, start, live, offset_ptr, soft_ptr, scale,
                    ROWS, False, False, bias_ptr is not None, NEED_BIAS, PRECISION,
                )  # fmt: skip
        else:
            for start in range(0, whole, ROWS):
                h = load_rows(hidden, start, n, hidden_stride, D, WIDTH, ROWS, True)
                d_items, d_bias = _add_rows(
                    d_items, d_bias, e, b, h, start, live, offset_ptr, soft_ptr, scale,
                    ROWS, False, True, bias_ptr is not None, NEED_BIAS, PRECISION,
                )  # fmt: skip
    # A descriptor knows n but not how many rows live; dead ones may hold anything, NaN too.
    for start in range(whole, live, ROWS):
        h = load_rows(hidden_ptr, start, live, hidden_stride, D, WIDTH, ROWS, False)
        d_items, d_bias = _add_rows(
            d_items, d_bias, e, b, h, start, live, offset_ptr, soft_ptr, scale,
            ROWS, True, True, bias_ptr is not None, NEED_BIAS, PRECISION,
        )  # fmt: skip
    column = tl.arange(0, WIDTH)
    inside = (item < n_items)[:, None] & (column < D)[None, :]
    place = item[:, None].to(tl.int64) * out_stride + column[None, :]
    tl.store(d_items_ptr + place, d_items.to(d_items_ptr.dtype.element_ty), inside)
    if NEED_BIAS:
        tl.store(d_bias_ptr + item, d_bias, item < n_items)
