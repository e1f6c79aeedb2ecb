r"""Log-probability of tokens from logits in ATen: specification, CPU path and double backward.

    lse[j, t]   = logsumexp_v logits[row, t, v]
    log_prob[j] = sum over valid t of (logits[row, t, action[row, t]] - lse[j, t])

    d log_prob[j] / d logits[row, t, v] = 1[v = action] - exp(logits - lse) for valid t, else 0

Logits ``[N, V]`` are sequences of one token. Masked tokens may hold anything. Rows are worked on
in blocks whose float32 temporaries stay near ``BLOCK_BYTES``, so that memory does not grow with
the number of kept rows and the passes over a block hit the cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from torchrl_drpo_kernels._common_rows import (
    accumulation_dtype,
    check_actions,
    live_rows,
    padded,
    places,
    spread,
)

#: Bytes of one temporary. 410 rows of 50,000 float32 logits took 35 ms forward on one core with
#: blocks of 2 to 4 MiB, and 103 ms as one block.
BLOCK_BYTES = 4 << 20


def gather_log_prob(
    logits: Tensor,
    action: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns ``log_prob [M]`` and ``lse [M, T]``; arguments are 3-D logits, 2-D action and mask.

    Raises:
        ValueError: if a valid token lies outside [0, V).
    """
    rows = live_rows(index, n_rows, logits)
    check_tokens(action, mask, rows, logits.shape[2])
    dtype = accumulation_dtype(logits)
    totals, normalisers = [], []
    for block in _blocks(rows, logits):
        scores = logits[block].to(dtype)
        lse = scores.logsumexp(-1)
        token = action[block].long().clamp(0, logits.shape[2] - 1)  # masked ones may be -1
        log_prob = scores.gather(-1, token[..., None])[..., 0] - lse
        if mask is not None:
            log_prob = torch.where(mask[block], log_prob, 0.0)
            lse = torch.where(mask[block], lse, 0.0)
        totals.append(log_prob.sum(-1))
        normalisers.append(lse)
    length = places(index, logits)
    empty = logits.new_empty(0, logits.shape[1], dtype=dtype)
    return (
        padded(torch.cat([empty.sum(-1), *totals]), length),
        padded(torch.cat([empty, *normalisers]), length),
    )


def backward(
    grad: Tensor,
    logits: Tensor,
    lse: Tensor,
    action: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> Tensor:
    """Gradient of the logits, contiguous, of their dtype; zero where nothing was kept."""
    out = logits.new_zeros(logits.shape)
    done = 0
    for block in _blocks(live_rows(index, n_rows, logits), logits):
        rows = logits[block]
        here = slice(done, done + rows.shape[0])
        done = here.stop
        weight = grad[here, None].expand(-1, logits.shape[1])
        if mask is not None:
            weight = weight * mask[block]
        slope = (rows.to(lse.dtype) - lse[here, :, None]).exp_().mul_(-weight[..., None])
        if mask is not None:  # 0 times the NaN of a masked token
            slope.masked_fill_(~mask[block][..., None], 0.0)
        token = action[block].long().clamp(0, logits.shape[2] - 1)
        slope.scatter_add_(-1, token[..., None], weight[..., None].contiguous())
        out[block] = slope.to(logits.dtype)
    return out


def differentiable_backward(
    grad: Tensor,
    logits: Tensor,
    action: Tensor,
    mask: Tensor | None,
    index: Tensor | None,
    n_rows: Tensor | None,
) -> tuple[Tensor]:
    """:func:`backward` without in-place arithmetic, as a function of ``grad`` and ``logits``."""
    rows = live_rows(index, n_rows, logits)
    token = action[rows].long().clamp(0, logits.shape[2] - 1)
    slope = torch.nn.functional.one_hot(token, logits.shape[2]) - logits[rows].softmax(-1)
    weight = grad[: slope.shape[0], None, None]
    if mask is not None:
        slope = torch.where(mask[rows][..., None], slope, 0.0)
    return (spread(weight * slope, rows, logits),)


def check_tokens(action: Tensor, mask: Tensor | None, rows: Tensor | slice, size: int) -> None:
    """Raises ``ValueError`` naming the first valid token of ``rows`` outside [0, size).

    ``action`` and ``mask`` are ``[N, T]``. Waits for the device.
    """
    kept_mask = None if mask is None else mask[rows]
    check_actions(action[rows], size, rows=rows, mask=kept_mask)


def _blocks(rows: Tensor | slice, logits: Tensor) -> Iterator[Tensor | slice]:
    """The rows, cut so that the float32 logits of a block stay near ``BLOCK_BYTES``."""
    size = max(1, BLOCK_BYTES // (4 * max(1, logits.shape[1] * logits.shape[2])))
    if isinstance(rows, slice):
        for start in range(rows.start, rows.stop, size):
            yield slice(start, min(start + size, rows.stop))
    else:
        yield from (block for block in torch.split(rows, size) if block.numel())
