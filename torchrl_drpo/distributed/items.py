"""Which rank holds which items, and rows of the table for whoever asks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchrl_drpo.distributed.autograd import exchange_rows, held_alone
from torchrl_drpo.distributed.group import Ranks

#: Rows of a table that come from one generator.
_BLOCK = 1024
_SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class ItemShards:
    """Items in runs of equal length, rank by rank, as DTensor's ``Shard(0)`` has them.

    Attributes:
        ranks: who holds them.
        num_items: V, at least 1; the last ranks may be left with fewer items, or none.
    """

    ranks: Ranks
    num_items: int

    def __post_init__(self) -> None:
        if self.num_items < 1:
            raise ValueError(f"num_items must be at least 1, got {self.num_items}")

    @property
    def length(self) -> int:
        """Items of every rank but the last ones."""
        return -(-self.num_items // self.ranks.size)

    @property
    def low(self) -> int:
        """This rank's first item."""
        return min(self.ranks.rank * self.length, self.num_items)

    @property
    def high(self) -> int:
        """One behind this rank's last item."""
        return min(self.low + self.length, self.num_items)

    def place(self, items: Tensor) -> Tensor:
        """Places within this rank's shard, -1 for items that lie elsewhere."""
        return torch.where((items >= self.low) & (items < self.high), items - self.low, -1)

    def check(self, items: Tensor, what: str) -> None:
        """Raises ``ValueError`` for an item outside the catalogue, on the CPU."""
        if not items.is_cpu or items.numel() == 0:
            return
        low, high = items.aminmax()
        if low < 0 or high >= self.num_items:
            bad = items.reshape(-1)[((items < 0) | (items >= self.num_items)).reshape(-1)][0]
            raise ValueError(
                f"{what} must lie in [0, {self.num_items}) but hold {bad.item()}; map raw ids to "
                "catalogue indices first"
            )

    def look_up(self, shard: Tensor, items: Tensor) -> Tensor:
        """Rows of the table by item number: each distinct one comes once from its owner.

        Args:
            shard: this rank's rows, ``[Vr, D]``.
            items: any items, int64, any shape, also none; another number of them on each rank.

        Returns:
            ``[*items.shape, D]``, differentiable in the table, wherever its rows lie.

        Raises:
            ValueError: for an item outside the catalogue.
        """
        self.check(items, "items to look up")
        ranks = self.ranks
        wanted, back = torch.unique(items, return_inverse=True)
        asked_of = torch.bincount(wanted // self.length, minlength=ranks.size)
        one_each = [1] * ranks.size
        asked_by = ranks.exchange(asked_of, one_each, one_each)
        sent, received = asked_of.tolist(), asked_by.tolist()
        places = ranks.exchange(wanted, sent, received) - self.low
        rows = F.embedding(places, held_alone(shard, ranks))
        return F.embedding(back, exchange_rows(rows, ranks, received, sent))

    def parameter(self, *width: int, device: torch.device | str | None = None) -> nn.Parameter:
        """Room for this rank's rows of a table, marked by ``shard_rows``: first, end, all."""
        table = nn.Parameter(torch.empty(self.high - self.low, *width, device=device))
        table.shard_rows = (self.low, self.high, self.num_items)
        return table

    @torch.no_grad()
    def fill_normal_(self, shard: Tensor, seed: int, std: float) -> None:
        """Draws this rank's rows ``[Vr, D]`` of a normal table, in place.

        The same table for any number of ranks: each block of rows has a generator of its own.
        """
        for block in range(self.low // _BLOCK, -(-self.high // _BLOCK)):
            generator = torch.Generator().manual_seed(seed * _SEED_STRIDE + block)
            drawn = torch.randn(_BLOCK, shard.shape[1], generator=generator) * std
            start = block * _BLOCK
            first, last = max(self.low, start), min(self.high, start + _BLOCK)
            shard[first - self.low : last - self.low] = drawn[first - start : last - start]

    def shared_seed(self) -> int:
        """One number from rank 0's generator, the same on every rank."""
        return int(self.ranks.gather(torch.randint(2**40, ()).to(self.ranks.device))[0])
