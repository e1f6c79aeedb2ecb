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
