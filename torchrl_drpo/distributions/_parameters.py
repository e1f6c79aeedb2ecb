"""What a catalogue distribution is given: checked, of one type, laid out as the kernels want it."""

from __future__ import annotations

import torch
from torch import Tensor


def dense(values: Tensor) -> Tensor:
    """The kernel wants the numbers of a row side by side, and they nearly always lie so."""
    return values if values.stride(-1) == 1 else values.contiguous()


def integers(action: Tensor) -> Tensor:
    """Of the integer types the kernel takes two, side by side."""
    return (action if action.dtype == torch.int32 else action.long()).contiguous()


def of_one_type(hidden: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Under autocast, the type that a linear layer would compute in; else what was given."""
    kind = hidden.device.type
    if hidden.dtype == items.dtype or not torch.is_autocast_enabled(kind):
        return hidden, items
    dtype = torch.get_autocast_dtype(kind)
    return hidden.to(dtype), items.to(dtype)


def check_parameters(
    hidden: Tensor, items: Tensor, bias: Tensor | None, temperature: float
) -> None:
    """Raises ``ValueError`` unless these make a categorical over items."""
    if hidden.ndim < 1 or items.ndim != 2 or not 0 < hidden.shape[-1] == items.shape[-1]:
        raise ValueError(
            "expected hidden [*B, D] and items [V, D] of one width D above 0, got hidden "
            f"{tuple(hidden.shape)} and items {tuple(items.shape)}"
        )
    if items.shape[0] == 0:
        raise ValueError("the catalogue is empty: items has shape " + str(tuple(items.shape)))
    if not hidden.is_floating_point() or hidden.dtype != items.dtype:
        raise ValueError(
            f"hidden and items must be floating and of one type, got {hidden.dtype} and "
            f"{items.dtype}; cast one of them"
        )
    if bias is not None and bias.shape != items.shape[:1]:
        raise ValueError(
            f"bias must have one entry an item, shape {tuple(items.shape[:1])}, "
            f"got {tuple(bias.shape)}"
        )
    if isinstance(temperature, Tensor) or not 0 < temperature < float("inf"):
        raise ValueError(
            f"temperature must be a finite Python number above 0, got {temperature!r}; "
            "a learned temperature multiplies hidden and bias instead"
        )
