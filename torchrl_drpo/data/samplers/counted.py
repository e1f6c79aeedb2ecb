"""Samplers whose state is a few integers, and how they read a storage."""

from __future__ import annotations

import json
import os
import weakref
from pathlib import Path
from typing import Any

import torch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data.replay_buffers import Storage
from torchrl.data.replay_buffers.samplers import Sampler


def storage_column(storage: Storage, key: NestedKey) -> Tensor:
    """One column of any TensorDict storage, ``[n, ...]``."""
    column = getattr(storage, "column", None)
    return column(key) if column is not None else storage[:].get(key)


def take(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]`` along the first dimension.

    Advanced indexing wakes torch's other threads even for a few thousand entries, which costs
    milliseconds on a busy machine; this does not.
    """
    return torch.index_select(values, 0, index)


class CountedSampler(Sampler):
    """A sampler whose state is a few integers: a seed and how much was drawn.

    The seed comes from the buffer's generator at the first draw unless it is given.
    """

    def __init__(self, seed: int | None, rank: int, world_size: int) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size), got {rank} of {world_size}")
        self.rank, self.world_size = rank, world_size
        self._seed = seed
        self._drawn = 0
        self._seen: tuple[weakref.ref[Storage], int, int] | None = None

    def _key(self) -> int:
        if self._seed is None:
            self._seed = int(torch.randint(2**62, (), generator=self._rng))
        return self._seed

    def _is_new(self, storage: Storage) -> bool:
        """Whether this storage, as it is now, is another one than at the last call.

        A sampler may be handed from one part of a log to another: equally long is not the same.
        """
        now = (len(storage), int(getattr(storage, "_mutation_revision", 0)))
        known = self._seen is not None and self._seen[0]() is storage and self._seen[1:] == now
        self._seen = (weakref.ref(storage), *now)
        return not known

    def _stream(self) -> int:
        """The key of this rank's own draws."""
        return self._key() ^ (self.rank * 0x5851F42D4C957F2D & (2**62 - 1))

    def state_dict(self) -> dict[str, Any]:
        """A few numbers, all that an exact resume needs."""
        return {"seed": self._seed, "drawn": self._drawn, "shard": [self.rank, self.world_size]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on exactly where another sampler of the same kind and shard stood."""
        if list(state_dict["shard"]) != [self.rank, self.world_size]:
            raise ValueError(
                f"the state is of rank and world size {state_dict['shard']}, this sampler's are "
                f"{[self.rank, self.world_size]}"
            )
        seed, drawn = state_dict["seed"], state_dict["drawn"]
        if not isinstance(drawn, int) or drawn < 0 or not isinstance(seed, int | None):
            raise ValueError(f"a sampler's state counts draws from 0, got {drawn!r}, seed {seed!r}")
        self._seed, self._drawn = seed, drawn

    def dumps(self, path: Path | str) -> None:
        """Writes :meth:`state_dict` as JSON, atomically."""
        Path(path).mkdir(parents=True, exist_ok=True)
        temporary = Path(path) / "sampler.json.tmp"
        temporary.write_text(json.dumps(self.state_dict()))
        os.replace(temporary, Path(path) / "sampler.json")

    def loads(self, path: Path | str) -> None:
        """Reads what :meth:`dumps` wrote."""
        self.load_state_dict(json.loads((Path(path) / "sampler.json").read_text()))

    def _empty(self) -> None:
        self._drawn, self._seen = 0, None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_seen": None}
