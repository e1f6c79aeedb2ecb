"""``linear_log_prob`` in plain ATen, tile by tile: the CPU path, and any device's fallback.

The forward is flash attention with query h and keys = values = E: a running maximum and sum give
lse, a running weighted sum gives the expected item, and with it the gradient of h is elementwise.
Only the gradient of the items walks the tiles again. 8 D flops a logit against 6 D for kept
logits, but a tile stays in the cache: measured on two cores, forward + backward of 410 rows over
200k items of width 64 take 0.26 s, against 0.73 s with the logits materialised, in a few MB.

Scores are kept in units of log 2, as ``exp2`` is the cheaper instruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from torchrl_drpo_kernels.linear_log_prob.reference import accumulation_dtype

LOG2E = math.log2(math.e)
LN2 = math.log(2)

#: Rows and items of one tile. 512 x 2048 float32 scores are 4 MiB, about the L2 of two cores;
#: from 128 x 2048 to 1024 x 1024 all measured within 10%. Assign to trade memory for time.
TILE_ROWS, TILE_ITEMS = 512, 2048


class Scores:
    """Hands out tiles of ``log2(e) / T * (h @ E.T + bias)`` in one reused buffer."""

    def __init__(
        self, hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float
    ) -> None:
        dtype = accumulation_dtype(hidden.dtype)
        scale = inverse_temperature * LOG2E
        self.hidden = hidden.to(dtype) * scale
        self.items = items
        self.bias = None if bias is None else bias.to(dtype) * scale
        shape = min(TILE_ROWS, hidden.shape[0]) * min(TILE_ITEMS, items.shape[0])
        self.buffer = self.hidden.new_empty(shape)

    def item_tiles(self) -> Iterator[tuple[slice, Tensor]]:
        """Slices of the catalogue, each with its embeddings in the accumulation type."""
        for start in range(0, self.items.shape[0], TILE_ITEMS):
            tile = slice(start, min(start + TILE_ITEMS, self.items.shape[0]))
            yield tile, self.items[tile].to(self.hidden.dtype)

    def row_tiles(self, tile: slice, embeddings: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Slices of rows with their scores; a yielded tile is overwritten by the next one."""
        width = tile.stop - tile.start
        for start in range(0, self.hidden.shape[0], TILE_ROWS):
            rows = slice(start, min(start + TILE_ROWS, self.hidden.shape[0]))
            height = rows.stop - rows.start
            scores = self.buffer[: height * width].view(height, width)
            if self.bias is None:
                torch.mm(self.hidden[rows], embeddings.T, out=scores)
            else:
                torch.addmm(self.bias[tile], self.hidden[rows], embeddings.T, out=scores)
            yield rows, scores


def forward(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    bias: Tensor | None,
    inverse_temperature: float,
    need_mean: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """``log_prob [N]``, ``lse [N]`` and ``mean [N, D]`` (``[0, D]`` unless needed)."""
    scores = Scores(hidden, items, bias, inverse_temperature)
    top = scores.hidden.new_full((hidden.shape[0], 1), -math.inf)
    mass = torch.zeros_like(top)
    mean = torch.zeros_like(scores.hidden if need_mean else scores.hidden[:0])
    for tile, embeddings in scores.item_tiles():
        for rows, part in scores.row_tiles(tile, embeddings):
            new = torch.maximum(top[rows], part.amax(1, keepdim=True))
            shift = torch.where(new == -math.inf, 0.0, new)  # every item so far is excluded
            rescale = (top[rows] - shift).exp2_()
            part.sub_(shift).exp2_()
            mass[rows] = mass[rows].mul_(rescale).add_(part.sum(1, keepdim=True))
            if need_mean:
                mean[rows].mul_(rescale).addmm_(part, embeddings)
            top[rows] = new
    lse = top.add_(mass.log2())[:, 0]
    if need_mean:
        mean.div_(mass)
    index = action.long()
    logged = (scores.hidden * items[index].to(lse.dtype)).sum(1)
    if scores.bias is not None:
        logged += scores.bias[index]
    # The two dot products were summed in different orders: a probability of 1 may round above it.
    log_prob = logged.sub_(lse).mul_(LN2).clamp_max_(0.0)
    return log_prob, lse * LN2, mean


def backward_items(
    hidden: Tensor,
    items: Tensor,
    action: Tensor,
    bias: Tensor | None,
    inverse_temperature: float,
    lse: Tensor,
    slope_soft: Tensor,
    slope_logged: Tensor,
    need_bias: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the items ``[V, D]`` and of the bias ``[V]`` (``[0]`` unless needed).

    Row ``i`` sends ``slope_soft[i] * p[i, j] + slope_logged[i] * (j == a[i])`` into the logit
    ``h[i] . E[j] + bias[j]``; both slopes already hold the inverse temperature.
    """
    scores = Scores(hidden, items, bias, inverse_temperature)
    row = hidden.to(lse.dtype)
    soft, logged = row * slope_soft[:, None], row * slope_logged[:, None]
    lse2 = (lse * LOG2E)[:, None]
    # zeros, not empty: no row is no gradient. Half precision is rounded once, at the end.
    d_items = torch.zeros(items.shape, dtype=lse.dtype, device=lse.device)
    d_bias = lse.new_zeros(items.shape[0] if need_bias else 0)
    for tile, embeddings in scores.item_tiles():
        for rows, part in scores.row_tiles(tile, embeddings):
            part.sub_(lse2[rows]).exp2_()
            d_items[tile].addmm_(part.T, soft[rows])
            if need_bias:
                d_bias[tile].addmv_(part.T, slope_soft[rows])
    _add_rows(d_items, action.long(), logged)
    if need_bias:
        _add_rows(d_bias, action.long(), slope_logged)
    return d_items.to(items.dtype), d_bias if bias is None else d_bias.to(bias.dtype)


def _add_rows(target: Tensor, index: Tensor, rows: Tensor) -> None:
    """``target[index] += rows`` in a fixed order on every device."""
    if target.device.type == "cpu":
        target.index_add_(0, index, rows)
    else:  # index_add_ would use atomics; index_put_ sorts
        target.index_put_((index,), rows, accumulate=True)
