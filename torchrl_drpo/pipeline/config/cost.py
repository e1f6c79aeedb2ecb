"""The settings of ``drpo cost``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CostConfig:
    """Print what a training step among many GPUs costs on paper: bytes, operations, time.

    Attributes:
        ranks: GPUs in all.
        rows: rows of the batch on each.
        items: size of the catalogue.
        dim: width of states and item embeddings.
        kappa: fraction of the rows that is kept and scored.
        item_ranks: among how many GPUs one copy of the item table is shared out.
        element: bytes of a number of a state: 4 for float32, 2 for bfloat16.
        json: print JSON instead of a table.
    """

    ranks: int = 8
    rows: int = 4096
    items: int = 1_000_000
    dim: int = 128
    kappa: float = 0.1
    item_ranks: int = 8
    element: int = 2
    json: bool = False
