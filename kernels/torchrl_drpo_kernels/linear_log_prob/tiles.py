"""``linear_log_prob`` in plain ATen, tile by tile: the CPU path, and any device's fallback.

The forward is flash attention with query h and keys = values = E: a running maximum and sum give
lse, a running weighted sum gives the expected item, and with it the gradient of h is elementwise.
Only the gradient of the items walks the tiles again. 8 D flops a logit against 6 D for kept
logits, but a tile stays in the cache: measured on two cores, forward + backward of 410 rows over
200k items of width 64 take 0.26 s, against 0.73 s with the logits materialised, in a few MB.
While all scores fit a budget the forward keeps them, and the whole costs 6 D flops a logit too.

Scores are kept in units of log 2, as ``exp2`` is the cheaper instruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from torchrl_drpo_kernels.linear_log_prob.problem import Problem, Slopes
from torchrl_drpo_kernels.linear_log_prob.reference import accumulation_dtype

LOG2E = math.log2(math.e)
LN2 = math.log(2)

#: Rows and items of one tile. 512 x 2048 float32 scores are 4 MiB, about the L2 of two cores;
#: from 128 x 2048 to 1024 x 1024 all measured within 10%. Assign to trade memory for time.
TILE_ROWS, TILE_ITEMS = 512, 2048

#: The same on an accelerator, which wants few and large launches: 128 MiB of float32 scores.
ACCELERATOR_ROWS, ACCELERATOR_ITEMS = 4096, 8192

#: Bytes of scores up to which the forward keeps them for the items' gradient: 8.4 million float32
#: logits. Measured on one core, forward + backward, tiles / kept / cross-entropy: 102 rows, 50k
#: items, D 128 (20 MB) 82 / 63 / 66 ms; 410, 10k, 128 (16 MB) 53 / 48 / 47 ms; 410, 50k, 128
#: (82 MB) 277 / 276 / 387 ms; 410, 200k, 64 (328 MB) 621 / 719 / 1201 ms. Assign 0 to keep none.
KEPT_BYTES = 32 << 20


def keeps_scores(rows: int, items: int, dtype: torch.dtype) -> bool:
    """Whether the scores of a problem of this size are kept from the forward to the backward.

    >>> keeps_scores(100, 50_000, torch.float32), keeps_scores(400, 50_000, torch.float32)
    (True, False)
    """
    return rows * items * accumulation_dtype(dtype).itemsize <= KEPT_BYTES


class Scores:
    """Hands out tiles of ``log2(e) / T * (h @ E.T + bias)``, in one reused buffer or from memory.

    Args:
        problem: what the scores are of.
        kept: ``[N, V]`` to keep the scores in, or ``None``.
        filled: whether ``kept`` holds them already.
    """

    def __init__(self, problem: Problem, kept: Tensor | None = None, filled: bool = False) -> None:
        dtype = accumulation_dtype(problem.hidden.dtype)
        scale = problem.inverse_temperature * LOG2E
        self.hidden = problem.hidden.to(dtype) * scale
        self.items = problem.items
        self.bias = None if problem.bias is None else problem.bias.to(dtype) * scale
        self.kept, self.filled = kept, filled
        rows, width = TILE_ROWS, TILE_ITEMS
        if problem.device.type != "cpu":
            rows, width = ACCELERATOR_ROWS, ACCELERATOR_ITEMS
        n, v, _ = problem.shape
        self.tile = min(rows, max(1, n)), min(width, v)
        self.buffer = self.hidden.new_empty(self.tile[0] * self.tile[1])

    def item_tiles(self) -> Iterator[tuple[slice, Tensor]]:
        """Slices of the catalogue, each with its embeddings in the accumulation type."""
        for start in range(0, self.items.shape[0], self.tile[1]):
            tile = slice(start, min(start + self.tile[1], self.items.shape[0]))
            yield tile, self.items[tile].to(self.hidden.dtype)

    def row_tiles(self, tile: slice, embeddings: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of rows, their scores, and where to write what is made of them.

        The third is overwritten by the next tile, and is the second unless the scores are kept.
        """
        width = tile.stop - tile.start
        for start in range(0, self.hidden.shape[0], self.tile[0]):
            rows = slice(start, min(start + self.tile[0], self.hidden.shape[0]))
            height = rows.stop - rows.start
            scratch = self.buffer[: height * width].view(height, width)
            scores = scratch if self.kept is None else self.kept[rows, tile]
            if not self.filled:
                if self.bias is None:
                    torch.mm(self.hidden[rows], embeddings.T, out=scores)
                else:
                    torch.addmm(self.bias[tile], self.hidden[rows], embeddings.T, out=scores)
            yield rows, scores, scratch


