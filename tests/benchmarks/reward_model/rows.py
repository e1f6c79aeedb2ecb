"""Rows of ratings as variants of a reward model read them."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.reproduction.randomised.learning import state_rows
from torchrl_drpo.reproduction.randomised.ratings import Ratings, Rows

#: Prior rows of smoothed means.
PRIOR_ROWS = 5.0


def all_pairs(ratings: Ratings, user: Tensor) -> TensorDict:
    """A row for each of these users with each item, users first."""
    pairs = state_rows(user.repeat_interleave(ratings.num_items))
    pairs["action"] = torch.arange(ratings.num_items).repeat(len(user))
    return pairs


def smoothed_means(ratings: Ratings, of: str, rows: Tensor) -> Tensor:
    """What the rewards of some rows average to by item or user, less the mean of all, shrunk.

    Args:
        ratings: the file's.
        of: ``"item"`` or ``"user"``.
        rows: of the training rows, bool ``[N]``.
    """
    train = ratings.train[rows]
    index, size = (
        (train.item, ratings.num_items) if of == "item" else (train.user, ratings.num_users)
    )
    total = torch.zeros(size).index_add_(0, index, train.quality - train.quality.mean())
    return total / (torch.bincount(index, minlength=size) + PRIOR_ROWS)


def with_histories(rows: TensorDict, of: Rows) -> TensorDict:
    """Rows with the user's self-selected ratings, but for the row's own, and their quality."""
    by_user = torch.argsort(of.user, stable=True)
    count = torch.bincount(of.user)
    first = count.cumsum(0) - count
    place = torch.arange(int(count.max()))
    user = rows["observation", "context"][:, 0]
    row = by_user[(first[user].unsqueeze(1) + place).clamp(max=len(of) - 1)]
    there = (place < count[user].unsqueeze(1)) & (of.item[row] != rows["action"].unsqueeze(1))
    order = torch.argsort(there.int(), dim=1, stable=True)  # gaps are on the left
    history = of.item[row].masked_fill(~there, -1).gather(1, order)
    quality = of.quality[row].masked_fill(~there, 0.0).gather(1, order)
    rows = rows.clone()
    rows["observation", "history"], rows["observation", "history_feedback"] = history, quality
    return rows
