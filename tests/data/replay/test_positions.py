"""Indices against numpy's own indexing of an array; what numpy refuses is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from torchrl_drpo.data import LogSchema, RecReplayBuffer
from torchrl_drpo.data.replay.positions import row_positions

ROWS = 6
MASK = np.array([True, False, True, True, False, False])
FITTING = [
    3, -1, np.int32(2), slice(None), slice(1, 5, 2), slice(-2, None), slice(4, 1, -1), ...,
    range(2, 5), [], [0, -6, 5], [[1, 2], [3, -4]], MASK, MASK.tolist(),
    np.array([], dtype=np.int64), np.array([1, 5], dtype=np.uint16), np.array([[2], [0]]),
    np.zeros(ROWS, dtype=bool),
]  # fmt: skip
OTHERS = [
    MASK[:3], MASK[:3].tolist(), np.append(MASK, MASK), MASK.reshape(2, 3), True, False, [True],
    1.0, [0.0, 1.0], np.array([0.5]), np.array([], dtype=np.float32), np.array([1 + 0j]),
    np.array(["action"]), None, [None], [[1, 2], [3]], 6, -7, [0, 6], [-7], 2**70, range(7),
    np.array([2**63 + 1], dtype=np.uint64), np.array([0, 1], dtype=np.uint8),
]  # fmt: skip


@pytest.fixture(scope="module")
def buffers() -> dict[str, RecReplayBuffer]:
    schema = LogSchema(user="u", item="i", time="t", quality="r")
    columns = {"u": [1] * 8, "i": list(range(8)), "t": list(range(8)), "r": [1.0] * 8}
    import pyarrow as pa

    columns["day"] = [19700101] * 2 + [19700102] * 6
    log = RecReplayBuffer.from_pandas(
        pa.table(columns), schema.replace(date="day"), test_days=1, history=2
    )
    part = log.split("test")
    assert len(part) == ROWS
    return {"part": part, "storage": part.storage}


def numpy_rows(index: object) -> np.ndarray:
    return np.arange(ROWS)[index if not isinstance(index, range) else list(index)]


@pytest.mark.parametrize("index", FITTING, ids=repr)
def test_rows_are_those_that_numpy_gives(buffers, index):
    expected = numpy_rows(index if not isinstance(index, list) or index else np.array([], int))
    assert row_positions(index, ROWS).numpy().tolist() == expected.tolist()
    for buffer in buffers.values():
        action = buffer[index]["action"]
        assert (action.numpy() - 2).tolist() == expected.tolist()
    if isinstance(index, np.ndarray) and index.dtype != np.uint16:
        assert (
            buffers["part"][torch.from_numpy(index)]["action"] - 2
        ).tolist() == expected.tolist()


@pytest.mark.parametrize("index", OTHERS, ids=repr)
def test_what_does_not_fit_is_an_index_error(buffers, index):
    for buffer in buffers.values():
        with pytest.raises(IndexError, match=r"mask|outside|rows are indexed by"):
            buffer[index]


@pytest.mark.parametrize(
    "index",
    [
        torch.tensor([False, True, False]), torch.zeros(50, dtype=torch.bool), torch.tensor(True),
        torch.tensor([0.0]), torch.tensor(1.5), torch.tensor([1], dtype=torch.bfloat16),
        torch.tensor([1], dtype=torch.uint8), torch.zeros(0), torch.tensor([6]),
    ],
)  # fmt: skip
def test_so_are_tensors(buffers, index):
    for buffer in buffers.values():
        with pytest.raises(IndexError, match=r"mask|outside|rows are indexed by"):
            buffer[index]