def forward(
    problem: Problem, need_mean: bool, kept: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``log_prob [N]``, ``lse [N]`` and ``mean [N, D]`` (``[0, D]`` unless needed).

    ``kept [N, V]``, if given, is filled with the scores for :func:`items_gradient`.
    """
    scores = Scores(problem, kept)
    top = scores.hidden.new_full((scores.hidden.shape[0], 1), -math.inf)
    mass = torch.zeros_like(top)
    mean = torch.zeros_like(scores.hidden if need_mean else scores.hidden[:0])
    for tile, embeddings in scores.item_tiles():
        for rows, z, part in scores.row_tiles(tile, embeddings):
            new = torch.maximum(top[rows], z.amax(1, keepdim=True))
            shift = torch.where(new == -math.inf, 0.0, new)  # every item so far is excluded
            rescale = (top[rows] - shift).exp2_()
            torch.sub(z, shift, out=part).exp2_()
            mass[rows] = mass[rows].mul_(rescale).add_(part.sum(1, keepdim=True))
            if need_mean:
                mean[rows].mul_(rescale).addmm_(part, embeddings)
            top[rows] = new
    lse = top.add_(mass.log2())[:, 0]
    if need_mean:
        mean.div_(mass)
    log_prob = logged_log_prob(scores.hidden, problem.items, problem.action, scores.bias, lse)
    return log_prob, lse * LN2, mean


def logged_log_prob(
    hidden: Tensor, items: Tensor, action: Tensor, bias: Tensor | None, lse: Tensor
) -> Tensor:
    """Log-probability ``[N]`` in nats of each row's logged item.

    ``hidden``, ``bias`` and ``lse`` hold scores in units of log 2, of the accumulation type.
    """
    index = action.long()
    logged = (hidden * items[index].to(lse.dtype)).sum(1)
    if bias is not None:
        logged += bias[index]
    # The two dot products were summed in different orders: a probability of 1 may round above it.
    return logged.sub_(lse).mul_(LN2).clamp_max_(0.0)


def items_gradient(
    problem: Problem, slopes: Slopes, need_bias: bool, kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of the items ``[V, D]`` and of the bias ``[V]`` (``[0]`` unless needed).

    ``kept`` are the scores that :func:`forward` filled in.
    """
    items, bias, lse = problem.items, problem.bias, slopes.lse
    scores = Scores(problem, kept, filled=kept is not None)
    row = problem.hidden.to(lse.dtype)
    soft, logged = row * slopes.soft[:, None], row * slopes.logged[:, None]
    lse2 = (lse * LOG2E)[:, None]
    # zeros, not empty: no row is no gradient. Half precision is rounded once, at the end.
    d_items = torch.zeros(items.shape, dtype=lse.dtype, device=lse.device)
    d_bias = lse.new_zeros(items.shape[0] if need_bias else 0)
    for tile, embeddings in scores.item_tiles():
        for rows, z, part in scores.row_tiles(tile, embeddings):
            torch.sub(z, lse2[rows], out=part).exp2_()
            d_items[tile].addmm_(part.T, soft[rows])
            if need_bias:
                d_bias[tile].addmv_(part.T, slopes.soft[rows])
    action = problem.action.long()
    _add_rows(d_items, action, logged)
    if need_bias:
        _add_rows(d_bias, action, slopes.logged)
    return d_items.to(items.dtype), d_bias if bias is None else d_bias.to(bias.dtype)


def _add_rows(target: Tensor, index: Tensor, rows: Tensor) -> None:
    """``target[index] += rows`` in a fixed order on every device."""
    if target.device.type == "cpu":
        target.index_add_(0, index, rows)
    else:  # index_add_ would use atomics; index_put_ sorts
        target.index_put_((index,), rows, accumulate=True)
