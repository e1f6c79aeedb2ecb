"""Moments within groups of rows (users, contexts), without reading a group count to the host."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_same_shape
from torchrl_drpo.functional.precision import at_least_float32


def group_moments(
    values: Tensor, group: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and sample standard deviation of each row's group, row by row.

    Args:
        values: any shape; all entries together are the batch.
        group: integer ids of the same shape, any values, in any order.
        mask: ``True`` where a row counts; the others count in no group.

    Returns:
        Two tensors of the shape of ``values``, detached, in float32 or better. The standard
        deviation of a group with one valid row is 0, as are both numbers of an empty group.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> group_moments(torch.tensor([1.0, 5.0, 3.0]), torch.tensor([7, -2, 7]))
    (tensor([2., 5., 2.]), tensor([1.4142, 0.0000, 1.4142]))
    """
    mean, _, std = _centred(values, group, mask)
    return mean, std


def group_centred(values: Tensor, group: Tensor, mask: Tensor | None = None) -> Tensor:
    """Values minus the mean of their group, exact to the rounding of the differences.

    Args:
        values: any shape; all entries together are the batch.
        group: integer ids of the same shape.
        mask: ``True`` where a row counts; the others are 0.

    Returns:
        A tensor of the shape of ``values``, detached, in float32 or better.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> group_centred(torch.tensor([1e7, 5.0, 1e7 + 3]), torch.tensor([7, -2, 7]))
    tensor([-1.5000,  0.0000,  1.5000])
    """
    return _centred(values, group, mask)[1]


def _centred(values: Tensor, group: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, distance from it and standard deviation, row by row."""
    check_same_shape(values=values, group=group, mask=mask)
    shape = values.shape
    values = at_least_float32(values.detach()).flatten()
    counted = torch.ones_like(values) if mask is None else mask.flatten().to(values.dtype)
    values = torch.where(counted > 0, values, 0.0)
    segment = _segments(group.flatten())

    def total(per_row: Tensor) -> Tensor:
        # One slot a row is enough for any number of groups, so no size is read back.
        return torch.zeros_like(per_row).scatter_add_(0, segment, per_row)[segment]

    count = total(counted)
    mean = total(values) / count.clamp_min(1.0)
    apart = counted * (values - mean)
    # A mean near 1e7 is off by up to a half, so what it leaves has a small mean of its own.
    apart = counted * (apart - total(apart) / count.clamp_min(1.0))
    std = (total(apart.square()) / (count - 1.0).clamp_min(1.0)).sqrt()
    return mean.reshape(shape), apart.reshape(shape), std.reshape(shape)


def group_minimum(values: Tensor, group: Tensor, mask: Tensor | None = None) -> Tensor:
    """Smallest valid value of each row's group, row by row; ``inf`` where none is valid.

    Args:
        values: any shape; all entries together are the batch.
        group: integer ids of the same shape.
        mask: ``True`` where a row counts.

    Returns:
        A tensor of the shape of ``values``, detached, in float32 or better.

    Raises:
        ValueError: if the shapes differ.

    >>> import torch
    >>> group_minimum(torch.tensor([1.0, 5.0, 3.0]), torch.tensor([7, -2, 7]))
    tensor([1., 5., 1.])
    """
    check_same_shape(values=values, group=group, mask=mask)
    flat = at_least_float32(values.detach()).flatten()
    if mask is not None:
        flat = torch.where(mask.flatten(), flat, torch.inf)
    segment = _segments(group.flatten())
    smallest = torch.full_like(flat, torch.inf).scatter_reduce_(0, segment, flat, "amin")
    return smallest[segment].reshape(values.shape)


def _segments(group: Tensor) -> Tensor:
    """Ids 0, 1, 2, ... in the order of the group ids, row by row."""
    ordered, order = group.sort(stable=True)
    starts = torch.zeros_like(order)
    starts[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(order).scatter_(0, order, starts.cumsum(0))
