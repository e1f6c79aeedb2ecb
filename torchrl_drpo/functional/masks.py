"""Entries that do not count, out of the way before anything is computed from the others."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.functional.precision import at_least_float32


def filled(values: Tensor, mask: Tensor | None, fill: float) -> Tensor:
    """``values`` where ``mask`` is true, ``fill`` elsewhere."""
    return values if mask is None else torch.where(mask, values, fill)


def without(scores: Tensor, exclude: Tensor) -> Tensor:
    """Scores with -inf at what must not be chosen.

    Args:
        scores: ``[N, V]``.
        exclude: indices ``[E]`` (of all rows) or ``[N, E]``; those outside ``[0, V)`` are padding.

    Example:
        >>> without(torch.zeros(1, 3), torch.tensor([2, -1, 7]))
        tensor([[0., 0., -inf]])
    """
    count = scores.shape[1]
    place = torch.where((exclude < 0) | (exclude >= count), count, exclude)
    place = place.expand(scores.shape[0], -1)
    nothing = torch.full_like(place, -torch.inf, dtype=scores.dtype)
    wider = torch.nn.functional.pad(scores, (0, 1))  # one more place, for padding
    return wider.scatter(1, place, nothing)[:, :count]


def valid_or_lowest(quality: Tensor, flat_mask: Tensor | None) -> Tensor:
    """Quality as a detached float vector in which invalid rows lie below everything."""
    quality = quality.detach() if quality.requires_grad else quality
    values = at_least_float32(quality if quality.ndim == 1 else quality.reshape(-1))
    if flat_mask is None:
        return values
    return torch.where(flat_mask, values, values.new_full((), -torch.inf))
