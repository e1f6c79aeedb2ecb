"""Collectives that gradients go back through, in the convention of DDP and FSDP2.

A rank's gradient of what all ranks share (a parameter) is averaged over ranks. So R times a rank's
share of a loss is what every rank differentiates, values that travel carry their gradients back as
they are, and where a rank holds rows that nobody else holds, what the others sent to them is added
up and divided by R.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.distributed.group import Ranks
from torchrl_drpo.functional.precision import at_least_float32


def gather_rows(values: Tensor, ranks: Ranks, counts: list[int]) -> Tensor:
    """The rows of all ranks, ``[sum(counts), ...]``; gradients are added up and go home."""
    return _GatherRows.apply(values, ranks, counts)


def exchange_rows(values: Tensor, ranks: Ranks, sent: list[int], received: list[int]) -> Tensor:
    """``sent[r]`` rows to each rank r, in order; back what the others sent to this one."""
    return _ExchangeRows.apply(values, ranks, sent, received)


def held_alone(parameter: Tensor, ranks: Ranks) -> Tensor:
    """A parameter of which this rank alone has these rows, used by the rows of all ranks."""
    return _HeldAlone.apply(parameter, ranks.size)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: Ranks, counts: list[int]) -> Tensor:
        ctx.ranks, ctx.counts = ranks, counts
        return ranks.gather_rows(values, counts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        exact = at_least_float32(grad)  # no sum in half precision
        return ctx.ranks.sum_rows(exact, ctx.counts).to(grad.dtype), None, None


class _ExchangeRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, ranks: Ranks, sent: list[int], received: list[int]
    ) -> Tensor:
        ctx.ranks, ctx.sent, ctx.received = ranks, sent, received
        return ranks.exchange(values, sent, received)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.ranks.exchange(grad, ctx.received, ctx.sent), None, None, None


class _HeldAlone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, size: int) -> Tensor:
        ctx.size = size
        return parameter.view_as(parameter)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / ctx.size, None
