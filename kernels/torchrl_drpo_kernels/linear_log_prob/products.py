"""``linear_log_prob`` by the library's matrix products: CUDA, where kernel.py has no tile.

That is items wider than 256, whose sums do not fit the registers of one program, and float32 that
may not be rounded to TF32. Tile by tile as in tiles.py, with Triton between the products:

Forward    scores (float32) = h . E; one pass turns a row of them into exp2(z - maximum so far),
           in the type of h, and keeps maximum and sum; their product with E is added to the mean.
Backward   scores again; one pass turns them into slopes; their product with h is dE.
Cost       8 D flops a logit on tensor cores (float32 without TF32: outside them), and 10 to 16
           bytes of traffic a logit each way, which is less than the flops take from D = 512 on.
Memory     128 MiB for the scores of a tile, as many probabilities in the type of h, and up to
           256 MiB for sums of the items' gradient.
Precision  float32 scores and sums; probabilities and slopes are rounded to the type of h, as in
           kernel.py. No atomics: the same bits on every run.
Dead rows  come as zeros and cost their products; keep ``index`` as short as can be.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchrl_drpo_kernels._common import COMPILE, launches, next_power_of_2
from torchrl_drpo_kernels.linear_log_prob.problem import Problem, Slopes
from torchrl_drpo_kernels.linear_log_prob.tiles import LN2, LOG2E, logged_log_prob

#: Most numbers of a buffer and rows of a tile. Few rows take many items, for few launches.
BUFFER, TILE_ROWS = 2**25, 4096

#: Fewest and most items of a tile. More would leave the L2 between the two looks at a row.
MIN_ITEMS, MAX_ITEMS = 2**12, 2**16

#: Scores that a program looks at together.
BLOCK = 4096


class Workspace:
    """The tiles of a problem, and the two buffers that all of them use in turn."""

    def __init__(self, hidden: Tensor, items: Tensor) -> None:
        self.rows = max(1, min(hidden.shape[0], TILE_ROWS))
        fit = BUFFER // max(self.rows, hidden.shape[1])  # scores, and sums of the items' gradient
        wanted = next_power_of_2(fit + 1) // 2
        self.items = min(max(wanted, MIN_ITEMS), MAX_ITEMS, items.shape[0])
        self._scores = hidden.new_empty(self.rows * self.items, dtype=torch.float32)
        half = hidden.dtype != torch.float32
        self._shares = torch.empty_like(self._scores, dtype=hidden.dtype) if half else self._scores

    def tiles(self, hidden: Tensor, items: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        """Slices of items and rows, items outside; their scores; where to write what they become.

        Both buffers are overwritten by the next tile; in float32 they are one.
        """
        for first in range(0, items.shape[0], self.items):
            tile = slice(first, min(first + self.items, items.shape[0]))
            for start in range(0, hidden.shape[0], self.rows):
                rows = slice(start, min(start + self.rows, hidden.shape[0]))
                shape = rows.stop - rows.start, tile.stop - tile.start
                scores, shares = (
                    buffer[: shape[0] * shape[1]].view(shape)
                    for buffer in (self._scores, self._shares)
                )
                yield tile, rows, multiply(hidden[rows], items[tile].T, out=scores), shares


def multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """``a @ b`` into float32 ``out``. Always with ``out``: autocast leaves such calls alone."""
    if a.dtype == torch.float32:
        return torch.mm(a, b, out=out)
    if a.is_cuda:  # the products of half precision numbers, added in float32 and left there
        return torch.mm(a, b, torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)  # the interpreter's CPU has no such product


@launches
def forward(problem: Problem, need_mean: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``log_prob [N]``, ``lse [N]`` and ``mean [N, D]`` (``[0, D]`` unless needed), float32."""
    hidden, items, bias = problem.hidden, problem.items, problem.bias
    (n, d), scale = hidden.shape, problem.inverse_temperature * LOG2E
    top = hidden.new_full((n,), -math.inf, dtype=torch.float32)
    mass, rescale = torch.zeros_like(top), torch.empty_like(top)
    mean = top.new_zeros(n if need_mean else 0, d)
    work = Workspace(hidden, items)
    sums = top.new_empty(work.rows if need_mean else 0, d)
    for tile, rows, scores, shares in work.tiles(hidden, items):
        height, width = scores.shape
        soften_kernel[(height,)](
            scores, None if bias is None else bias[tile], top[rows], mass[rows], rescale[rows],
            shares, width, scale, NEED_SHARES=need_mean, BLOCK=BLOCK, num_warps=8, **COMPILE,
        )  # fmt: skip
        if need_mean:
            part = multiply(shares, items[tile], out=sums[:height])
            torch.addcmul(part, mean[rows], rescale[rows, None], out=mean[rows])
    lse = top.add_(mass.log2())
    if need_mean:
        mean.div_(mass[:, None])
    scaled = hidden.float() * scale
    offset = None if bias is None else bias.float() * scale
    return logged_log_prob(scaled, items, problem.action, offset, lse), lse * LN2, mean


