"""Other buffers over the same files: what they take along, and what becomes their own."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torchrl.data import TensorDictReplayBuffer

Buffer = TypeVar("Buffer", bound=TensorDictReplayBuffer)


def kept_options(buffer: TensorDictReplayBuffer) -> dict[str, Any]:
    """TorchRL's options of a buffer, as they were given or set since, for a part of its log.

    The generator is the same object, and so are the parameters of transforms; the transforms
    themselves and the sampler are copies, since each of them belongs to one buffer. The sampler
    starts afresh: what it knows of these rows is not true of others.
    """
    sampler = copy.deepcopy(buffer._sampler)
    sampler._empty()
    return {
        "batch_size": buffer._batch_size, "sampler": sampler, "sample_unit": buffer._sample_unit,
        "transform": buffer._transform.clone(), "generator": buffer._rng,
        "prefetch": buffer._prefetch_cap or None, "pin_memory": buffer._pin_memory,
        "collate_fn": buffer._collate_fn, "shared": buffer.shared,
        "priority_key": buffer.priority_key, "checkpointer": buffer._storage.checkpointer,
    }  # fmt: skip


def deep_copy(buffer: Buffer, memo: dict[int, Any], shared: list[Any]) -> Buffer:
    """A copy with its own sampler, generator and transforms, in which ``shared`` objects stay."""
    memo |= {id(each): each for each in shared}
    made = memo[id(buffer)] = type(buffer).__new__(type(buffer))
    made.__setstate__(copy.deepcopy(buffer.__getstate__(), memo))
    return made
