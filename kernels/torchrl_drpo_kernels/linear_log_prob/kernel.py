"""``linear_log_prob`` in Triton; reference.py is the specification.

    lse[i] = logsumexp_j z[i, j],  mean[i] = sum_j p[i, j] E[j],  z = (h . E + bias) / T

Notation   N rows of which the first n (a device integer) live, V items, D <= 256 wide.
Method     Flash attention with query h and keys = values = E. Work items are (part of the
           catalogue, tile of rows); a fixed number of programs takes them in turn, so the work
           scales with n and no grid depends on it. A second launch merges the parts of each row
           in a fixed order, so every run gives the same bits. kernel_backward.py is the rest.
Cost       4 D flops a logit, 2 D where no gradient of h is wanted; 4 D for the items' gradient.
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
from torchrl_drpo_kernels.linear_log_prob.kernel_order import live_count
from torchrl_drpo_kernels.linear_log_prob.problem import Problem
from torchrl_drpo_kernels.linear_log_prob.shapes import (
    MERGED_PARTS,
    Tile,
    architecture,
    programs,
    tile_of,
)

LOG2E = math.log2(math.e)


@launches
def forward(
    problem: Problem, need_mean: bool, tile: Tile | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``log_prob [N]``, ``lse [N]`` and ``mean [N, D]`` (``[0, D]`` unless needed), float32."""
    hidden, items, n_rows, bias = problem.hidden, problem.items, problem.n_rows, problem.bias
    n, v, d = problem.shape
    width = max(16, next_power_of_2(d))
    descriptors = described(hidden) and described(items)
    kind = "mean" if need_mean else "value"
    tile = tile or tile_of(kind, architecture(hidden), width, hidden.element_size(), descriptors)
    p = tile.residents * programs(hidden)
    slots = (2 * p + triton.cdiv(n, tile.rows)) * tile.rows
    log_prob = hidden.new_empty(n, dtype=torch.float32)
    lse = torch.empty_like(log_prob)
    mean = hidden.new_empty((n if need_mean else 0, d), dtype=torch.float32)
    if n == 0:
        return log_prob, lse, mean
    top, mass = log_prob.new_empty(slots), log_prob.new_empty(slots)
    parts = log_prob.new_empty((slots if need_mean else 0, width))
    scale = problem.inverse_temperature * LOG2E
    shape = {"D": d, "WIDTH": width, "ROWS": tile.rows, "ITEMS": tile.items}
    sweep_kernel[(p,)](
        source_of(hidden, tile.rows, width, descriptors),
        source_of(items, tile.items, width, descriptors), bias, n_rows, top, mass, parts,
        n, v, hidden.stride(0), items.stride(0), scale,
        NEED_MEAN=need_mean, DESCRIPTORS=descriptors, PRECISION=precision_of(hidden), **shape,
        num_warps=tile.warps, num_stages=tile.stages, **COMPILE,
    )  # fmt: skip
    merge_kernel[(n,)](
        hidden, items, problem.action, bias, n_rows, top, mass, parts, log_prob, lse, mean,
        n, v, p, hidden.stride(0), items.stride(0), scale,
        NEED_MEAN=need_mean, MERGED=MERGED_PARTS, **shape, num_warps=4, **COMPILE,
    )  # fmt: skip
    return log_prob, lse, mean


def described(matrix: Tensor) -> bool:
    """Whether descriptors can load this matrix: the hardware has them and rows are aligned."""
    size = matrix.element_size()
    aligned = matrix.data_ptr() % 16 == 0 and matrix.stride(0) * size % 16 == 0
    dense = matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1] and matrix.shape[0] > 0
    return aligned and dense and architecture(matrix) in ("sm_90", "sm_100", "interpreter")


def source_of(matrix: Tensor, rows: int, width: int, descriptors: bool) -> Any:
    """What a kernel loads tiles of this matrix from: a descriptor, or the matrix itself."""
    if not descriptors:
        return matrix
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), [rows, width])


def precision_of(matrix: Tensor) -> str:
    """float32 is multiplied as TF32 (the op sends it here only where that is allowed)."""
    return "tf32" if matrix.dtype == torch.float32 and not INTERPRETED else "ieee"