@launches
def items_gradient(problem: Problem, slopes: Slopes, need_bias: bool) -> tuple[Tensor, Tensor]:
    """Gradients of the items ``[V, D]`` and of the bias ``[V]`` (``[0]`` unless needed)."""
    hidden, items, bias = problem.hidden, problem.items, problem.bias
    (n, d), scale = hidden.shape, problem.inverse_temperature * LOG2E
    d_items = torch.zeros_like(items, memory_format=torch.contiguous_format)
    d_bias = slopes.lse.new_zeros(items.shape[0] if need_bias else 0)
    work = Workspace(hidden, items)
    sums = slopes.lse.new_empty(min(2, -(-n // work.rows)), work.items, d)
    for tile, rows, scores, sent in work.tiles(hidden, items):
        height, width = scores.shape
        slope_kernel[(height, triton.cdiv(width, BLOCK))](
            scores, None if bias is None else bias[tile], problem.action[rows],
            *(x[rows] for x in slopes), sent,
            tile.start, width, scale, BLOCK=BLOCK, num_warps=8, **COMPILE,
        )  # fmt: skip
        part = multiply(sent.T, hidden[rows], out=sums[int(rows.start > 0), :width])
        if rows.start > 0:  # float32 until the last tile of rows
            sums[0, :width] += part
        if rows.stop == n:
            d_items[tile] = sums[0, :width]
        if need_bias:
            d_bias[tile] += sent.sum(0, dtype=torch.float32)
    return d_items, d_bias if bias is None else d_bias.to(bias.dtype)


@triton.jit
def _scores(scores_ptr, bias_ptr, item, width, scale):
    """Some scores of one row in units of log 2, ``-inf`` beyond the last item."""
    inside = item < width
    z = tl.load(scores_ptr + item, inside, other=float("-inf")) * scale
    if bias_ptr is not None:
        z += tl.load(bias_ptr + item, inside, other=0.0).to(tl.float32) * scale
    return z


@triton.jit
def soften_kernel(
    scores_ptr, bias_ptr, top_ptr, mass_ptr, rescale_ptr, shares_ptr, width, scale,
    NEED_SHARES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of a tile: its maximum and sum so far, and ``exp2(z - maximum)``.

    ``rescale`` is what sums over earlier tiles are to be multiplied by.
    """
    row = tl.program_id(0)
    source = scores_ptr + row.to(tl.int64) * width
    target = shares_ptr + row.to(tl.int64) * width
    peak = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, width, BLOCK):
        item = start + tl.arange(0, BLOCK)
        peak = tl.maximum(peak, _scores(source, bias_ptr, item, width, scale))
    old = tl.load(top_ptr + row)
    top = tl.maximum(old, tl.max(peak, 0))
    shift = tl.where(top == float("-inf"), 0.0, top)  # every item so far is excluded
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):  # reads a score before it writes to its place
        item = start + tl.arange(0, BLOCK)
        share = tl.exp2(_scores(source, bias_ptr, item, width, scale) - shift)
        total += share
        if NEED_SHARES:
            tl.store(target + item, share, item < width)
    rescale = tl.exp2(old - shift)
    tl.store(top_ptr + row, top)
    tl.store(mass_ptr + row, tl.load(mass_ptr + row) * rescale + tl.sum(total, 0))
    tl.store(rescale_ptr + row, rescale)


@triton.jit
def slope_kernel(
    scores_ptr, bias_ptr, action_ptr, lse_ptr, soft_ptr, logged_ptr, slopes_ptr,
    first, width, scale, BLOCK: tl.constexpr,
):  # fmt: skip
    """What one row sends into ``BLOCK`` of its logits; ``first`` is the tile's first item."""
    row = tl.program_id(0)
    place = row.to(tl.int64) * width
    item = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    z = _scores(scores_ptr + place, bias_ptr, item, width, scale)
    slope = tl.exp2(z - tl.load(lse_ptr + row) * 1.4426950408889634) * tl.load(soft_ptr + row)
    here = first + item == tl.load(action_ptr + row)
    slope += tl.where(here, tl.load(logged_ptr + row), 0.0)
    tl.store(slopes_ptr + place + item, slope, item < width)
