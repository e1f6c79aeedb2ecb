"""Random numbers that slates are made of."""

from __future__ import annotations

import torch
from torch import Tensor


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
