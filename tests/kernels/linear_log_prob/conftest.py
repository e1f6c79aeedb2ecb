"""Tiles that are small enough for small problems to have several."""

from __future__ import annotations

import pytest
import torch
from torchrl_drpo_kernels._common import HAS_TRITON
from torchrl_drpo_kernels.linear_log_prob import tiles


@pytest.fixture
def small_tiles(monkeypatch, device):
    """Small, ragged tiles: several of each kind at these sizes."""
    monkeypatch.setattr(tiles, "TILE_ROWS", 32)
    monkeypatch.setattr(tiles, "TILE_ITEMS", 48)
    if HAS_TRITON:
        from torchrl_drpo_kernels.linear_log_prob import kernel_order, products

        monkeypatch.setattr(kernel_order, "BLOCK", 8)
        monkeypatch.setattr(kernel_order, "WALK", 32)
        sizes = {"TILE_ROWS": 32, "BUFFER": 64 * 300, "MIN_ITEMS": 16, "BLOCK": 16}
        for name, value in sizes.items():
            monkeypatch.setattr(products, name, value)
    if device.type != "cuda":
        yield
        return
    torch.set_float32_matmul_precision("high")  # float32 goes through the kernels
    yield
    torch.set_float32_matmul_precision("highest")
