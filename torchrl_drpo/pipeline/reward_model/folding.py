"""Whose rows a reward model must not have seen: the user's, or the row's alone.

Rows of a user resemble each other in more than their states show, so by default all of them lie in
one fold. Where the state *is* the user, as in a context column with the user's id, nothing is left
that states do not show, and a model that saw none of a user's rows knows nothing of that state:
there each row is alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.rewards import assign_folds


def log_folds(
    count: int, user: Tensor | None, folds: int, *, seed: int = 0, remedy: str = ""
) -> Tensor:
    """The fold of each of ``count`` training rows, ``[N]``.

    Args:
        count: N.
        user: of each row, as :func:`fold_groups` has it.
        folds: of the reward model.
        seed: of the draw.
        remedy: what else may be asked for where there are too few, for the message.

    Raises:
        ValueError: for fewer users (or rows, where ``user`` is ``None``) than folds.

    Example:
        >>> log_folds(4, torch.tensor([3, 8, 3, 3]), 2).bincount().sort().values
        tensor([1, 3])
    """
    there, what = (count, "rows") if user is None else (len(user.unique()), "users")
    if there < folds:
        raise ValueError(
            f"the reward model's {folds} folds need as many {what}, but the training rows have "
            f"{there}; ask for {remedy}objectives that follow no reward model (positive-only, say)"
        )
    return assign_folds(count, folds, group=user, seed=seed)


def fold_groups(data: SplitLog) -> Tensor | None:
    """The user of every training row, ``[N]``, where folds are of users; ``None`` for rows."""
    if data.log.schema.user is None:
        return None
    train = data.log.split("train")
    user = train.column("user")
    if data.context_sizes and names_user(user, train.column(("observation", "context"))):
        return None
    return user


def names_user(user: Tensor, context: Tensor) -> bool:
    """Whether some context column has one value for each user, and another for each other.

    Args:
        user: numbers, ``[N]``.
        context: values of each column, ``[N, C]``.

    Example:
        >>> user = torch.tensor([5, 5, 7, 9])
        >>> names_user(user, torch.tensor([[0, 3], [1, 3], [1, 4], [2, 0]]))
        True
        >>> names_user(user, torch.tensor([[0, 3], [1, 3], [1, 4], [2, 4]]))
        False
    """
    known, number = torch.unique(user, return_inverse=True)
    for column in context.unbind(-1):
        values, value = torch.unique(column, return_inverse=True)
        if len(values) != len(known):
            continue
        # As many values as users: one each where no user has two.
        low, high = (
            value.new_empty(len(known)).scatter_reduce_(0, number, value, way, include_self=False)
            for way in ("amin", "amax")
        )
        if torch.equal(low, high) and len(low.unique()) == len(known):
            return True
    return False
