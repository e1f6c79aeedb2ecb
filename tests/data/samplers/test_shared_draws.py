"""One stream of draws: its parts are the batch of one process, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import RandomSampler, Sampler

from torchrl_drpo.data import QuantileSampler
from torchrl_drpo.data.samplers.shared_draws import SharedDraws

ROWS, BATCH = 50, 11
SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "random": RandomSampler,
    "epochs": SamplerWithoutReplacement,
    "quantile": lambda: QuantileSampler(0.3),
    "quantile epochs": lambda: QuantileSampler(0.3, without_replacement=True),
}


def _buffer(name: str, rank: int, size: int) -> TensorDictReplayBuffer:
    g = torch.Generator().manual_seed(4)
    rows = {"row": torch.arange(ROWS), "next": {"reward": torch.rand(ROWS, 1, generator=g)}}
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(ROWS),
        sampler=SAMPLERS[name](),
        generator=torch.Generator().manual_seed(9),
    )
    buffer.extend(TensorDict(rows, [ROWS]))
    buffer.set_sampler(SharedDraws(buffer.sampler, rank, size))
    return buffer


def _drawn(buffers: list[Any], steps: int) -> Tensor:
    """Rows, and weights where the sampler gives any, of a few batches over all ranks."""
    found = []
    for _ in range(steps):
        parts = [buffer.sample(BATCH) for buffer in buffers]
        told = [
            torch.stack([part["row"].double(), part.get("priority_weight", part["row"]).double()])
            for part in parts
        ]
        assert max(len(part) for part in parts) - min(len(part) for part in parts) <= 1
        found.append(torch.cat(told, 1))
    return torch.cat(found, 1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_parts_of_any_number_of_ranks_are_the_batch_of_one(name: str):
    whole = _drawn([_buffer(name, 0, 1)], 8)
    for size in (2, 3, 11):
        buffers = [_buffer(name, rank, size) for rank in range(size)]
        assert torch.equal(_drawn(buffers, 8), whole)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_state_of_some_ranks_goes_on_with_others(name: str):
    whole = _drawn([_buffer(name, 0, 1)], 8)
    before = [_buffer(name, rank, 2) for rank in range(2)]
    first = _drawn(before, 3)
    state, generator = before[0].sampler.state_dict(), before[0]._rng.get_state()
    after = [_buffer(name, rank, 3) for rank in range(3)]
    for buffer in after:
        buffer.sampler.load_state_dict(state)
        buffer._rng.set_state(generator)
    assert torch.equal(torch.cat([first, _drawn(after, 5)], 1), whole)


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="rank must lie"):
        SharedDraws(RandomSampler(), 2, 2)
    with pytest.raises(ValueError, match="1 rows cannot be shared by 2 ranks"):
        _buffer("random", 0, 2).sample(1)
