"""Rows by how often their user, or their item, was logged before: whom does a policy serve?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NEW = "new"


class Bucket(NamedTuple):
    """Rows whose user, or item, was logged about as often.

    Attributes:
        name: ``"new"`` for never, else as given.
        least: fewest times that one of it was logged in training.
        most: most times.
        rows: which rows these are, bool ``[N]``.
    """

    name: str
    least: int
    most: int
    rows: Tensor

    def __str__(self) -> str:
        if self.most == 0:
            return self.name
        span = f"{self.least:,}" if self.least == self.most else f"{self.least:,} to {self.most:,}"
        return f"{self.name} ({span})"


def frequency_buckets(
    count: Tensor, names: tuple[str, ...] = ("low", "medium", "high")
) -> list[Bucket]:
    """Rows in about equal parts by how often theirs was logged; those of never are apart.

    Equal counts are never torn apart, so that parts may differ in size, and one may be missing.

    Args:
        count: how often the row's user (or item) was logged in training, int ``[N]``.
        names: of the parts, from rare to frequent.

    Returns:
        The buckets that have rows, from rare to frequent.

    Example:
        >>> for bucket in frequency_buckets(torch.tensor([0, 1, 1, 7, 9, 30, 30])):
        ...     print(bucket, int(bucket.rows.sum()))
        new 1
        low (1) 2
        medium (7 to 9) 2
        high (30) 2
    """
    known = count > 0
    out = [Bucket(NEW, 0, 0, ~known)] if not known.all() else []
    if not known.any():
        return out
    ordered = count[known].sort().values
    # The part of a count is that of the middle of its rows in order.
    values, sizes = ordered.unique(return_counts=True)
    middle = sizes.cumsum(0).double() - sizes.double() / 2
    part = (middle * len(names) / len(ordered)).long().clamp(max=len(names) - 1)
    of_row = part[torch.searchsorted(values, count.clamp(min=int(values[0])))]
    for number, name in enumerate(names):
        mine = values[part == number]
        if len(mine):
            rows = known & (of_row == number)
            out.append(Bucket(name, int(mine[0]), int(mine[-1]), rows))
    return out
