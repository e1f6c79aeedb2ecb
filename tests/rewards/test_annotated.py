"""Columns joined to a buffer's samples."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    SamplerWithoutReplacement,
    TensorDictReplayBuffer,
)

from torchrl_drpo.rewards import AnnotatedBuffer

N = 12


def make_buffer(storage: object | None = None) -> TensorDictReplayBuffer:
    buffer = TensorDictReplayBuffer(
        storage=storage or LazyTensorStorage(N), sampler=SamplerWithoutReplacement(), batch_size=5
    )
    buffer.extend(TensorDict({"action": torch.arange(N)}, batch_size=[N]))
    return buffer


def make_columns() -> TensorDict:
    fold, predicted = 10 * torch.arange(N), torch.arange(N) / 7
    return TensorDict({"fold": fold, "model": {"predicted": predicted}}, batch_size=[N])


@pytest.mark.parametrize("on_disk", [False, True])
def test_every_sampled_row_gets_its_own_columns(tmp_path: Path, on_disk: bool):
    storage = LazyMemmapStorage(N, scratch_dir=tmp_path) if on_disk else None
    annotated = AnnotatedBuffer(make_buffer(storage), make_columns())
    sample = annotated.sample()
    assert sample.batch_size == (5,)
    assert torch.equal(sample["fold"], 10 * sample["action"])
    assert torch.equal(sample["model", "predicted"], sample["action"] / 7)


def test_iterating_gives_the_columns_too():
    batches = list(AnnotatedBuffer(make_buffer(), make_columns()))
    assert sorted(torch.cat([b["action"] for b in batches]).tolist()) == list(range(N))
    assert all(torch.equal(b["fold"], 10 * b["action"]) for b in batches)


def test_the_samplers_information_is_handed_on():
    sample, info = AnnotatedBuffer(make_buffer(), make_columns()).sample(return_info=True)
    assert torch.equal(sample["fold"], 10 * sample["action"])
    assert torch.equal(torch.as_tensor(info["index"]).flatten(), sample["index"].flatten())


def test_everything_else_is_the_buffers():
    buffer = make_buffer()
    annotated = AnnotatedBuffer(buffer, make_columns())
    assert len(annotated) == N
    assert annotated._storage is buffer._storage
    assert annotated.batch_size == 5
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        annotated.nothing_of_the_kind  # noqa: B018
    bare = copy.copy(annotated)  # asks for attributes before there are any
    assert torch.equal((drawn := bare.sample())["fold"], 10 * drawn["action"])


def test_the_storage_is_not_written_to():
    buffer = make_buffer()
    AnnotatedBuffer(buffer, make_columns()).sample()
    assert "fold" not in buffer.sample().keys()  # noqa: SIM118


def test_columns_of_other_rows_are_refused():
    with pytest.raises(ValueError, match=r"has 12 rows, the columns are \(11,\)"):
        AnnotatedBuffer(make_buffer(), make_columns()[:11])


def test_rows_by_index_have_their_columns_and_what_is_done_with_them():
    def doubled(rows: TensorDict) -> TensorDict:
        return rows.set("twice", 2 * rows["fold"])

    annotated = AnnotatedBuffer(make_buffer(), make_columns(), then=doubled)
    for index in (3, slice(2, 7), torch.tensor([5, 1])):
        rows = annotated[index]
        assert torch.equal(rows["fold"], 10 * rows["action"])
        assert torch.equal(rows["twice"], 20 * rows["action"])
    sample = annotated.sample()
    assert torch.equal(sample["twice"], 20 * sample["action"])
    assert all(torch.equal(rows["twice"], 20 * rows["action"]) for rows in annotated)
