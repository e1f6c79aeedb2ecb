"""What the items' gradient wants to know of the rows before it starts, in one launch of Triton.

A tile of items takes the rows that logged one of its items in a product of its own. To look for
them among all rows took a third of the gradient's time on an H200 (4,096 rows of 256 numbers,
262,144 items), so they are put in order first. And a row's slope
``soft * 2^(z - lse)`` is ``2^(z - lse + log2 soft)`` where soft is not negative: one instruction
less a score, and half the numbers to keep.

Rows are put in order by counting, for each, those before it: K^2 comparisons are nothing beside
K V D products until K is large, where the library sorts.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrl_drpo_kernels._common import COMPILE
from torchrl_drpo_kernels.linear_log_prob.problem import Problem, Slopes

#: Rows up to which they are put in order by counting.
COUNTED_ROWS = 16_384
#: Rows or tiles of a program, and rows that it compares them with at a time. Of twice as many, a
#: program takes 212 registers a thread instead of 128, and one instead of two fit a multiprocessor.
BLOCK, WALK = 32, 256


class Order(NamedTuple):
    """Live rows by the tile of items that they logged.

    Attributes:
        rows: ``[N]`` int32 (int64 from the library's sort), by item and then by row.
        bounds: ``[tiles + 2]`` int32: tile t has places ``bounds[t]`` to ``bounds[t + 1]`` of
            ``rows``; the last entry is 1 where some soft slope is negative.
        offset: ``[N]`` float32, ``log2 |soft| - lse`` in units of log 2; ``-inf`` of a dead row.
    """

    rows: Tensor
    bounds: Tensor
    offset: Tensor


def order(problem: Problem, slopes: Slopes, tile_items: int) -> Order:
    """Launches the kernel; to be called within a function that ``launches``."""
    action, n_rows = problem.action, problem.n_rows
    n, v, _ = problem.shape
    tiles = triton.cdiv(v, tile_items)
    counted = n <= COUNTED_ROWS
    if counted:
        rows = action.new_empty(n, dtype=torch.int32)
    else:
        if n_rows is not None:
            live = torch.arange(n, device=action.device) < n_rows.reshape(())
            action = torch.where(live, action, v)
        rows = action.sort(stable=True).indices
    bounds = action.new_empty(tiles + 2, dtype=torch.int32)
    offset = torch.empty_like(slopes.lse)
    order_kernel[(triton.cdiv(n, BLOCK) + triton.cdiv(tiles + 1, BLOCK),)](
        problem.action, n_rows, slopes.lse, slopes.soft, rows, bounds, offset, n, tiles,
        ITEMS=tile_items, COUNTED=counted, BLOCK=BLOCK, WALK=WALK, num_warps=8, **COMPILE,
    )  # fmt: skip
    return Order(rows, bounds, offset)


@triton.jit
def live_count(n_rows_ptr, n):
    """Number of live rows, within 0 and n."""
    live = n
    if n_rows_ptr is not None:
        live = tl.minimum(tl.maximum(tl.load(n_rows_ptr).to(tl.int32), 0), n)
    return live


@triton.jit
def _keys_before(action_ptr, key, live, BLOCK: tl.constexpr, WALK: tl.constexpr):
    """How many live rows have a key (item, then row) below each of ``key``."""
    before = tl.zeros((BLOCK, WALK), tl.int32)
    for start in range(0, live, WALK):
        row = start + tl.arange(0, WALK)
        action = tl.load(action_ptr + row, row < live, other=0x7FFFFFFF)
        other = (action.to(tl.int64) << 32) + row
        before += (other[None, :] < key[:, None]).to(tl.int32)
    return tl.sum(before, 1)


@triton.jit
def order_kernel(
    action_ptr, n_rows_ptr, lse_ptr, soft_ptr, rows_ptr, bounds_ptr, offset_ptr, n, tiles,
    ITEMS: tl.constexpr, COUNTED: tl.constexpr, BLOCK: tl.constexpr, WALK: tl.constexpr,
):  # fmt: skip
    """Programs of rows come first, those of tiles behind them."""
    live = live_count(n_rows_ptr, n)
    row_programs = tl.cdiv(n, BLOCK)
    if tl.program_id(0) < row_programs:
        row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        lives = row < live
        lse = tl.load(lse_ptr + row, lives, other=float("inf"))
        soft = tl.load(soft_ptr + row, lives, other=0.0)
        size = tl.log2(tl.where(soft == 0.0, 1.0, tl.abs(soft)))
        offset = tl.where(soft == 0.0, float("-inf"), size - lse * 1.4426950408889634)
        tl.store(offset_ptr + row, offset, row < n)
        if COUNTED:
            action = tl.load(action_ptr + row, lives, other=0).to(tl.int64)
            place = _keys_before(action_ptr, (action << 32) + row, live, BLOCK, WALK)
            tl.store(rows_ptr + place, row, lives)
    else:
        first = (tl.program_id(0) - row_programs) * BLOCK
        tile = first + tl.arange(0, BLOCK)
        key = (tile.to(tl.int64) * ITEMS) << 32
        place = _keys_before(action_ptr, key, live, BLOCK, WALK)
        tl.store(bounds_ptr + tile, place, tile <= tiles)
        if first == 0:
            negative = tl.zeros((WALK,), tl.int32)
            for start in range(0, live, WALK):
                row = start + tl.arange(0, WALK)
                soft = tl.load(soft_ptr + row, row < live, other=0.0)
                negative = tl.maximum(negative, (soft < 0.0).to(tl.int32))
            tl.store(bounds_ptr + tiles + 1, tl.max(negative, 0))
