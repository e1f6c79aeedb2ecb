"""One stream of draws for all ranks, of which each takes its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data.replay_buffers import Storage
from torchrl.data.replay_buffers.samplers import Sampler


class SharedDraws(Sampler):
    """Any sampler, made to give each rank its part of the batch that one process would draw.

    Every rank draws the whole batch, from a generator in the same state, and keeps its run of it:
    the batch depends on the number of ranks as little as the sampler's state does, which loads at
    any other number, and no rank waits for another. Drawing row numbers costs little; reading the
    rows is shared out.

    Args:
        sampler: a sampler of rows, whose buffer has a generator of its own, seeded alike on every
            rank.
        rank: this process's place.
        world_size: the number of processes.

    Raises:
        ValueError: for a rank outside ``[0, world_size)``, and (from ``sample``) for a batch with
            fewer rows than ranks.

    Examples:
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> def drawn(rank: int, world_size: int) -> list[int]:
        ...     buffer = TensorDictReplayBuffer(
        ...         storage=LazyTensorStorage(9), generator=torch.Generator().manual_seed(3)
        ...     )
        ...     _ = buffer.extend(TensorDict({"row": torch.arange(9)}, [9]))
        ...     buffer.set_sampler(SharedDraws(buffer.sampler, rank, world_size))
        ...     return buffer.sample(5)["row"].tolist()
        >>> drawn(0, 2) + drawn(1, 2) == drawn(0, 1)
        True
    """

    def __init__(self, sampler: Sampler, rank: int, world_size: int) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size), got {rank} of {world_size}")
        self.sampler, self.rank, self.world_size = sampler, rank, world_size

    def sample(self, storage: Storage, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """This rank's rows of a batch of ``batch_size`` rows, and what is said of them."""
        if batch_size < self.world_size:
            raise ValueError(
                f"a batch of {batch_size} rows cannot be shared by {self.world_size} ranks; take "
                "a larger batch or fewer ranks"
            )
        index, info = self.sampler.sample(storage, batch_size)
        rows = len(index[0]) if isinstance(index, tuple) else len(index)  # an epoch's last are few
        first, last = (rows * r // self.world_size for r in (self.rank, self.rank + 1))
        own = slice(first, last)
        if isinstance(index, tuple):
            index = tuple(part[own] for part in index)
        else:
            index = torch.as_tensor(index)[own]
        return index, {key: _part(value, own, rows) for key, value in info.items()}

    # -- everything else is the sampler's ---------------------------------------------------------

    @property
    def _rng(self) -> torch.Generator | None:
        return self.sampler._rng

    @_rng.setter
    def _rng(self, generator: torch.Generator | None) -> None:
        self.sampler._rng = generator

    def add(self, index: Any) -> None:
        """Tells the sampler of new rows."""
        self.sampler.add(index)

    def extend(self, index: Any) -> None:
        """Tells the sampler of new rows."""
        self.sampler.extend(index)

    def mark_update(self, index: Any, *, storage: Storage | None = None) -> None:
        """Tells the sampler of changed rows."""
        self.sampler.mark_update(index, storage=storage)

    @property
    def ran_out(self) -> bool:
        """Whether an epoch has ended."""
        return self.sampler.ran_out

    @ran_out.setter
    def ran_out(self, value: bool) -> None:
        self.sampler.ran_out = value

    def state_dict(self) -> dict[str, Any]:
        """The sampler's own state, which knows of no ranks."""
        return self.sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the state of the sampler on any number of ranks."""
        self.sampler.load_state_dict(state_dict)

    def dumps(self, path: Path | str) -> None:
        """Writes the sampler's state."""
        self.sampler.dumps(path)

    def loads(self, path: Path | str) -> None:
        """Reads what :meth:`dumps` wrote."""
        self.sampler.loads(path)

    def _empty(self) -> None:
        self.sampler._empty()


def _part(value: Any, own: slice, rows: int) -> Any:
    """Of what is said of each row, what is said of a rank's own."""
    if isinstance(value, Tensor | TensorDictBase) and value.shape[:1] == (rows,):
        return value[own]
    return value
