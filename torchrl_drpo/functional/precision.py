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


def as_numbers(values: Tensor) -> Tensor:
    """A signal as it was logged, in a float type that holds it: clicks, counts and half floats.

    Whole numbers beyond 2^24 need float64, where the device has any.

    >>> import torch
    >>> as_numbers(torch.tensor([True, False]))
    tensor([1., 0.])
    >>> as_numbers(torch.tensor([2**24 + 1])).item()
    16777217.0
    """
    dtype = values.dtype
    if dtype == torch.float32 or dtype == torch.float64:
        return values
    if dtype in (torch.int32, torch.int64) and values.device.type != "mps":
        return values.double()
    return values.float()
