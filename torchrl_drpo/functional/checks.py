"""Argument checks that say what was wrong, what was expected and what to do."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_same_shape(**tensors: Tensor | None) -> None:
    """Raises ``ValueError`` unless all given tensors (``None`` is skipped) have one shape."""
    shape = None
    for tensor in tensors.values():
        if tensor is None:
            continue
        if shape is None:
            shape = tensor.shape
        elif tensor.shape != shape:
            given = {name: tuple(t.shape) for name, t in tensors.items() if t is not None}
            listed = ", ".join(f"{name} {found}" for name, found in given.items())
            raise ValueError(f"expected tensors of one shape, got {listed}")


def check_positive(name: str, value: float) -> None:
    """Raises ``ValueError`` unless ``value`` is a finite number above zero."""
    if not 0 < value < math.inf:  # also false for NaN; math.isfinite would stop torch.compile
        raise ValueError(f"{name} must be a finite number above 0, got {value}")


def check_fraction(name: str, value: float) -> None:
    """Raises ``ValueError`` unless ``value`` lies in (0, 1]."""
    if not 0 < value <= 1:  # also false for NaN
        raise ValueError(f"{name} must lie in (0, 1], got {value}")


def is_finite(values: Tensor) -> bool:
    """Whether the sum of all values is finite, and hence each: neither inf nor NaN leaves a sum.

    Quick, and wrong on one side: finite values may add up to more than their type holds.
    """
    return math.isfinite((values.sum() if values.ndim else values).item())


def check_finite(name: str, values: Tensor, mask: Tensor | None = None, hint: str = "") -> None:
    """Raises ``ValueError`` naming the first row of ``values`` that is NaN or infinite.

    Rows outside ``mask`` are not looked at: padding may hold anything. On an accelerator this
    waits for the device, so callers on a hot path decide whether they want it.
    """
    if is_finite(values):
        return
    finite = torch.isfinite(values)
    if mask is not None:
        finite |= ~mask
    if not finite.all():
        bad = ~finite
        row = tuple(bad.nonzero()[0].tolist())
        where = row[0] if len(row) == 1 else row
        raise ValueError(
            f"{name} must be finite but row {where} holds {values[row].item()} "
            f"({int(bad.sum())} of {values.numel()} entries are not finite)"
            + (f"; {hint}" if hint else "")
        )


def check_probability(
    name: str, values: Tensor, mask: Tensor | None = None, hint: str = ""
) -> None:
    """Raises ``ValueError`` naming the first row of ``values`` outside (0, 1].

    Rows outside ``mask`` are not looked at. On an accelerator this waits for the device.
    """
    if mask is None and values.numel():
        low, high = torch.aminmax(values)  # NaN if any is
        if low.item() > 0 and high.item() <= 1:
            return
    valid = (values > 0) & (values <= 1)  # false for NaN as well
    if mask is not None:
        valid |= ~mask
    if not valid.all():
        row = tuple((~valid).nonzero()[0].tolist())
        where = row[0] if len(row) == 1 else row
        raise ValueError(
            f"{name} must lie in (0, 1] but row {where} holds {values[row].item()} "
            f"({int((~valid).sum())} of {values.numel()} entries are outside)"
            + (f"; {hint}" if hint else "")
        )
