"""Argument checks that say what was wrong, what was expected and what to do."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchrl_drpo.functional.host import reads_are_free

#: What every number must stay within: losses and their gradients are float32 as a rule.
LARGEST = torch.finfo(torch.float32).max


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


def check_positive(name: str, value: float | Tensor) -> None:
    """Raises ``ValueError`` unless ``value`` is a finite number above zero.

    Of a tensor where that may be looked at for free, as in the two that follow: on the CPU,
    outside of compiled and vmapped code.
    """
    number = _readable(name, value)
    # Also false for NaN; math.isfinite would stop torch.compile.
    if number is not None and not 0 < number < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {number}")


def check_fraction(name: str, value: float | Tensor) -> None:
    """Raises ``ValueError`` unless ``value`` lies in (0, 1]."""
    number = _readable(name, value)
    if number is not None and not 0 < number <= 1:
        raise ValueError(f"{name} must lie in (0, 1], got {number}")


def check_open_fraction(name: str, value: float | Tensor) -> None:
    """Raises ``ValueError`` unless ``value`` lies in (0, 1)."""
    number = _readable(name, value)
    if number is not None and not 0 < number < 1:
        raise ValueError(f"{name} must lie in (0, 1), got {number}")


def _readable(name: str, value: float | Tensor) -> float | None:
    """The number, or ``None`` for a tensor that must not be read now."""
    if not isinstance(value, Tensor):
        return value
    if value.numel() != 1:
        raise ValueError(f"{name} must be one number, got a tensor of shape {tuple(value.shape)}")
    return float(value) if reads_are_free(value) else None


def is_finite(values: Tensor) -> bool:
    """Whether the sum of all values is finite, and hence each: neither inf nor NaN leaves a sum.

    Quick, and wrong on one side: finite values may add up to more than their type holds.
    """
    return math.isfinite((values.sum() if values.ndim else values).item())


class DivergedError(ValueError):
    """A policy whose scores or probabilities are no numbers any more."""


def check_policy(name: str, values: Tensor) -> None:
    """Raises :class:`DivergedError` naming the first row of what a policy gave that is not finite.

    On an accelerator this waits for the device.
    """
    try:
        check_finite(name, values, hint="has the policy diverged?")
    except ValueError as error:
        raise DivergedError(str(error)) from None


def check_finite(name: str, values: Tensor, mask: Tensor | None = None, hint: str = "") -> None:
    """Raises ``ValueError`` naming the first row of ``values`` that is NaN or infinite.

    Rows outside ``mask`` are not looked at: padding may hold anything. On an accelerator this
    waits for the device, so callers on a hot path decide whether they want it.
    """
    if not is_finite(values):
        _check_rows(name, "be finite", values, torch.isfinite(values), mask, hint)


def check_float32_range(
    name: str, values: Tensor, mask: Tensor | None = None, hint: str = ""
) -> None:
    """Raises ``ValueError`` naming the first row of float64 ``values`` that float32 cannot hold.

    Rows outside ``mask`` are not looked at. On an accelerator this waits for the device.
    """
    if values.dtype == torch.float64:
        _check_rows(name, "lie within float32's range", values, values.abs() <= LARGEST, mask, hint)


def check_not_negative(
    name: str, values: Tensor, mask: Tensor | None = None, hint: str = ""
) -> None:
    """Raises ``ValueError`` naming the first row of ``values`` that is negative or not finite.

    Rows outside ``mask`` are not looked at. On an accelerator this waits for the device.
    """
    valid = (values >= 0) & (values <= LARGEST)  # false for NaN as well
    _check_rows(name, "be finite and at least 0", values, valid, mask, hint)


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
    _check_rows(name, "lie in (0, 1]", values, valid, mask, hint)


def _check_rows(
    name: str, wanted: str, values: Tensor, valid: Tensor, mask: Tensor | None, hint: str
) -> None:
    """Raises ``ValueError`` with the first row of ``values`` that counts and is not ``valid``."""
    if mask is not None:
        valid = valid | ~mask
    if valid.all():
        return
    row = tuple((~valid).nonzero()[0].tolist())
    where = row[0] if len(row) == 1 else row
    count = int((~valid).sum())
    raise ValueError(
        f"{name} must {wanted} but row {where} holds {values[row].item()} "
        f"({count} of {values.numel()} entries do not)" + (f"; {hint}" if hint else "")
    )
