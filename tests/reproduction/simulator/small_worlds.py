"""Small simulated worlds, and batches of their logs as the training loop hands them to a rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble
from torchrl_drpo.reproduction.simulator.worlds import Setup, Worlds

#: As JSON data: what a cell's settings hold.
SETUP: dict[str, Any] = {
    "setting": "table",
    "scenario": "extreme",
    "log_size": 300,
    "users": 9,
    "changes": {"action_dim": 12, "num_items": 150, "expert_neighbours": 5},
}
SEEDS, ROWS = (3, 11), 40


def make_worlds(seeds: Sequence[int] = SEEDS) -> Worlds:
    return Worlds(Setup(**SETUP), seeds)


def make_policies(worlds: Worlds) -> PolicyEnsemble:
    setting = worlds.setup.world
    return PolicyEnsemble(worlds.seeds, setting.state_dim, setting.action_dim)


def rows_of(worlds: Worlds, seed: int = 0, count: int = ROWS) -> Tensor:
    """Row numbers, ``[S, B]``."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(worlds.seeds), count)
    return torch.randint(worlds.log.shape[1], shape, generator=generator)


def batch_of(worlds: Worlds, row: Tensor) -> TensorDict:
    """Columns of one number a row, at these rows."""
    columns = {
        name: column.gather(1, row)
        for name, column in worlds.log.items()
        if column.ndim == 2 and column.is_floating_point()
    }
    return TensorDict({**columns, "row": row}, batch_size=row.shape)
