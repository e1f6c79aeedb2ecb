r"""Expectations under a catalogue policy whose scores never exist as a whole.

With scores z (over the temperature), p = softmax(z), and another policy's scores y or zero:

    lse    = logsumexp_j z_j
    moment = sum_j p_j (z_j - y_j)

    entropy  H(p)       = lse - moment                    (y = 0)
    divergence KL(p, q) = moment - lse + lse_q

    d moment / d z_j = p_j (1 + z_j - y_j - moment)
    d moment / d y_j = -p_j
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchrl_drpo_kernels.linear_log_prob.reference import accumulation_dtype

from torchrl_drpo.distributions._tiles import finite_or_zero, row_blocks, score_tiles

#: ``hidden [N, D]``, ``items [V, D]``, ``bias [V] | None``, ``1 / temperature``.
Policy = tuple[Tensor, Tensor, "Tensor | None", float]


def expected_score(
    hidden: Tensor,
    items: Tensor,
    bias: Tensor | None,
    inverse_temperature: float,
    other: Policy | None = None,
) -> tuple[Tensor, Tensor]:
    """``lse`` and ``moment`` of each row, ``[N]``; differentiable once in both policies.

    >>> lse, moment = expected_score(torch.zeros(1, 2), torch.eye(2), None, 1.0)
    >>> round((lse - moment).exp().item(), 4)  # two equal items: an entropy of log 2
    2.0
    """
    policy = (hidden, items, bias, inverse_temperature)
    lse, moment = _ExpectedScore.apply(*policy, *(other or (None, None, None, None)))
    return lse, moment


class _ExpectedScore(torch.autograd.Function):
    """Walks the tiles once forward with running sums, and once more backward."""

    @staticmethod
    def forward(ctx: Any, *policies: Any) -> tuple[Tensor, Tensor]:
        hidden = policies[0]
        dtype = accumulation_dtype(hidden.dtype)
        lse = hidden.new_empty(hidden.shape[0], dtype=dtype)
        out = torch.empty_like(lse)
        for rows in row_blocks(hidden.shape[0], policies[1].shape[0], hidden.device):
            top = lse.new_full((rows.stop - rows.start, 1), -torch.inf)
            mass, moment = torch.zeros_like(top), torch.zeros_like(top)
            for _, scores, gap in _paired_tiles(rows, policies):
                new = torch.maximum(top, scores.amax(-1, keepdim=True))
                shift = finite_or_zero(new)
                rescale = (top - shift).exp()
                weight = (scores - shift).exp()
                mass = mass * rescale + weight.sum(-1, keepdim=True)
                moment = moment * rescale + (weight * gap).sum(-1, keepdim=True)
                top = new
            lse[rows] = (finite_or_zero(top) + mass.log())[:, 0]
            out[rows] = (moment / mass)[:, 0]
        ctx.save_for_backward(*policies[:3], *policies[4:7], lse, out)
        ctx.inverse_temperatures = policies[3], policies[7]
        return lse, out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_lse: Tensor, grad: Tensor) -> tuple[Tensor | None, ...]:
        *saved, lse, moment = ctx.saved_tensors
        first, second = ctx.inverse_temperatures
        policies = (*saved[:3], first, *saved[3:], second)
        own = _Gradient(*policies[:4], dtype=lse.dtype)
        theirs = None if policies[4] is None else _Gradient(*policies[4:], dtype=lse.dtype)
        for rows in row_blocks(lse.shape[0], policies[1].shape[0], lse.device):
            g, g_lse, mean = grad[rows, None], grad_lse[rows, None], moment[rows, None]
            for tile, scores, gap in _paired_tiles(rows, policies):
                p = (scores - lse[rows, None]).exp()
                own.add(rows, tile, p * (g * (1 + gap - mean) + g_lse))
                if theirs is not None:
                    theirs.add(rows, tile, p * -g)
        rest = (None,) * 4 if theirs is None else theirs.result()
        return (*own.result(), *rest)


def _paired_tiles(rows: slice, policies: tuple[Any, ...]) -> Any:
    """Yields ``(items, z, z - y)``; the gap is 0 for items that the first policy excludes."""
    tiles = score_tiles(policies[0][rows], *policies[1:4])
    if policies[4] is None:
        for tile, scores in tiles:
            yield tile, scores, scores.masked_fill(scores == -torch.inf, 0.0)
    else:
        others = score_tiles(policies[4][rows], *policies[5:])
        for (tile, scores), (_, other) in zip(tiles, others, strict=True):
            yield tile, scores, (scores - other).masked_fill(scores == -torch.inf, 0.0)


class _Gradient:
    """Collects what slopes of scores send into one policy."""

    def __init__(
        self,
        hidden: Tensor,
        items: Tensor,
        bias: Tensor | None,
        inverse_temperature: float,
        dtype: torch.dtype,
    ) -> None:
        self.hidden, self.items, self.bias = hidden, items, bias
        self.inverse_temperature = inverse_temperature
        self.d_hidden = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        self.d_items = torch.zeros(items.shape, dtype=dtype, device=hidden.device)
        self.d_bias = self.d_items.new_zeros(items.shape[0])

    def add(self, rows: slice, tile: slice, slope: Tensor) -> None:
        """Adds the part of one tile; ``slope`` is d loss / d score, ``[rows, items]``."""
        slope = slope * self.inverse_temperature
        self.d_hidden[rows].addmm_(slope, self.items[tile].to(slope.dtype))
        self.d_items[tile].addmm_(slope.T, self.hidden[rows].to(slope.dtype))
        self.d_bias[tile] += slope.sum(0)

    def result(self) -> tuple[Tensor, Tensor, Tensor | None, None]:
        """Gradients of hidden, items, bias and the temperature, in the inputs' types."""
        d_bias = None if self.bias is None else self.d_bias.to(self.bias.dtype)
        return self.d_hidden.to(self.hidden.dtype), self.d_items.to(self.items.dtype), d_bias, None
