"""`TrajectorySampler`: whole trajectories or slates, drawn evenly, in O(batch)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torchrl.data.replay_buffers import Storage

from .counted import CountedSampler, storage_column, take
from .counter import uniform


class TrajectorySampler(CountedSampler):
    """Draws trajectories (or slates) evenly, whatever their length: the first row of each.

    With ``sample_unit=WindowUnit(length)`` batches are ``[B, length]`` with a mask. A draw costs
    O(batch): the first rows are found once (on a whole log they were stored when it was converted).

    Args:
        by: ``"trajectory_id"`` or ``"slate"``.
        anywhere: start windows at any row of the trajectory, evenly, instead of its first.
        rank: number of this process; ranks draw streams of their own.
        world_size: number of processes.
        seed: of the draws; taken from the buffer's generator by default.
    """

    def __init__(
        self,
        by: Literal["trajectory_id", "slate"] = "trajectory_id",
        *,
        anywhere: bool = False,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed, rank, world_size)
        self.by, self.anywhere = by, anywhere
        self._starts: Tensor | None = None
        self._rows = 0

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        """Indices ``[batch_size]``."""
        if self._is_new(storage) or self._starts is None:
            self._starts, self._rows = group_starts(storage, self.by), len(storage)
        stream = self._stream()
        counter = 2 * (self._drawn + torch.arange(batch_size))
        self._drawn += batch_size
        chosen = (uniform(stream, counter) * len(self._starts)).long()
        index = take(self._starts, chosen)
        if self.anywhere:
            last = chosen + 1 >= len(self._starts)
            end = torch.where(last, self._rows, take(self._starts, (chosen + 1) * ~last))
            index = index + (uniform(stream, counter + 1) * (end - index)).long()
        return index, {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_starts": None}


def group_starts(storage: Storage, by: str) -> Tensor:
    """First row of every run of equal values, int64 ascending; stored ones where there are."""
    stored = getattr(storage, "stored_starts", {}).get(by)
    if stored is not None:
        return stored
    values = storage_column(storage, by).reshape(len(storage))
    fresh = torch.ones(len(values), dtype=torch.bool)
    fresh[1:] = values[1:] != values[:-1]
    return fresh.nonzero().squeeze(-1)
