"""Rows that come as TorchRL's TED: stored as they are, or refused."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import TensorDictReplayBuffer

from torchrl_drpo.data import RecReplayBuffer


def ted(n=40, **changes):
    rows = TensorDict(
        {
            "observation": torch.randn(n, 3), "action": torch.randn(n, 2),
            "propensity": torch.rand(n) * 0.9 + 0.1,
            "next": {
                "reward": torch.randn(n, 1), "done": torch.ones(n, 1, dtype=torch.bool),
                "terminated": torch.ones(n, 1, dtype=torch.bool),
            },
        },
        [n],
    )  # fmt: skip
    return rows.update(changes)


def test_ted_rows_are_stored_as_they_are(tmp_path):
    rows = ted()
    buffer = RecReplayBuffer.from_tensordict(rows, root=tmp_path, batch_size=8)
    assert (buffer[:] == rows).all()
    assert buffer.sample()["observation"].shape == (8, 3)
    assert isinstance(buffer, TensorDictReplayBuffer)
    assert buffer.schema is None
    assert buffer.items is None
    again = RecReplayBuffer.open(tmp_path, verify=True)
    assert (again[:] == rows).all()
    assert again.storage.state_dict() == buffer.storage.state_dict()
    with pytest.raises(FileExistsError, match="choose another root"):
        RecReplayBuffer.from_tensordict(rows, root=tmp_path)


def test_ted_rows_keep_the_next_observation_that_they_bring():
    rows = ted().exclude("observation")
    for name in ("context", "features"):
        rows[("observation", name)] = torch.randn(40, 2)
    rows["next", "observation", "features"] = torch.randn(40, 2)
    read = RecReplayBuffer.from_tensordict(rows, next_observation=True)[:]
    assert torch.equal(
        read["next", "observation", "features"], rows["next", "observation", "features"]
    )
    # every row is done: the other's own stands in
    assert torch.equal(read["next", "observation", "context"], rows["observation", "context"])


def test_ted_rows_without_ends_are_one_step_interactions():
    rows = ted().exclude(("next", "done"), ("next", "terminated"))
    rows.set(("next", "reward"), torch.arange(40.0))
    stored = RecReplayBuffer.from_tensordict(rows)[:]
    assert stored["next", "done"].all()
    assert stored["next", "terminated"].all()
    assert stored["next", "reward"].shape == (40, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda: ted(next={"reward": torch.full((40, 1), torch.nan)}), "reward must be finite"),
        (lambda: ted(propensity=torch.zeros(40)), r"propensity must lie in \(0, 1\] but row 0"),
        (lambda: ted().exclude("action"), "TED rows need 'action'"),
        (lambda: ted()[:0], "N at least 1"),
        (lambda: ted().unsqueeze(0), "batch size"),
        (lambda: ted(next={"reward": torch.zeros(40, 2)}), "one number a row"),
    ],
)
def test_bad_ted_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        RecReplayBuffer.from_tensordict(rows())
