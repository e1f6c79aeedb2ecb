"""The one rule on dtypes: rules and reductions run in float32 or better."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """``values`` in float32 if they were integers or a shorter float, unchanged otherwise.

    >>> import torch
    >>> at_least_float32(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    >>> at_least_float32(torch.zeros(2, dtype=torch.float64)).dtype
    torch.float64
    """
    if values.dtype in (torch.float32, torch.float64):
        return values
    return values.to(torch.promote_types(values.dtype, torch.float32))
