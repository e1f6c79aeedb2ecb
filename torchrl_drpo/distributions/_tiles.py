"""Walks a catalogue's ``[rows, V]`` scores tile by tile, so that they never exist as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchrl_drpo_kernels.linear_log_prob import reference

#: Scores held at once: 4 MiB of float32 stay in a CPU's cache; an accelerator wants fewer,
#: larger launches (128 MiB). Assign to trade memory for time.
TILE_ELEMENTS = {"cpu": 1 << 20, "accelerator": 1 << 25}

#: Items a tile at most; rows fill the rest of the budget.
TILE_ITEMS = 8192


def row_blocks(n_rows: int, n_items: int, device: torch.device) -> Iterator[slice]:
    """Slices of rows whose tiles fit the budget.

    >>> [block.stop for block in row_blocks(300, 8192, torch.device("cpu"))]
    [128, 256, 300]
    """
    budget = TILE_ELEMENTS["cpu" if device.type == "cpu" else "accelerator"]
    step = max(1, budget // max(1, min(n_items, TILE_ITEMS)))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def score_tiles(
    hidden: Tensor, items: Tensor, bias: Tensor | None, inverse_temperature: float
) -> Iterator[tuple[slice, Tensor]]:
    """Yields ``(item slice, scores [rows, items of the tile])``, at least float32."""
    for start in range(0, items.shape[0], TILE_ITEMS):
        tile = slice(start, min(start + TILE_ITEMS, items.shape[0]))
        part = None if bias is None else bias[tile]
        yield tile, reference.scaled_logits(hidden, items[tile], part, inverse_temperature)


def finite_or_zero(maximum: Tensor) -> Tensor:
    """A running maximum to subtract: zero where every score so far is -inf (excluded items)."""
    return torch.where(maximum == -torch.inf, 0.0, maximum)
