"""`QuantileSampler`: the top of the data set by quality, in O(batch)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data.replay_buffers import Storage

from torchrl_drpo.functional.checks import check_finite, check_fraction

from .counted import CountedSampler, storage_column, take
from .counter import permute, uniform


class QuantileSampler(CountedSampler):
    r"""Draws only from the top ``kappa`` of the data set by quality.

    The selection is the exact solution of the optimistic problem on the whole log: with n rows and
    the quota K = round half up of kappa n (at least 1), rows above the K-th quality are drawn
    evenly and rows that tie with it share the rest (``ties="fraction"``). Rows that are not
    selected are never read. With ``group``, each group (a user, a context) has its own quota and
    keeps its share of the draws, n_g / n.

    Sorting happens once, at the first draw (and again after a write to the buffer). Afterwards a
    draw costs O(batch), and so does moving ``kappa``, at any step, by hand or from a loss.

    A sample carries ``importance_weight`` ``[B]``, the ratio of a uniform draw's probability to
    this one's: weighted by it, a mean over the batch estimates (1/n) times the sum over the
    selected rows. Pair it with a loss that takes every row it gets (``kappa=1.0``).

    Args:
        kappa: fraction kept, in (0, 1].
        group: key of an integer column whose values have a quota each; one quota by default.
        quality_key: what to rank by.
        ties: ``"fraction"`` (rows at the threshold share what is left of the quota) or ``"first"``
            (the earliest rows fill it).
        without_replacement: go through the selected rows in a keyed random order, each once, then
            again in another order. Moving ``kappa`` starts over.
        rank: number of this process; with replacement ranks have streams of their own, without
            they go through disjoint rows (the last few rows of an epoch, fewer than
            ``world_size``, are left out so that all take equally many steps).
        world_size: number of processes; all must share ``seed``.
        seed: of the draws; taken from the buffer's generator by default.

    Raises:
        ValueError: on a kappa outside (0, 1], or a quality that is not finite.

    Examples:
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> sampler = QuantileSampler(kappa=0.2)
        >>> buffer = TensorDictReplayBuffer(
        ...     storage=LazyTensorStorage(10), sampler=sampler, batch_size=64)
        >>> reward = torch.arange(10.0).unsqueeze(-1)
        >>> _ = buffer.extend(TensorDict({"next": {"reward": reward}}, [10]))
        >>> sorted(set(buffer.sample()["next", "reward"].flatten().tolist()))
        [8.0, 9.0]
        >>> sampler.kappa = 0.1
        >>> set(buffer.sample()["next", "reward"].flatten().tolist())
        {9.0}
    """

    def __init__(
        self,
        kappa: float | Tensor = 0.1,
        *,
        group: NestedKey | None = None,
        quality_key: NestedKey = ("next", "reward"),
        ties: Literal["fraction", "first"] = "fraction",
        without_replacement: bool = False,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__(seed, rank, world_size)
        if ties not in ("fraction", "first"):
            raise ValueError(f"ties must be 'fraction' or 'first', got {ties!r}")
        if world_size > 1 and seed is None:
            raise ValueError("sharded samplers must share a seed; pass seed=...")
        self.group, self.quality_key, self.ties = group, quality_key, ties
        self.without_replacement = without_replacement
        self._epoch = 0
        self._order: Tensor | None = None
        self._kappa = 1.0
        self.kappa = kappa

    @property
    def kappa(self) -> float:
        """Fraction kept; may be moved at any step, also to a one-element tensor's value."""
        return self._kappa

    @kappa.setter
    def kappa(self, value: float | Tensor) -> None:
        value = float(value)
        check_fraction("kappa", value)
        if value != self._kappa and self.without_replacement:
            self._epoch, self._drawn = self._epoch + 1, 0
        self._kappa = value
        self._ends: Tensor | None = None

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict[str, Any]]:
        """Indices ``[batch_size]`` and their ``importance_weight``."""
        self._build(storage)
        draw = self._next_epoch if self.without_replacement else self._next_independent
        group, place, tie_key = draw(batch_size)
        size = self._sizes(group)
        quota = self._quota(size)
        weight = quota.double() / size.double()
        if self.ties == "fraction":
            place, weight = self._share_ties(group, place, quota, weight, tie_key)
        index = take(self._order, take(self._starts, group) + place).long()
        return index, {"importance_weight": weight.float()}

    def _build(self, storage: Storage) -> None:
        """Sorts the log by (group, quality downwards), once; ties in the log's own order."""
        if not self._is_new(storage) and self._order is not None:
            return
        if len(storage) == 0:
            raise RuntimeError("cannot sample from an empty storage")
        quality = storage_column(storage, self.quality_key).reshape(len(storage))
        check_finite("quality", quality, hint="a quantile needs comparable rows")
        order = torch.argsort(quality, descending=True, stable=True)
        starts = torch.tensor([0, len(order)])
        if self.group is not None:
            group = storage_column(storage, self.group).reshape(len(storage))
            order = order[torch.argsort(group[order], stable=True)]
            _, counts = torch.unique_consecutive(group[order], return_counts=True)
            starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        small = len(order) < 2**31
        self._order = order.to(torch.int32 if small else torch.int64)
        self._quality, self._starts = quality, starts
        self._ends = None

    def _quota(self, size: Tensor) -> Tensor:
        """Round half up of kappa n, at least 1, in float64."""
        return (self.kappa * size.double() + 0.5).long().clamp_min(1)

    def _sizes(self, group: Tensor) -> Tensor:
        return take(self._starts, group + 1) - take(self._starts, group)

    def _next_independent(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Groups by their share of rows, places evenly within the quota."""
        stream = self._stream()
        counter = 3 * (self._drawn + torch.arange(batch_size))
        self._drawn += batch_size
        group = torch.zeros(batch_size, dtype=torch.int64)
        if len(self._starts) > 2:
            row = (uniform(stream, counter) * len(self._order)).long()
            group = torch.searchsorted(self._starts, row, right=True) - 1
        quota = self._quota(self._sizes(group))
        place = (uniform(stream, counter + 1) * quota).long()
        return group, place, counter + 2

    def _next_epoch(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The next places of a permutation of all selected rows, epoch after epoch."""
        if self._ends is None:
            self._ends = self._quota(self._starts.diff()).cumsum(0)
        total = int(self._ends[-1])
        length = total // self.world_size
        if length == 0:
            raise ValueError(
                f"{total} selected rows cannot be shared by {self.world_size} ranks; raise kappa"
            )
        step = self._drawn + torch.arange(batch_size)
        epoch = self._epoch + step // length
        self._drawn += batch_size
        if self._drawn >= length:  # keep the numbers small: whole epochs move to the epoch count
            self._epoch, self._drawn = self._epoch + self._drawn // length, self._drawn % length
        key = self._key() + epoch
        chosen = permute(step % length * self.world_size + self.rank, total, key)
        if len(self._ends) == 1:
            return torch.zeros_like(chosen), chosen, key
        group = torch.searchsorted(self._ends, chosen, right=True)
        before = torch.where(group > 0, take(self._ends, (group - 1).clamp_min(0)), 0)
        return group, chosen - before, key

    def _share_ties(
        self, group: Tensor, place: Tensor, quota: Tensor, weight: Tensor, tie_key: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sends a place at the threshold to any of the rows that tie there, evenly."""
        first = take(self._starts, group)
        threshold = self._at(first + quota - 1)
        tied = (self._at(first + place) == threshold).nonzero().squeeze(-1)
        if len(tied) == 0:
            return place, weight
        g, value = take(group, tied), take(threshold, tied)
        above = self._bisect(g, value, strict=True)
        ties = self._bisect(g, value, strict=False) - above
        left = take(quota, tied) - above
        key = take(tie_key, tied)
        if self.without_replacement:
            moved = permute(take(place, tied) - above, ties, key + g * 7919)
        else:
            moved = (uniform(self._stream(), key) * ties).long()
        share = take(weight, tied) * ties.double() / left.double()
        return place.index_copy(0, tied, above + moved), weight.index_copy(0, tied, share)

    def _at(self, position: Tensor) -> Tensor:
        return take(self._quality, take(self._order, position).long())

    def _bisect(self, group: Tensor, value: Tensor, *, strict: bool) -> Tensor:
        """How many rows of each group lie above (or at) the value."""
        if len(self._starts) == 2:  # one group, one threshold: one search for all
            return self._bisect_rows(group[:1], value[:1], strict).expand(group.shape)
        return self._bisect_rows(group, value, strict)

    def _bisect_rows(self, group: Tensor, value: Tensor, strict: bool) -> Tensor:
        low, first = torch.zeros_like(group), take(self._starts, group)
        high = self._sizes(group)
        while bool((low < high).any()):
            middle = (low + high) // 2
            here = self._at(first + middle.clamp_max(high - 1).clamp_min(0))
            inside = ((here > value) if strict else (here >= value)) & (low < high)
            low = torch.where(inside, middle + 1, low)
            high = torch.where(inside, high, middle)
        return low

    def state_dict(self) -> dict[str, Any]:
        """Seed, epoch, draws and kappa."""
        return {**super().state_dict(), "epoch": self._epoch, "kappa": self.kappa}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on exactly where another sampler of the same log and shard stood."""
        super().load_state_dict(state_dict)
        drawn = self._drawn
        self.kappa = state_dict["kappa"]
        self._epoch, self._drawn = state_dict["epoch"], drawn

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["_order"] = state["_ends"] = None  # rebuilt at the next draw
        state.pop("_quality", None)
        return state

    def __repr__(self) -> str:
        return f"QuantileSampler(kappa={self.kappa}, group={self.group!r}, ties={self.ties!r})"
