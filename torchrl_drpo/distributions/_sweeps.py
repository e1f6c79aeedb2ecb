"""One pass over the catalogue for each question: argmax, top-k, a sample, the entropy.

All take ``hidden [N, D]``, ``items [V, D]``, ``bias [V] | None`` and ``1 / temperature`` and hold
one tile of scores at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchrl_drpo_kernels.linear_log_prob.reference import accumulation_dtype

from torchrl_drpo.distributions._tiles import finite_or_zero, row_blocks, score_tiles


def _blocks(hidden: Tensor, items: Tensor) -> Any:
    return row_blocks(hidden.shape[0], items.shape[0], hidden.device)


@torch.no_grad()
def argmax(
    hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float
) -> Tensor:
    """Index of the largest score of each row, int64 ``[N]``; the lowest index of equals."""
    out = torch.zeros(hidden.shape[0], dtype=torch.long, device=hidden.device)
    for rows in _blocks(hidden, items):
        best: Tensor | None = None
        for tile, scores in score_tiles(hidden[rows], items, bias, inverse_temperature):
            value, index = scores.max(-1)
            if best is None:
                best, out[rows] = value, index
            else:
                out[rows] = torch.where(value > best, index + tile.start, out[rows])
                best = torch.maximum(best, value)
    return out


@torch.no_grad()
def topk(
    hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float, *, k: int
) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``[N, k]`` and indices ``[N, k]`` of the largest scores, descending."""
    values = hidden.new_empty((hidden.shape[0], k), dtype=accumulation_dtype(hidden.dtype))
    indices = torch.empty((hidden.shape[0], k), dtype=torch.long, device=hidden.device)
    for rows in _blocks(hidden, items):
        lse = values.new_full((rows.stop - rows.start,), -torch.inf)
        top, where = values[rows, :0], indices[rows, :0]
        for tile, scores in score_tiles(hidden[rows], items, bias, inverse_temperature):
            lse = torch.logaddexp(lse, scores.logsumexp(-1))
            value, index = scores.topk(min(k, scores.shape[-1]), sorted=False)
            top = torch.cat([top, value], -1)
            where = torch.cat([where, index + tile.start], -1)
            top, keep = top.topk(min(k, top.shape[-1]))
            where = where.gather(-1, keep)
        values[rows], indices[rows] = top - lse[:, None], where
    return values, indices


@torch.no_grad()
def sample(
    hidden: Tensor,
    items: Tensor,
    bias: Tensor | None,
    inverse_temperature: float,
    *,
    num_samples: int,
) -> Tensor:
    """Draws ``num_samples`` items a row, int64 ``[N, num_samples]``.

    Gumbel-max over the tiles (a tile's score is its logsumexp) and the inverse of the cumulative
    distribution within a tile: the same law as Gumbel-max over the items, for two random numbers
    a tile instead of one an item, and without float32 noise deciding among a million items.
    """
    out = torch.zeros((hidden.shape[0], num_samples), dtype=torch.long, device=hidden.device)
    for rows in _blocks(hidden, items):
        best: Tensor | None = None
        for tile, scores in score_tiles(hidden[rows], items, bias, inverse_temperature):
            shift = finite_or_zero(scores.amax(-1, keepdim=True))
            cumulative = (scores - shift).exp_().cumsum(-1)
            total = cumulative[:, -1:]
            uniform = torch.rand(
                (scores.shape[0], num_samples), dtype=scores.dtype, device=scores.device
            )
            inside = torch.searchsorted(cumulative, uniform * total, right=True)
            inside = inside.clamp_max_(scores.shape[-1] - 1) + tile.start
            gumbel = -torch.empty_like(uniform).exponential_().log_()
            race = gumbel + (total.log() + shift)
            if best is None:
                best, out[rows] = race, inside
            else:
                out[rows] = torch.where(race > best, inside, out[rows])
                best = torch.maximum(best, race)
    return out


def entropy(
    hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float
) -> Tensor:
    """Entropy of each row in nats, ``[N]``; differentiable, the backward walks the tiles again."""
    value: Tensor = _Entropy.apply(hidden, items, bias, inverse_temperature)
    return value


class _Entropy(torch.autograd.Function):
    r"""H = lse - sum_j p_j z_j, with dH/dz_j = -p_j (log p_j + H)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float
    ) -> Tensor:
        dtype = accumulation_dtype(hidden.dtype)
        lse = hidden.new_empty(hidden.shape[0], dtype=dtype)
        out = torch.empty_like(lse)
        for rows in _blocks(hidden, items):
            top = hidden.new_full((rows.stop - rows.start, 1), -torch.inf, dtype=dtype)
            mass, moment = torch.zeros_like(top), torch.zeros_like(top)
            for _, scores in score_tiles(hidden[rows], items, bias, inverse_temperature):
                new = torch.maximum(top, scores.amax(-1, keepdim=True))
                shift, scale = finite_or_zero(new), (top - finite_or_zero(new)).exp()
                weight = (scores - shift).exp()
                mass = mass * scale + weight.sum(-1, keepdim=True)
                moment = moment * scale + (weight * _finite(scores)).sum(-1, keepdim=True)
                top = new
            lse[rows] = (finite_or_zero(top) + mass.log())[:, 0]
            out[rows] = lse[rows] - (moment / mass)[:, 0]
        ctx.save_for_backward(hidden, items, bias, lse, out)
        ctx.inverse_temperature = inverse_temperature
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, items, bias, lse, out = ctx.saved_tensors
        d_hidden = torch.zeros(hidden.shape, dtype=lse.dtype, device=lse.device)
        d_items = torch.zeros(items.shape, dtype=lse.dtype, device=lse.device)
        d_bias = lse.new_zeros(items.shape[0])
        for rows in _blocks(hidden, items):
            row = hidden[rows].to(lse.dtype)
            for tile, scores in score_tiles(hidden[rows], items, bias, ctx.inverse_temperature):
                log_prob = scores.sub_(lse[rows, None])
                slope = log_prob.exp() * (_finite(log_prob) + out[rows, None])
                slope *= -ctx.inverse_temperature * grad[rows, None]
                d_hidden[rows] += slope @ items[tile].to(lse.dtype)
                d_items[tile] += slope.T @ row
                d_bias[tile] += slope.sum(0)
        return (
            d_hidden.to(hidden.dtype),
            d_items.to(items.dtype),
            None if bias is None else d_bias.to(bias.dtype),
            None,
        )


def _finite(scores: Tensor) -> Tensor:
    """Excluded items have score -inf and probability 0; 0 * -inf must count as 0."""
    return scores.masked_fill(scores == -torch.inf, 0.0)