@triton.jit
def load_rows(
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
    """Row tiles, parts of the catalogue, and item tiles a part.

    One work item a program, for every part is merged later; two where that leaves a tenth idle.
    """
    row_tiles = tl.cdiv(live, ROWS)
    item_tiles = tl.cdiv(n_items, ITEMS)
    parts = programs // tl.maximum(row_tiles, 1)
    if 10 * parts * row_tiles < 9 * programs:
        parts = (2 * programs) // tl.maximum(row_tiles, 1)
    parts = tl.minimum(tl.maximum(parts, 1), item_tiles)
    per_part = tl.cdiv(item_tiles, parts)
    return row_tiles, tl.cdiv(item_tiles, per_part), per_part


@triton.jit
def _add_items(
    top, mass, mean, h, items, bias_ptr, start, n_items, items_stride, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, ITEMS: tl.constexpr, EDGE: tl.constexpr,
    NEED_MEAN: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds one tile of items to the maximum, sum and weighted sum.

    At small D a multiprocessor issues too few instructions for its tensor cores, so without a bias
    a score costs a fused multiply-add and an exp2, and nothing for the catalogue's edge unless the
    tile may reach it (``EDGE``).
    """
    e = load_rows(items, start, n_items, items_stride, D, WIDTH, ITEMS, DESCRIPTORS)
    z = tl.dot(h, e.T, input_precision=PRECISION)
    item = start + tl.arange(0, ITEMS)
    if bias_ptr is not None:
        b = tl.load(bias_ptr + item, item < n_items, other=0.0).to(tl.float32)
        z = z * scale + (b * scale)[None, :]
    if EDGE and start + ITEMS > n_items:
        z = tl.where((item < n_items)[None, :], z, float("-inf"))
    if bias_ptr is None:
        higher = tl.maximum(top, tl.max(z, 1) * scale)
        shift = higher
        p = tl.exp2(z * scale - shift[:, None])
    else:
        higher = tl.maximum(top, tl.max(z, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # all so far may be excluded
        p = tl.exp2(z - shift[:, None])
    rescale = tl.exp2(top - shift)
    mass = mass * rescale + tl.sum(p, 1)
    if NEED_MEAN:
        mean = tl.dot(p.to(e.dtype), e, mean * rescale[:, None], input_precision=PRECISION)
    return higher, mass, mean


@triton.jit
def sweep_kernel(
    hidden, items, bias_ptr, n_rows_ptr, top_ptr, mass_ptr, parts_ptr,
    n, n_items, hidden_stride, items_stride, scale,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, ITEMS: tl.constexpr,
    NEED_MEAN: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """For each row tile and part of the catalogue: maximum, sum and weighted sum of items."""
    # Two loops where there are registers for it: pointers, a bias and TF32 want them.
    APART: tl.constexpr = DESCRIPTORS and bias_ptr is None and PRECISION == "ieee"
    live = live_count(n_rows_ptr, n)
    row_tiles, parts, per_part = _shares(live, n_items, tl.num_programs(0), ROWS, ITEMS)
    # Parts outside, row tiles inside: programs in flight read the same items, from the L2.
    for work in range(tl.program_id(0), row_tiles * parts, tl.num_programs(0)):
        first = (work // row_tiles) * per_part * ITEMS
        last = tl.minimum(n_items, first + per_part * ITEMS)
        row = (work % row_tiles) * ROWS
        h = load_rows(hidden, row, n, hidden_stride, D, WIDTH, ROWS, DESCRIPTORS)
        top = tl.full((ROWS,), float("-inf"), tl.float32)
        mass = tl.zeros((ROWS,), tl.float32)
        mean = mass
        if NEED_MEAN:
            mean = tl.zeros((ROWS, WIDTH), tl.float32)
        whole = last
        if APART:
            whole = first + ((last - first) // ITEMS) * ITEMS
        for start in range(first, whole, ITEMS):
            top, mass, mean = _add_items(
                top, mass, mean, h, items, bias_ptr, start, n_items, items_stride, scale,
                D, WIDTH, ITEMS, not APART, NEED_MEAN, DESCRIPTORS, PRECISION,
            )  # fmt: skip
        if APART:
            for start in range(whole, last, ITEMS):  # at most once
                top, mass, mean = _add_items(
                    top, mass, mean, h, items, bias_ptr, start, n_items, items_stride, scale,
                    D, WIDTH, ITEMS, True, NEED_MEAN, DESCRIPTORS, PRECISION,
                )  # fmt: skip
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
    """Adds the parts of one row in a fixed order, ``MERGED`` at a time; a dead row gets zeros."""
    live = live_count(n_rows_ptr, n)
    row = tl.program_id(0)
    column = tl.arange(0, WIDTH)
    inside = column < D
    log_prob = tl.zeros((), tl.float32)
    lse = tl.zeros((), tl.float32)
    mean = tl.zeros((WIDTH,), tl.float32)
    if row < live:
        row_tiles, parts, _ = _shares(live, n_items, programs, ROWS, ITEMS)
        top = tl.full((), float("-inf"), tl.float32)
        mass = tl.zeros((), tl.float32)
        for first in range(0, parts, MERGED):
            part = first + tl.arange(0, MERGED)
            known = part < parts
            slot = (part * row_tiles + row // ROWS).to(tl.int64) * ROWS + row % ROWS
            new_top = tl.load(top_ptr + slot, known, other=float("-inf"))
            higher = tl.maximum(top, tl.max(new_top, 0))
            shift = tl.where(higher == float("-inf"), 0.0, higher)
            old, new = tl.exp2(top - shift), tl.exp2(new_top - shift)
            mass = mass * old + tl.sum(tl.load(mass_ptr + slot, known, other=0.0) * new, 0)
            if NEED_MEAN:
                place = slot[:, None] * WIDTH + column[None, :]
                more = tl.load(parts_ptr + place, known[:, None], other=0.0)
                mean = mean * old + tl.sum(more * new[:, None], 0)
            top = higher
        action = tl.load(action_ptr + row).to(tl.int64)
        known = (action >= 0) & (action < n_items)  # nobody looked: -1 may stand for padding
        action = tl.where(known, action, 0)
        from_hidden = hidden_ptr + row.to(tl.int64) * hidden_stride + column
        h = tl.load(from_hidden, inside, other=0.0).to(tl.float32)
        e = tl.load(items_ptr + action * items_stride + column, inside, other=0.0).to(tl.float32)
        logged = tl.sum(h * e, 0)
        if bias_ptr is not None:
            logged += tl.load(bias_ptr + action).to(tl.float32)
        lse = top + tl.log2(mass)
        log_prob = logged * scale - lse
        # Two dot products summed in different orders: a probability of 1 may round above it.
        log_prob = tl.where(log_prob > 0.0, 0.0, log_prob) * 0.6931471805599453
        log_prob = tl.where(known, log_prob, float("-inf"))
        lse *= 0.6931471805599453
        mean /= mass
    tl.store(lse_ptr + row, lse)
    tl.store(log_prob_ptr + row, log_prob)
    if NEED_MEAN:
        tl.store(mean_ptr + row.to(tl.int64) * D + column, mean, inside)
