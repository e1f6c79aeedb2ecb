"""Rows of single items as slates, against lists made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo.data import LogSchema, RecReplayBuffer, slate_rows


def logged(rows: int = 200, slates: int = 60, seed: int = 0) -> TensorDict:
    draw = torch.Generator().manual_seed(seed)
    slate = torch.randint(0, slates, (rows,), generator=draw)
    item = torch.arange(rows) % 50 if seed else torch.randperm(rows, generator=draw)
    entries = {
        "action": item,
        "slate": slate,
        "position": torch.randperm(rows, generator=draw),
        "observation": {"history": slate[:, None] + torch.zeros(1, 3).long()},
        "propensity": torch.rand(rows, generator=draw),
        "next": {
            "reward": torch.rand(rows, 1, generator=draw),
            "done": torch.ones(rows, 1, dtype=torch.bool),
        },
    }
    return TensorDict(entries, [rows])


@pytest.mark.parametrize("quality", ["mean", "sum", "max"])
@pytest.mark.parametrize("k", [None, 2])
def test_a_row_a_slate(quality: str, k: int | None) -> None:
    rows = logged()
    out = slate_rows(rows, k, quality=quality)
    names = rows["slate"].unique().tolist()
    assert out["slate"].tolist() == names
    for n, name in enumerate(names):
        mine = (rows["slate"] == name).nonzero()[:, 0]
        mine = mine[rows["position"][mine].argsort()][:k]
        listed = out["action"][n].tolist()
        wanted = rows["action"][mine].tolist()
        assert listed == wanted + [-1] * (len(listed) - len(wanted))
        value = getattr(np, quality)(rows["next", "reward"][mine].numpy())
        assert out["next", "reward"][n].item() == pytest.approx(value, rel=1e-6)
        assert (out["observation", "history"][n] == name).all()
    assert "propensity" not in out.keys()  # noqa: SIM118
    assert len(RecReplayBuffer.from_tensordict(out)) == len(names)


def test_a_row_a_place_is_the_log_with_lists_for_items() -> None:
    rows = logged()
    out = slate_rows(rows, per="place")
    assert len(out) == len(rows)
    lists = slate_rows(rows)["action"]
    for n in range(len(out)):
        row = (rows["position"] == out["position"][n]).nonzero().item()
        length = int((out["action"][n] >= 0).sum())
        assert out["action"][n, length - 1] == rows["action"][row]
        assert out["next", "reward"][n] == rows["next", "reward"][row]
        assert out["propensity"][n] == rows["propensity"][row]
        whole = lists[(lists == rows["action"][row]).any(1)][0]
        assert torch.equal(out["action"][n, :length], whole[:length])


def test_items_shown_twice_are_refused_or_left_out() -> None:
    entries = {
        "action": torch.tensor([4, 5, 4, 4]),
        "slate": torch.tensor([1, 1, 1, 2]),
        "next": {"reward": torch.tensor([[1.0], [2.0], [9.0], [5.0]])},
    }
    rows = TensorDict(entries, [4])
    with pytest.raises(ValueError, match=r"slate 1 shows item 4 twice \(1 such rows\)"):
        slate_rows(rows)
    out = slate_rows(rows, repeats="drop", quality="sum")
    assert out["action"].tolist() == [[4, 5], [4, -1]]
    assert out["next", "reward"].flatten().tolist() == [3.0, 5.0]
    with pytest.raises(ValueError, match="with an entry 'slate'"):
        slate_rows(rows.exclude("slate"))
    for options in ({"per": "page"}, {"quality": "best"}, {"repeats": "keep"}, {"k": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            slate_rows(rows, **options)


def test_slates_of_a_log_with_impressions() -> None:
    frame = pd.DataFrame(
        {
            "u": [1, 1, 1, 2, 2, 1],
            "i": ["a", "b", "c", "a", "d", "d"],
            "t": [5, 5, 5, 6, 6, 9],
            "s": [10, 10, 10, 11, 11, 12],
            "p": [2, 0, 1, 0, 1, 0],
            "click": [1, 0, 0, 0, 1, 1],
        }
    )
    schema = LogSchema(user="u", item="i", time="t", slate="s", position="p", quality="click")
    buffer = RecReplayBuffer.from_pandas(frame, schema, history=3)
    out = slate_rows(buffer[:])
    found = {}
    for row in out:
        shown, before = (
            buffer.items.decode(items[items >= 0])
            for items in (row["action"], row["observation", "history"])
        )
        found["".join(shown)] = (row["next", "reward"].item(), sorted(before))
    assert found == {  # its history is the user's earlier slates, and nothing of its own
        "bca": (pytest.approx(1 / 3), []),
        "ad": (0.5, []),
        "d": (1.0, ["a", "b", "c"]),
    }
