"""The settings of ``drpo cost``."""

from __future__ import annotations

from dataclasses import dataclass

from torchrl_drpo.distributed.cost import Step


@dataclass(frozen=True)
class CostConfig(Step):
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

    json: bool = False
