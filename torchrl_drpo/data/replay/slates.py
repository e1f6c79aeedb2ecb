"""Rows of single items as slates: lists of what was shown together."""

from __future__ import annotations

from typing import Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

_REWARD = ("next", "reward")
#: Entries that are a slate's as well as its rows'.
_SHARED = ("observation", "user", "time", "slate", "policy")


def slate_rows(
    rows: TensorDictBase,
    k: int | None = None,
    *,
    per: Literal["slate", "place"] = "slate",
    quality: Literal["mean", "sum", "max"] = "mean",
    repeats: Literal["error", "drop"] = "error",
) -> TensorDict:
    """TED rows of single items as TED rows whose actions are lists, for policies over slates.

    ``RecReplayBuffer.from_tensordict`` makes a buffer of them.

    Args:
        rows: ``[N]``, as a buffer of a log whose schema has ``slate`` gives them; places by its
            ``position``, or else in the order of the rows.
        k: places of a list; what stands further down is left out. The longest slate's by default.
        per: ``"slate"``: a row a slate, ``action [S, k]``, with the observation of its first place.
            ``"place"``: a row a place, as it was but for its action: the list up to there.
        quality: of a slate, from its places'; not used with ``per="place"``.
        repeats: whether an item that a slate shows twice is an error, or its later places are left
            out.

    Returns:
        Slates in the order of their ids; lists end in -1. A slate's rows lack propensities and
        labels, which are those of single items.

    Raises:
        ValueError: for rows without ``slate``, or a slate with an item twice.

    Examples:
        >>> rows = TensorDict({
        ...     "action": torch.tensor([5, 6, 7]), "slate": torch.tensor([0, 0, 1]),
        ...     "position": torch.tensor([2, 1, 1]), "observation": torch.zeros(3, 2),
        ...     "next": {"reward": torch.tensor([[1.0], [0.0], [1.0]])}}, [3])
        >>> lists = slate_rows(rows)
        >>> lists["action"].tolist(), lists["next", "reward"].flatten().tolist()
        ([[6, 5], [7, -1]], [0.5, 1.0])
        >>> slate_rows(rows, per="place")["action"].tolist()
        [[6, -1], [6, 5], [7, -1]]
    """
    if per not in ("slate", "place"):
        raise ValueError(f"per must be 'slate' or 'place', got {per!r}")
    if quality not in ("mean", "sum", "max"):
        raise ValueError(f"quality must be 'mean', 'sum' or 'max', got {quality!r}")
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    slate = rows.get("slate", None)
    if rows.ndim != 1 or len(rows) == 0 or slate is None:
        raise ValueError(
            f"expected rows [N] with an entry 'slate', got {tuple(rows.shape)} with "
            f"{sorted(map(str, rows.keys()))}; name the column of slate ids in the schema"
        )
    order = _by_slate_and_place(slate, rows.get("position", None))
    order = _without_repeats(rows, order, repeats)
    group, place = _groups(slate[order])
    k = int(place.max()) + 1 if k is None else k
    order, group, place = (x[place < k] for x in (order, group, place))
    count = int(group[-1]) + 1
    lists = torch.full((count, k), -1, dtype=torch.long)
    lists[group, place] = rows["action"][order].long()
    if per == "place":
        out = rows[order].clone()
        upto = torch.arange(k) <= place[:, None]
        return out.set("action", torch.where(upto, lists[group], -1))
    return _whole(rows, order, group, place, lists, quality)


def _whole(
    rows: TensorDictBase,
    order: Tensor,
    group: Tensor,
    place: Tensor,
    lists: Tensor,
    quality: str,
) -> TensorDict:
    """A row a slate."""
    count = len(lists)
    first = order[place == 0]
    last = order[torch.cat([place[1:] == 0, torch.ones(1, dtype=torch.bool)])]
    reward = rows[_REWARD].reshape(len(rows))[order]
    kind = "amax" if quality == "max" else quality
    made = torch.zeros(count, dtype=reward.dtype)
    made = made.scatter_reduce(0, group, reward, kind, include_self=False)
    out = rows.select(*_SHARED, strict=False)[first].clone()
    out.set("action", lists)
    out.set(_REWARD, made[:, None])
    for key in (("next", "done"), ("next", "terminated")):
        ends = rows.get(key, None)
        if ends is not None:
            out.set(key, ends[last].clone())
    return out


def _by_slate_and_place(slate: Tensor, position: Tensor | None) -> Tensor:
    """The rows' order: by slate, within a slate by place, equals as they come."""
    order = torch.arange(len(slate))
    if position is not None:
        order = torch.argsort(position, stable=True)
    return order[torch.argsort(slate[order], stable=True)]


def _groups(slate: Tensor) -> tuple[Tensor, Tensor]:
    """Of sorted slates the number of each row's, and its place there."""
    _, sizes = torch.unique_consecutive(slate, return_counts=True)
    group = torch.arange(len(sizes)).repeat_interleave(sizes)
    starts = sizes.cumsum(0) - sizes
    return group, torch.arange(len(slate)) - starts[group]


def _without_repeats(rows: TensorDictBase, order: Tensor, repeats: str) -> Tensor:
    """The order without later places of an item in the same slate."""
    if repeats not in ("error", "drop"):
        raise ValueError(f"repeats must be 'error' or 'drop', got {repeats!r}")
    group, _ = _groups(rows["slate"][order])
    item = rows["action"][order].long()
    pairs = torch.stack([group, item], 1)
    _, number = torch.unique(pairs, dim=0, return_inverse=True)
    first = torch.full((int(number.max()) + 1,), len(order))
    first = first.scatter_reduce(0, number, torch.arange(len(order)), "amin")
    keep = first[number] == torch.arange(len(order))
    if repeats == "error" and not keep.all():
        row = order[int((~keep).nonzero()[0])]
        raise ValueError(
            f"slate {rows['slate'][row].item()} shows item {rows['action'][row].item()} twice "
            f"({int((~keep).sum())} such rows); a list is of different items: repeats='drop' "
            "leaves out the later places"
        )
    return order[keep]
