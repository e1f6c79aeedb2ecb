"""Tile shapes of the Triton kernels: a static table, never autotuned on the number of rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo_kernels._common import INTERPRETED

#: Widest embedding that the kernels take: float32 accumulators of more would not fit.
MAX_WIDTH = 256

#: Rows that one program merges; divides every tile's rows.
MERGED_ROWS = 16


class Tile(NamedTuple):
    """Rows and items of a tile, warps of its program, depth of its load pipeline."""

    rows: int
    items: int
    warps: int
    stages: int


def architecture(tensor: Tensor) -> str:
    """``"sm_80"``, ``"sm_90"``, ``"sm_100"``, ``"gfx942"``; ``"interpreter"`` on a CPU."""
    if INTERPRETED or not tensor.is_cuda:
        return "interpreter"
    if torch.version.hip is not None:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(tensor.device)
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80")


def programs(tensor: Tensor) -> int:
    """Programs of the forward sweep: one a multiprocessor."""
    if INTERPRETED or not tensor.is_cuda:
        return 3
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


def forward_tile(arch: str, width: int, itemsize: int, need_mean: bool, descriptors: bool) -> Tile:
    """Tile of the forward sweep over items ``width`` wide, ``itemsize`` bytes a number."""
    return Tile(32, 32, 4, 2)


def items_tile(arch: str, width: int, itemsize: int, descriptors: bool) -> Tile:
    """Tile of the items' gradient."""
    return Tile(32, 32, 4, 2)
