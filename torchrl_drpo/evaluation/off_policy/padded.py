"""Columns of sequences, ``[N, L]`` with a mask: checked once, and 0 wherever nothing was logged."""

from __future__ import annotations

import torch
from torch import Tensor

#: How far the logarithm of a sure action's probability may pass 0.
_ROUNDING = 1e-5


def prefix_mask(mask: Tensor | None, shape: tuple[int, int], row: str, place: str) -> Tensor:
    """The mask as bool ``[N, L]`` on the CPU, all True by default.

    Args:
        mask: True where something was logged: from the first place of each row on, without a gap.
        shape: N rows, L places.
        row: what a row is called in messages.
        place: what a place is called.

    Raises:
        ValueError: for another shape, a row of nothing, or a gap.

    Example:
        >>> prefix_mask(torch.tensor([[1, 1], [1, 0]]), (2, 2), "session", "step")
        tensor([[ True,  True],
                [ True, False]])
    """
    if mask is None:
        return torch.ones(shape, dtype=torch.bool)
    if tuple(mask.shape) != shape:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, expected {shape}: one entry a {place}"
        )
    found = mask.detach().to("cpu", torch.bool)
    empty = (~found[:, 0]).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"{row} {empty[0]} has no {place} at its start; move what was logged to the left, and "
            f"leave out a {row} without any"
        )
    gaps = (found[:, 1:] & ~found[:, :-1]).nonzero().tolist()
    if gaps:
        first, at = gaps[0]
        raise ValueError(f"the mask of {row} {first} has a gap before {place} {at + 1}")
    return found


def padded_column(
    name: str, given: Tensor, mask: Tensor, row: str, place: str, *, density: bool = False
) -> Tensor:
    """A column as float64 ``[N, L]`` on the CPU, 0 in the padding whatever it held there.

    Args:
        name: of the column; ``log_target...`` may hold ``-inf``, ``log_...`` may not lie above 0.
        given: ``[N, L]`` or ``[N, L, 1]``.
        mask: of :func:`prefix_mask`.
        row: what a row is called in messages.
        place: what a place is called.
        density: whether logarithms are of densities, which may lie above 0.

    Raises:
        ValueError: for another shape, or a value that such a column cannot hold.
    """
    found = given.detach()
    if found.ndim == mask.ndim + 1 and found.shape[-1] == 1:
        found = found.squeeze(-1)
    if found.shape != mask.shape:
        raise ValueError(
            f"{name} has shape {tuple(given.shape)}, expected {tuple(mask.shape)}: one entry a "
            f"{place}"
        )
    found = torch.where(mask, found.to("cpu", torch.float64), 0.0)
    bad, hint = _faults(name, found, density)
    for at in bad.nonzero().tolist()[:1]:
        where = f"{row} {at[0]}" + (f", {place} {at[1]}" if len(at) > 1 else "")
        raise ValueError(f"{name} of {where} is {found[tuple(at)].item()}{hint}")
    return found


def _faults(name: str, values: Tensor, density: bool) -> tuple[Tensor, str]:
    """Where a column holds what it cannot, and why."""
    if not name.startswith("log_"):
        return ~values.isfinite(), ""
    if name.startswith("log_target"):  # -inf: the policy never does this
        bad, hint = values.isnan() | (values == torch.inf), ""
    else:
        bad = ~values.isfinite()
        hint = "; the logging policy did this, so its probability is above 0"
    if density or bad.any():
        return bad, hint
    return values > _ROUNDING, (
        "; logarithms of probabilities are at most 0: are these probabilities?"
    )
