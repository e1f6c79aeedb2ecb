"""Ratings of two kinds: of items that users chose, and of items that were shown at random.

A file has the columns

- ``user``, ``item``: ids, whole numbers or text;
- ``rating``: whole numbers from 1 to 5;
- ``exposure``: ``"self_selected"`` or ``"random"``;

in Parquet or CSV; other columns are not read. Means over the random rows are those under uniform
exposure, whoever would have chosen what: no logging policy has to be known to judge by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

COLUMNS = ("user", "item", "rating", "exposure")
SELF_SELECTED, RANDOM = "self_selected", "random"
LOWEST, HIGHEST = 1, 5
#: A rating from here on is a like.
LIKE = 4
#: Users are dealt into so many groups, of which the first choose and the others report.
GROUPS, CHOOSING_GROUPS = 30, 10


@dataclass(frozen=True)
class Rows:
    """Ratings of one kind.

    Attributes:
        user: int64 ``[N]`` in [0, U).
        item: int64 ``[N]`` in [0, V).
        rating: int64 ``[N]`` in [1, 5].
    """

    user: Tensor
    item: Tensor
    rating: Tensor

    def __len__(self) -> int:
        return len(self.user)

    @property
    def quality(self) -> Tensor:
        """``(rating - 1) / 4``, float32 ``[N]`` in [0, 1]."""
        return (self.rating - LOWEST).float() / (HIGHEST - LOWEST)

    def __getitem__(self, rows: Tensor) -> Rows:
        return Rows(self.user[rows], self.item[rows], self.rating[rows])


@dataclass(frozen=True)
class Ratings:
    """The ratings of a file.

    Attributes:
        num_users: U, all users of the file.
        num_items: V, all items of the file.
        train: self-selected ratings, all of them.
        judged: random ratings, but for those of pairs that ``train`` rates too, and of users whom
            it does not know: the first were learned, of the second nothing can be.
        known_pairs: random rows that were left out for the first reason.
        unknown_users: users who were left out for the second.
    """

    num_users: int
    num_items: int
    train: Rows
    judged: Rows
    known_pairs: int
    unknown_users: int

    @cached_property
    def group(self) -> Tensor:
        """The group of each user, int64 ``[U]``; -1 for users without rows that judge.

        Dealt at random, the same in every run: which users choose is a property of the file.
        """
        users = self.judged.user.unique()
        order = torch.randperm(len(users), generator=torch.Generator().manual_seed(0))
        group = torch.full((self.num_users,), -1)
        group[users[order]] = torch.arange(len(users)) % GROUPS
        return group

    def facts(self) -> dict[str, int]:
        """Counts for the report."""
        group = self.group[self.group >= 0]
        return {
            "users": self.num_users,
            "items": self.num_items,
            "train_rows": len(self.train),
            "judged_rows": len(self.judged),
            "choosing_users": int((group < CHOOSING_GROUPS).sum()),
            "reporting_users": int((group >= CHOOSING_GROUPS).sum()),
            "known_pairs": self.known_pairs,
            "unknown_users": self.unknown_users,
        }


def read_ratings(path: Path) -> Ratings:
    """The checked ratings of a Parquet or CSV file.

    Raises:
        ValueError: naming the file and what is wrong with it: its kind, a missing column, a value
            (and its row, counted from 0) that does not belong there, a pair that is rated twice
            under one exposure, too few rows or users of either kind.
    """
    columns = {name: _column(path, name, values) for name, values in _read(path).items()}
    kinds, rating = columns["exposure"], columns["rating"]
    unknown = ~np.isin(kinds, (SELF_SELECTED, RANDOM))
    if unknown.any():
        _refuse_value(path, "exposure", kinds, unknown, f"{SELF_SELECTED!r} or {RANDOM!r}")
    _check_rating(path, rating)
    user, item = (np.unique(columns[name], return_inverse=True) for name in ("user", "item"))
    numbers = Rows(*(torch.from_numpy(np.asarray(ids[1]).reshape(-1)) for ids in (user, item)),
                   torch.from_numpy(rating.astype(np.int64)))  # fmt: skip
    self_selected = torch.from_numpy(kinds == SELF_SELECTED)
    pair = numbers.user * len(item[0]) + numbers.item
    for name, rows in ((SELF_SELECTED, self_selected), (RANDOM, ~self_selected)):
        if not rows.any():
            _refuse(path, f"has no rows of exposure {name!r}; both kinds are needed")
        values, count = pair[rows].unique(return_counts=True)
        if (count > 1).any():
            u, i = divmod(int(values[count > 1][0]), len(item[0]))
            twice = f"user {user[0][u]} rates item {item[0][i]} more than once"
            _refuse(path, f"is ambiguous: {twice} under exposure {name!r}; keep one rating a pair")
    train, random = numbers[self_selected], numbers[~self_selected]
    known_pair = torch.isin(pair[~self_selected], pair[self_selected])
    known_user = torch.isin(random.user, train.user.unique())
    ratings = Ratings(
        num_users=len(user[0]),
        num_items=len(item[0]),
        train=train,
        judged=random[known_user & ~known_pair],
        known_pairs=int(known_pair.sum()),
        unknown_users=len(random.user[~known_user].unique()),
    )
    if (found := len(ratings.judged.user.unique())) < GROUPS:
        _refuse(path, f"has {found} users with ratings of both kinds; at least {GROUPS} are needed")
    return ratings


def _read(path: Path) -> Mapping[str, Any]:
    """The columns of the file, as Arrow has them."""
    import pyarrow
    from pyarrow import csv, parquet

    readers = {".parquet": parquet.read_table, ".csv": csv.read_csv}
    if path.suffix not in readers:
        _refuse(path, f"has the ending {path.suffix!r}; ratings are read from .parquet and .csv")
    try:
        table = readers[path.suffix](path)
    except (OSError, pyarrow.ArrowException) as error:
        _refuse(path, f"cannot be read: {str(error).splitlines()[0]}")
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        found = ", ".join(map(repr, table.column_names))
        _refuse(path, f"lacks {', '.join(map(repr, missing))} (it has {found}); see --help")
    if table.num_rows == 0:
        _refuse(path, "has no rows")
    return {name: table[name] for name in COLUMNS}


def _column(path: Path, name: str, values: Any) -> np.ndarray:
    if values.null_count:
        row = np.flatnonzero(values.is_null().to_numpy())[0]
        _refuse(path, f"has no {name} in row {row} ({values.null_count} such rows); drop them")
    return values.to_numpy()


def _check_rating(path: Path, rating: np.ndarray) -> None:
    wanted = f"a whole number from {LOWEST} to {HIGHEST}"
    if rating.dtype.kind not in "iuf":
        _refuse(path, f"has ratings of type {rating.dtype}, e.g. {rating[0]!r}; each is {wanted}")
    bad = ~((rating >= LOWEST) & (rating <= HIGHEST) & (rating == np.floor(rating)))
    if bad.any():
        _refuse_value(path, "rating", rating, bad, wanted)


def _refuse_value(path: Path, name: str, values: np.ndarray, bad: np.ndarray, wanted: str) -> None:
    row = int(np.flatnonzero(bad)[0])
    value = values[row].item() if isinstance(values[row], np.generic) else values[row]
    _refuse(path, f"has {name} {value!r} in row {row} ({bad.sum()} such rows); each is {wanted}")


def _refuse(path: Path, what: str) -> NoReturn:
    raise ValueError(f"ratings: {path} {what}")
