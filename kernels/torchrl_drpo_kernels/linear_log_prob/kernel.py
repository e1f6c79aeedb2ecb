"""``linear_log_prob`` in Triton; reference.py is the specification.

    lse[i] = logsumexp_j z[i, j],  mean[i] = sum_j p[i, j] E[j],  z = (h . E + bias) / T

Notation   N rows of which the first n (a device integer) live, V items, D <= 256 wide.
Method     Flash attention with query h and keys = values = E. Work items are (part of the
           catalogue, tile of rows); a fixed number of programs takes them in turn, so the work
           scales with n and no grid depends on it. A second launch merges the parts of each row
           in a fixed order. For the items' gradient a program owns one tile of items and walks
           the live rows: nothing is written twice, so no atomics and the same bits on every run.
Cost       4 D flops a logit forward (2 D where no gradient of h is wanted), 4 D for the items.
Memory     Parts of each row: about (2 programs + N / rows of a tile) tiles of float32.
Precision  float32 sums whatever h is; scores in units of log 2. Between the two products the
           probabilities are rounded to the type of h, as in flash attention.
Loads      Tensor descriptors (TMA) where the GPU has them and rows are 16-byte aligned, else
           pointers. All offsets are int64.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from torchrl_drpo_kernels._common import COMPILE, INTERPRETED, launches, next_power_of_2
from torchrl_drpo_kernels.linear_log_prob.shapes import (
    MERGED_ROWS,
    Tile,
    architecture,
    programs,
    tile_of,
)

LOG2E = math.log2(math.e)


@launches
def forward(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: float,
    need_mean: bool,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``log_prob [N]``, ``lse [N]`` and ``mean [N, D]`` (``[0, D]`` unless needed), float32."""
    n, d = hidden.shape
    width = max(16, next_power_of_2(d))
    descriptors = _described(hidden) and _described(items)
    kind = "mean" if need_mean else "value"
    tile = tile or tile_of(kind, architecture(hidden), width, hidden.element_size(), descriptors)
    p = programs(hidden)
    slots = (2 * p + triton.cdiv(n, tile.rows)) * tile.rows
    log_prob = hidden.new_empty(n, dtype=torch.float32)
    lse = torch.empty_like(log_prob)
    mean = hidden.new_empty((n if need_mean else 0, d), dtype=torch.float32)
    if n == 0:
        return log_prob, lse, mean
    top, mass = log_prob.new_empty(slots), log_prob.new_empty(slots)
    parts = log_prob.new_empty((slots if need_mean else 0, width))
    scale = inverse_temperature * LOG2E
    shape = {"D": d, "WIDTH": width, "ROWS": tile.rows, "ITEMS": tile.items}
    sweep_kernel[(p,)](
        _source(hidden, tile.rows, width, descriptors),
        _source(items, tile.items, width, descriptors), bias, n_rows, top, mass, parts,
        n, items.shape[0], hidden.stride(0), items.stride(0), scale,
        NEED_MEAN=need_mean, DESCRIPTORS=descriptors, PRECISION=_precision(hidden), **shape,
        num_warps=tile.warps, num_stages=tile.stages, **COMPILE,
    )  # fmt: skip
    merge_kernel[(triton.cdiv(n, MERGED_ROWS),)](
        hidden, items, action, bias, n_rows, top, mass, parts, log_prob, lse, mean,
        n, items.shape[0], p, hidden.stride(0), items.stride(0), scale,
        NEED_MEAN=need_mean, MERGED=MERGED_ROWS, **shape, num_warps=4, **COMPILE,
    )  # fmt: skip
    return log_prob, lse, mean


