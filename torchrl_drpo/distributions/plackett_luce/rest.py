r"""What a catalogue's items hold together when a few of them are gone, exactly.

With the sum over the items j that are not in gone[n]:

    rest[n] = log sum_j exp(z[n, j]),    d rest[n] / d z[n, j] = exp(z[n, j] - rest[n])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchrl_drpo_kernels.linear_log_prob.reference import accumulation_dtype

from torchrl_drpo.distributions._expectations import _Gradient
from torchrl_drpo.distributions._tiles import finite_or_zero, row_blocks, score_tiles


def catalogue_rest(
    hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float, gone: Tensor
) -> Tensor:
    """Log-sum-exp of each row's scores without some items, ``[N]``; -inf where none is left.

    Args:
        hidden: ``[N, D]``.
        items: ``[V, D]``.
        bias: ``[V]`` or ``None``.
        inverse_temperature: of the scores.
        gone: item numbers, int64 ``[N, k]``; -1 for none.

    >>> catalogue_rest(torch.zeros(1, 2), torch.eye(2), None, 1.0, torch.tensor([[0, -1]])).exp()
    tensor([1.])
    """
    return _Rest.apply(hidden, items, bias, inverse_temperature, gone)


class _Rest(torch.autograd.Function):
    """Walks the tiles once forward, and once more backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        items: Tensor,
        bias: Tensor | None,
        inverse_temperature: float,
        gone: Tensor,
    ) -> Tensor:
        policy = (hidden, items, bias, inverse_temperature)
        rest = hidden.new_full(
            (hidden.shape[0],), -torch.inf, dtype=accumulation_dtype(hidden.dtype)
        )
        for rows in row_blocks(hidden.shape[0], items.shape[0], hidden.device):
            for _, scores in _tiles(rows, policy, gone):
                rest[rows] = torch.logaddexp(rest[rows], scores.logsumexp(-1))
        ctx.save_for_backward(hidden, items, bias, gone, rest)
        ctx.inverse_temperature = inverse_temperature
        return rest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, items, bias, gone, rest = ctx.saved_tensors
        policy = (hidden, items, bias, ctx.inverse_temperature)
        own = _Gradient(*policy, dtype=rest.dtype)
        for rows in row_blocks(hidden.shape[0], items.shape[0], hidden.device):
            shift = finite_or_zero(rest[rows, None])
            for tile, scores in _tiles(rows, policy, gone):
                own.add(rows, tile, (scores - shift).exp() * grad[rows, None])
        return (*own.result(), None)


def _tiles(rows: slice, policy: tuple[Any, ...], gone: Tensor) -> Any:
    """Yields ``(items, scores)``, -inf for the items that are gone."""
    hidden, *rest = policy
    for tile, scores in score_tiles(hidden[rows], *rest):
        row, place = ((gone[rows] >= tile.start) & (gone[rows] < tile.stop)).nonzero().unbind(-1)
        scores[row, gone[rows][row, place] - tile.start] = -torch.inf
        yield tile, scores
