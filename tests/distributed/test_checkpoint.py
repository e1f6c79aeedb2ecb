"""State on several ranks: read at any number of them, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.distributed.gloo import run_ranks
from torchrl_drpo.distributed.checkpoint import is_sharded, load_sharded, save_sharded
from torchrl_drpo.distributed.group import Ranks
from torchrl_drpo.distributed.nested import assembled, flattened

V = 7
TABLE, BIAS = torch.arange(14.0).reshape(V, 2), torch.arange(V, dtype=torch.float64)


def _rows(rank: int, size: int) -> tuple[int, int, int]:
    length = -(-V // size)
    return min(rank * length, V), min(rank * length + length, V), V


def _state(low: int, high: int, step: int) -> dict[str, Any]:
    return {
        "model": {"items": TABLE[low:high] + step, "bias": BIAS[low:high], "net": torch.ones(3)},
        "state": {0: {"m": TABLE[low:high] * step}, 1: {"m": torch.tensor(2)}},
        "betas": (0.9, 0.5),
        "step": step,
    }


SHARED_OUT = ("model/items", "model/bias", "state/0/m")


def _save(rank: int, size: int, folder: str, step: int, fails: bool) -> str:
    place = _rows(rank, size)
    tag = f"s{step}"
    if fails and rank == size - 1:  # a folder is where this rank's file should be
        (Path(folder) / f"{tag}-{rank:05d}-of-{size:05d}.safetensors").mkdir(parents=True)
    try:
        save_sharded(
            folder, _state(*place[:2], step), dict.fromkeys(SHARED_OUT, place),
            Ranks(dist.group.WORLD), tag,
        )  # fmt: skip
    except RuntimeError as error:
        return str(error)
    return ""


def _is_state(found: dict[str, Any], low: int, high: int, step: int) -> None:
    want = _state(low, high, step)
    assert found["step"] == step
    assert found["betas"] == [0.9, 0.5]
    for path in (("model", "items"), ("model", "bias"), ("model", "net"), ("state", 0, "m")):
        got, expected = found, want
        for key in path:
            got, expected = got[key], expected[key]
        assert torch.equal(got, expected), path
        assert got.dtype == expected.dtype


def test_a_state_is_read_at_any_number_of_ranks(tmp_path: Path):
    folder = tmp_path / "state"
    assert not is_sharded(folder)
    for size in (2, 1):  # the second replaces the first
        assert run_ranks(_save, size, tmp_path, str(folder), size, False) == [""] * size
        assert len(list(folder.iterdir())) == size + 2
        _is_state(load_sharded(folder), 0, V, size)
        for readers in (1, 2, 3, 4, 9):
            for rank in range(readers):
                place = _rows(rank, readers)
                found = load_sharded(folder, dict.fromkeys(SHARED_OUT, place))
                _is_state(found, *place[:2], size)


def test_a_rank_that_cannot_write_leaves_the_state_before(tmp_path: Path):
    folder = tmp_path / "state"
    run_ranks(_save, 2, tmp_path, str(folder), 1, False)
    for told in run_ranks(_save, 2, tmp_path, str(folder), 2, True):
        assert "ranks [1] could not write their part" in told
    _is_state(load_sharded(folder), 0, V, 1)


def _damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_what_is_damaged_or_does_not_fit_is_refused(tmp_path: Path):
    folder = tmp_path / "state"
    run_ranks(_save, 2, tmp_path, str(folder), 1, False)
    first = dict.fromkeys(SHARED_OUT, _rows(0, 2))
    with pytest.raises(ValueError, match="has 7 rows of model/items, this run has 8"):
        load_sharded(folder, dict.fromkeys(SHARED_OUT, (0, 4, 8)))
    with pytest.raises(ValueError, match=r"shares out .*, this run \['model/items'\]"):
        load_sharded(folder, {"model/items": (0, 4, V)})
    _damaged(folder / "s1-00001-of-00002.safetensors")
    _is_state(load_sharded(folder, first), 0, 4, 1)  # whose rows these are not
    with pytest.raises(ValueError, match=r"s1-00001-of-00002.* missing or damaged"):
        load_sharded(folder)
    (folder / "s1-common.safetensors").unlink()
    with pytest.raises(ValueError, match=r"s1-common.* missing or damaged"):
        load_sharded(folder, first)
    _damaged(folder / "index.json")
    with pytest.raises(ValueError, match="no readable sharded state"):
        load_sharded(folder)


def test_nested_state_is_taken_apart_and_put_together():
    state = {"a": [1, None, True, {"b": torch.ones(2)}], 3: "text", "pairs": {"x": 0.5}}
    tensors, plain = flattened(state)
    back = assembled(tensors, plain)
    assert torch.equal(back["a"][3].pop("b"), torch.ones(2))
    assert back == {"a": [1, None, True, {}], 3: "text", "pairs": {"x": 0.5}}
    with pytest.raises(TypeError, match="'f' holds a function"):
        flattened({"f": flattened})
    with pytest.raises(TypeError, match="read as a tensor's name"):
        flattened({"f": "tensor:a"})
    empty: Tensor = flattened({"t": torch.empty(0)})[0]["t"]
    assert empty.numel() == 0
