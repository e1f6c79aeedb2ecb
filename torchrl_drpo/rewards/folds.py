"""Folds of cross-fitting: drawn, or given and checked."""

from __future__ import annotations

import torch
from tensordict.utils import NestedKey
from torch import Tensor


def assign_folds(count: int, folds: int, *, group: Tensor | None = None, seed: int = 0) -> Tensor:
    """A fold for each row: at random, and of equal sizes (in rows, or in groups).

    Args:
        count: number of rows N.
        folds: number of folds K, at least 2.
        group: ids of any kind, ``[N]`` or ``[N, 1]``, such as the user's: all rows of a group get
            one fold.
        seed: of the generator.

    Returns:
        int64 ``[N]`` in ``[0, K)``, on the CPU.

    Raises:
        ValueError: for fewer than 2 folds, or fewer rows (or groups) than folds.

    Examples:
        >>> assign_folds(6, 2).bincount()
        tensor([3, 3])
        >>> fold = assign_folds(6, 2, group=torch.tensor([7, 7, 7, 9, 9, 9]))
        >>> sorted(fold.tolist()), fold[0] == fold[2]
        ([0, 0, 0, 1, 1, 1], tensor(True))
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    what, number, of_row = "rows", count, None
    if group is not None:
        if group.numel() != count:
            raise ValueError(f"expected one group id a row, {count}, got {tuple(group.shape)}")
        values, of_row = torch.unique(group.reshape(-1).cpu(), return_inverse=True)
        what, number = "groups", len(values)
    if number < folds:
        raise ValueError(f"{folds} folds need as many {what}, got {number}; ask for fewer folds")
    order = torch.randperm(number, generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(number, dtype=torch.long)
    fold[order] = torch.arange(number) % folds
    return fold if of_row is None else fold[of_row]


def whole_folds(fold: Tensor, key: NestedKey, folds: int) -> Tensor:
    """The folds as they are, once each of them has rows and no row is outside."""
    if fold.is_floating_point() or (fold < 0).any():
        raise ValueError(
            f"{key!r} must hold whole numbers in [0, {folds}), the fold of each row, got "
            f"{fold.dtype} from {fold.min().item()}; remove the entry to have it drawn"
        )
    sizes = torch.bincount(fold.cpu(), minlength=folds)
    if len(sizes) != folds or not (sizes > 0).all():
        raise ValueError(f"expected rows in each of {folds} folds, found {sizes.tolist()}")
    return fold


def checked_folds(fold: Tensor, folds: int, rows: int) -> Tensor:
    """The folds, once every model is known to have rows to be fitted to."""
    if fold.shape != (rows,) or fold.is_floating_point():
        raise ValueError(
            f"fold must hold one integer a row, shape [{rows}], got {fold.dtype} "
            f"{tuple(fold.shape)}"
        )
    if fold.min() < 0 or fold.max() >= folds:
        outside = int(((fold < 0) | (fold >= folds)).nonzero()[0])
        raise ValueError(
            f"fold must lie in [0, {folds}) but row {outside} holds {int(fold[outside])}"
        )
    largest = fold.bincount().max()
    if rows - int(largest) < 2:
        raise ValueError(
            f"one fold holds {int(largest)} of {rows} rows, which leaves its model fewer than two; "
            "spread them more evenly"
        )
    return fold