@launches
def backward_items(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    n_rows: Tensor | None,
    bias: Tensor | None,
    inverse_temperature: float,
    lse: Tensor,
    slope_soft: Tensor,
    slope_logged: Tensor,
    need_bias: bool,
    tile: Tile | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of the items ``[V, D]`` and of the bias ``[V]`` (``[0]`` unless needed).

    Row ``i`` sends ``slope_soft[i] * p[i, j] + slope_logged[i] * (j == a[i])`` into the logit
    ``h[i] . E[j] + bias[j]``; both slopes already hold the inverse temperature. ``out`` takes the
    items' gradient, with any row stride.
    """
    (n, d), v = hidden.shape, items.shape[0]
    width = max(16, next_power_of_2(d))
    descriptors = _described(hidden) and _described(items) and n > 0
    tile = tile or tile_of("items", architecture(hidden), width, hidden.element_size(), descriptors)
    d_items = items.new_empty(v, d) if out is None else out
    d_bias = lse.new_empty(v if need_bias else 0)
    items_kernel[(triton.cdiv(v, tile.items),)](
        _source(hidden, tile.rows, width, descriptors), hidden,
        _source(items, tile.items, width, descriptors),
        action, bias, n_rows, lse, slope_soft, slope_logged, d_items, d_bias,
        n, v, hidden.stride(0), items.stride(0), d_items.stride(0), inverse_temperature * LOG2E,
        D=d, WIDTH=width, ROWS=tile.rows, ITEMS=tile.items,
        NEED_BIAS=need_bias, DESCRIPTORS=descriptors, PRECISION=_precision(hidden),
        num_warps=tile.warps, num_stages=tile.stages, **COMPILE,
    )  # fmt: skip
    return d_items, d_bias if bias is None else d_bias.to(bias.dtype)


def _described(matrix: Tensor) -> bool:
    """Whether descriptors can load this matrix: the hardware has them and rows are aligned."""
    size = matrix.element_size()
    aligned = matrix.data_ptr() % 16 == 0 and matrix.stride(0) * size % 16 == 0
    dense = matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1] and matrix.shape[0] > 0
    return aligned and dense and architecture(matrix) in ("sm_90", "sm_100", "interpreter")


def _source(matrix: Tensor, rows: int, width: int, descriptors: bool) -> Any:
    if not descriptors:
        return matrix
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), [rows, width])


def _precision(matrix: Tensor) -> str:
    """float32 is multiplied as TF32 (the op sends it here only where that is allowed)."""
    return "tf32" if matrix.dtype == torch.float32 and not INTERPRETED else "ieee"


@triton.jit
def _live(n_rows_ptr, n):
    """Number of live rows, within 0 and n."""
    live = n
    if n_rows_ptr is not None:
        live = tl.minimum(tl.maximum(tl.load(n_rows_ptr).to(tl.int32), 0), n)
    return live


@triton.jit
def _load(
    source, start, count, stride,
    D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Rows ``start ...`` of a matrix, zero beyond its edges, ``[BLOCK, WIDTH]``."""
    if DESCRIPTORS:
        tile = source.load([start, 0])
    else:
        row = start + tl.arange(0, BLOCK)
        column = tl.arange(0, WIDTH)
        inside = (row < count)[:, None] & (column < D)[None, :]
        place = row[:, None].to(tl.int64) * stride + column[None, :]
        tile = tl.load(source + place, inside, other=0.0)
    return tile


@triton.jit
def _shares(live, n_items, programs, ROWS: tl.constexpr, ITEMS: tl.constexpr):
    """Row tiles, parts of the catalogue, and item tiles a part: about two waves of programs."""
    row_tiles = tl.cdiv(live, ROWS)
    item_tiles = tl.cdiv(n_items, ITEMS)
    parts = tl.minimum(tl.maximum((2 * programs) // tl.maximum(row_tiles, 1), 1), item_tiles)
    per_part = tl.cdiv(item_tiles, parts)
    return row_tiles, tl.cdiv(item_tiles, per_part), per_part


@triton.jit
def sweep_kernel(
    hidden, items, bias_ptr, n_rows_ptr, top_ptr, mass_ptr, parts_ptr,
    n, n_items, hidden_stride, items_stride, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, ITEMS: tl.constexpr,
    NEED_MEAN: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """For each row tile and part of the catalogue: maximum, sum and weighted sum of items."""
    live = _live(n_rows_ptr, n)
    row_tiles, parts, per_part = _shares(live, n_items, tl.num_programs(0), ROWS, ITEMS)
    # Parts outside, row tiles inside: programs in flight read the same items, from the L2.
    for work in range(tl.program_id(0), row_tiles * parts, tl.num_programs(0)):
        part = work // row_tiles
        h = _load(hidden, (work % row_tiles) * ROWS, n, hidden_stride, D, WIDTH, ROWS, DESCRIPTORS)
        top = tl.full((ROWS,), float("-inf"), tl.float32)
        mass = tl.zeros((ROWS,), tl.float32)
        if NEED_MEAN:
            mean = tl.zeros((ROWS, WIDTH), tl.float32)
        first = part * per_part * ITEMS
        last = tl.minimum(n_items, first + per_part * ITEMS)
        for start in range(first, last, ITEMS):
            e = _load(items, start, n_items, items_stride, D, WIDTH, ITEMS, DESCRIPTORS)
            z = tl.dot(h, e.T, input_precision=PRECISION) * scale
            item = start + tl.arange(0, ITEMS)
            if bias_ptr is not None:
                b = tl.load(bias_ptr + item, item < n_items, other=0.0).to(tl.float32)
                z += (b * scale)[None, :]
            if start + ITEMS > n_items:
                z = tl.where((item < n_items)[None, :], z, float("-inf"))
            higher = tl.maximum(top, tl.max(z, 1))
            shift = higher
            if bias_ptr is not None:  # every item so far may be excluded
                shift = tl.where(higher == float("-inf"), 0.0, higher)
            p = tl.exp2(z - shift[:, None])
            rescale = tl.exp2(top - shift)
            mass = mass * rescale + tl.sum(p, 1)
            if NEED_MEAN:
                mean = tl.dot(p.to(e.dtype), e, mean * rescale[:, None], input_precision=PRECISION)
            top = higher
        slot = tl.cast(work, tl.int64) * ROWS + tl.arange(0, ROWS)
        tl.store(top_ptr + slot, top)
        tl.store(mass_ptr + slot, mass)
        if NEED_MEAN:
            column = tl.arange(0, WIDTH)
            tl.store(parts_ptr + slot[:, None] * WIDTH + column[None, :], mean)


@triton.jit
def merge_kernel(
    hidden_ptr, items_ptr, action_ptr, bias_ptr, n_rows_ptr, top_ptr, mass_ptr, parts_ptr,
    log_prob_ptr, lse_ptr, mean_ptr, n, n_items, programs, hidden_stride, items_stride, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, ITEMS: tl.constexpr,
    NEED_MEAN: tl.constexpr, MERGED: tl.constexpr,
):  # fmt: skip
    """Adds the parts of ``MERGED`` rows in a fixed order; dead rows get zeros."""
    live_rows = _live(n_rows_ptr, n)
    row_tiles, parts, _ = _shares(live_rows, n_items, programs, ROWS, ITEMS)
    row = tl.program_id(0) * MERGED + tl.arange(0, MERGED)
    column = tl.arange(0, WIDTH)
    inside = (row < n)[:, None] & (column < D)[None, :]
    place = row[:, None].to(tl.int64) * D + column[None, :]
    if tl.program_id(0) * MERGED >= live_rows:
        tl.store(lse_ptr + row, tl.zeros((MERGED,), tl.float32), row < n)
        tl.store(log_prob_ptr + row, tl.zeros((MERGED,), tl.float32), row < n)
        if NEED_MEAN:
            tl.store(mean_ptr + place, tl.zeros((MERGED, WIDTH), tl.float32), inside)
    else:
        row_tile = (tl.program_id(0) * MERGED) // ROWS
        top = tl.full((MERGED,), float("-inf"), tl.float32)
        mass = tl.zeros((MERGED,), tl.float32)
        mean = tl.zeros((MERGED, WIDTH), tl.float32)
        for part in range(0, parts):
            slot = tl.cast(part * row_tiles + row_tile, tl.int64) * ROWS + (row - row_tile * ROWS)
            new_top = tl.load(top_ptr + slot)
            higher = tl.maximum(top, new_top)
            shift = tl.where(higher == float("-inf"), 0.0, higher)
            old, new = tl.exp2(top - shift), tl.exp2(new_top - shift)
            mass = mass * old + tl.load(mass_ptr + slot) * new
            if NEED_MEAN:
                more = tl.load(parts_ptr + slot[:, None] * WIDTH + column[None, :])
                mean = mean * old[:, None] + more * new[:, None]
            top = higher
        live = row < live_rows
        action = tl.load(action_ptr + row, live, other=0).to(tl.int64)
        known = live[:, None] & (column < D)[None, :]
        from_hidden = row[:, None].to(tl.int64) * hidden_stride + column[None, :]
        from_items = action[:, None] * items_stride + column[None, :]
        h = tl.load(hidden_ptr + from_hidden, known, other=0.0).to(tl.float32)
        e = tl.load(items_ptr + from_items, known, other=0.0).to(tl.float32)
        logged = tl.sum(h * e, 1)
        if bias_ptr is not None:
            logged += tl.load(bias_ptr + action, live, other=0.0).to(tl.float32)
        lse = top + tl.log2(mass)
        log_prob = logged * scale - lse
        # Two dot products summed in different orders: a probability of 1 may round above it.
        log_prob = tl.where(log_prob > 0.0, 0.0, log_prob)
        tl.store(lse_ptr + row, tl.where(live, lse * 0.6931471805599453, 0.0), row < n)
        tl.store(log_prob_ptr + row, tl.where(live, log_prob * 0.6931471805599453, 0.0), row < n)
        if NEED_MEAN:
            mean = tl.where(live[:, None], mean / mass[:, None], 0.0)
            tl.store(mean_ptr + place, mean, inside)


@triton.jit
def _add_rows(
    d_items, d_bias, e, b, h, start, live, lse_ptr, soft_ptr, scale,
    ROWS: tl.constexpr, NEED_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds ``soft[i] * p[i, j] h[i]`` of one tile of rows to one tile of items."""
    row = start + tl.arange(0, ROWS)
    inside = row < live
    lse = tl.load(lse_ptr + row, inside, other=float("inf")) * 1.4426950408889634
    soft = tl.load(soft_ptr + row, inside, other=0.0)
    z = tl.dot(e, h.T, input_precision=PRECISION) * scale + b[:, None]
    slope = tl.exp2(z - lse[None, :]) * soft[None, :]
    d_items = tl.dot(slope.to(h.dtype), h, d_items, input_precision=PRECISION)
    if NEED_BIAS:
        d_bias += tl.sum(slope, 1)
    return d_items, d_bias


@triton.jit
def items_kernel(
    hidden, hidden_ptr, items, action_ptr, bias_ptr, n_rows_ptr, lse_ptr, soft_ptr, logged_ptr,
    d_items_ptr, d_bias_ptr, n, n_items, hidden_stride, items_stride, out_stride, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, ITEMS: tl.constexpr,
    NEED_BIAS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of one tile of items (and their bias) from all live rows."""
    live = _live(n_rows_ptr, n)
    first = tl.program_id(0) * ITEMS
    item = first + tl.arange(0, ITEMS)
    e = _load(items, first, n_items, items_stride, D, WIDTH, ITEMS, DESCRIPTORS)
    b = tl.zeros((ITEMS,), tl.float32)
    if bias_ptr is not None:
        b = tl.load(bias_ptr + item, item < n_items, other=0.0).to(tl.float32) * scale
    d_items = tl.zeros((ITEMS, WIDTH), tl.float32)
    d_bias = tl.zeros((ITEMS,), tl.float32)
    whole = 0
    if DESCRIPTORS:
        whole = (live // ROWS) * ROWS
        for start in range(0, whole, ROWS):
            h = _load(hidden, start, n, hidden_stride, D, WIDTH, ROWS, True)
            d_items, d_bias = _add_rows(
                d_items, d_bias, e, b, h, start, live, lse_ptr, soft_ptr, scale,
                ROWS, NEED_BIAS, PRECISION,
            )  # fmt: skip
    # A descriptor knows n but not how many rows live; dead ones may hold anything, NaN too.
    for start in range(whole, live, ROWS):
        h = _load(hidden_ptr, start, live, hidden_stride, D, WIDTH, ROWS, False)
        d_items, d_bias = _add_rows(
            d_items, d_bias, e, b, h, start, live, lse_ptr, soft_ptr, scale,
            ROWS, NEED_BIAS, PRECISION,
        )  # fmt: skip
    column = tl.arange(0, WIDTH)
    # The logged items: few rows name one of this tile, so they stay out of the loop above.
    for start in range(0, live, 16):
        row = start + tl.arange(0, 16)
        action = tl.load(action_ptr + row, row < live, other=-1).to(tl.int32)
        here = (action >= first) & (action < first + ITEMS)
        if tl.max(here.to(tl.int32), 0) > 0:
            logged = tl.load(logged_ptr + row, here, other=0.0)
            place = row[:, None].to(tl.int64) * hidden_stride + column[None, :]
            known = here[:, None] & (column < D)[None, :]
            h = tl.load(hidden_ptr + place, known, other=0.0)
            slope = tl.where(action[None, :] == item[:, None], logged[None, :], 0.0)
            d_items = tl.dot(slope.to(h.dtype), h, d_items, input_precision=PRECISION)
            if NEED_BIAS:
                d_bias += tl.sum(slope, 1)
    inside = (item < n_items)[:, None] & (column < D)[None, :]
    place = item[:, None].to(tl.int64) * out_stride + column[None, :]
    tl.store(d_items_ptr + place, d_items.to(d_items_ptr.dtype.element_ty), inside)
    if NEED_BIAS:
        tl.store(d_bias_ptr + item, d_bias, item < n_items)
