"""What lies on disk: read by its own manifest alone, never written to, checked when opened."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensordict
import torch
from tensordict import TensorDict

from torchrl_drpo.data import (
    ItemTable,
    LogSchema,
    QuantileSampler,
    RecReplayBuffer,
    StoreError,
    convert_log,
    verify_store,
)
from torchrl_drpo.data.replay import log
from torchrl_drpo.data.store import LogStore

SCHEMA = LogSchema(
    user="user", item="item", time="time", quality="click", context=("tab",), features=("mood",),
    labels=("play",), propensity="propensity",
    items=ItemTable("items.parquet", "id", embedding="e"),
)  # fmt: skip


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def root(frame, tmp_path) -> Path:
    frame.to_parquet(tmp_path / "log.parquet")
    ids = sorted(frame["item"].unique())
    vectors = [[float(i), 1.0] for i in ids]
    pd.DataFrame({"id": ids, "e": vectors}).to_parquet(tmp_path / "items.parquet")
    convert_log(tmp_path / "log.parquet", tmp_path / "root", SCHEMA, test_days=2)
    return tmp_path / "root"


@pytest.fixture
def ted(tmp_path) -> Path:
    rows = TensorDict({"observation": torch.rand(9, 2), "action": torch.arange(9)}, [9])
    rows["next", "reward"] = torch.rand(9, 1)
    RecReplayBuffer.from_tensordict(rows, root=tmp_path / "ted")
    return tmp_path / "ted"


def handed_out(buffer):
    """Every tensor that a buffer gives to its user."""
    keys = buffer.storage[:].keys(include_nested=True, leaves_only=True)
    tensors = {key: buffer.column(key) for key in keys}
    tensors["quality"] = buffer.quality
    tensors["returns"] = buffer.returns_to_go()
    tensors["embeddings"] = buffer.item_embeddings
    if buffer.users is not None:
        tensors["latest"] = buffer.latest_history([100])
    rows = {"rows": buffer[:], "some": buffer[3:9], "sample": buffer.sample(8)}
    tensors |= {(name, k): v for name, td in rows.items() for k, v in td.items(True, True)}
    return {key: value for key, value in tensors.items() if value is not None}


@pytest.mark.parametrize("part", [None, "train"])
def test_nothing_that_is_handed_out_changes_the_log(root, part):
    buffer = RecReplayBuffer.open(root, part=part, history=3, next_observation=True)
    before, rows = contents(root), buffer[:].clone()
    quality, embeddings = buffer.quality.clone(), buffer.item_embeddings.clone()
    for value in handed_out(buffer).values():
        value.copy_(torch.ones_like(value) if value.dtype == torch.bool else value + 77)
    # neither on the disk, nor in what this buffer or another gives from now on
    assert contents(root) == before
    for again in (buffer, RecReplayBuffer.open(root, part=part, history=3, next_observation=True)):
        assert (again[:] == rows).all()
        assert torch.equal(again.quality, quality)
        assert torch.equal(again.item_embeddings, embeddings)


def test_what_torchrl_is_given_reaches_no_file(root, ted):
    for folder in (root, ted):
        before = contents(folder)
        rows = RecReplayBuffer.open(folder).storage[:]
        rows["next", "reward"].add_(1)
        rows["action"][0] = 77
        assert contents(folder) == before
        assert 77 not in RecReplayBuffer.open(folder)[:]["action"]


def test_a_sampler_reads_without_a_copy(root):
    buffer = RecReplayBuffer.open(root)
    storage = buffer.storage
    assert storage.column("action").data_ptr() == storage[:]["action"].data_ptr()
    buffer.set_sampler(QuantileSampler(0.5))
    buffer.sample(4)
    assert buffer.sampler._quality.data_ptr() == storage[:]["next", "reward"].data_ptr()


def test_a_foreign_folder_runs_nothing(root, ted, tmp_path):
    """Metadata of tensordict's may name a pickle; it is not read, and its file is not the one."""

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    name = next(str(c) for c in tensordict.base._ACCEPTED_CLASSES if "NonTensorData" in str(c))
    for folder in (root, ted):
        rows = next(folder.glob("data-*")) / "rows"
        (rows / "evil").mkdir()
        meta = {"_type": name, "_is_non_tensor": True}
        (rows / "evil" / "meta.json").write_text(json.dumps(meta))
        (rows / "evil" / "other.pickle").write_bytes(pickle.dumps({"data": Evil()}))
        RecReplayBuffer.open(folder)
        described = rows / "meta.json"
        if described.is_file():
            meta = json.loads(described.read_text())
            described.write_text(json.dumps({**meta, "evil": {"type": "NonTensorData"}}))
            with pytest.raises(StoreError, match=r"meta\.json: expected \d+ bytes"):
                RecReplayBuffer.open(folder)
    assert not (tmp_path / "executed").exists()


def test_rows_that_are_no_tensors_are_not_stored(tmp_path):
    rows = TensorDict({"action": torch.zeros(2), "next": {"reward": torch.zeros(2)}}, [2])
    for value in (tensordict.NonTensorStack("a", "b"), torch.zeros(2).to(torch.float8_e4m3fn)):
        with pytest.raises(ValueError, match="tensors of numbers or booleans, but 'name'"):
            RecReplayBuffer.from_tensordict(rows.copy().set("name", value), root=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64", "int8", "bool", "float64", "float16"])
def test_rows_of_any_dtype_come_back(tmp_path, dtype):
    values = (torch.arange(12).reshape(4, 3) % 2).to(getattr(torch, dtype))
    rows = TensorDict({"action": values, "odd/../name": values[:, :0], "e": values[:, 0]}, [4])
    rows["next", "reward"] = torch.zeros(4)
    found = RecReplayBuffer.from_tensordict(rows, root=tmp_path / "in")[:]
    for key in ("action", "odd/../name", "e"):
        assert torch.equal(found[key], rows[key])
        assert found[key].dtype == rows[key].dtype
    assert os.listdir(tmp_path) == ["in"]


def test_buffers_go_to_other_processes_by_their_place(root, ted, monkeypatch):
    monkeypatch.chdir(root.parent)
    for buffer in (
        RecReplayBuffer.open("root", part="train"),
        RecReplayBuffer.open("root", sampler=QuantileSampler(0.5, seed=1), batch_size=4),
        RecReplayBuffer.open("ted"),
    ):
        again = pickle.loads(pickle.dumps(buffer))
        assert (again[:] == buffer[:]).all()
        monkeypatch.chdir("/")  # the folder was named relative to another place
        assert (pickle.loads(pickle.dumps(buffer))[:] == buffer[:]).all()
        monkeypatch.chdir(root.parent)
    sent = pickle.dumps(RecReplayBuffer.open(root))
    convert_log(root.parent / "log.parquet", root, SCHEMA.replace(quality="play"), overwrite=True)
    with pytest.raises(ValueError, match="holds another log now"):
        pickle.loads(sent)


def test_a_forked_child_takes_no_folder_with_it(frame, monkeypatch):
    buffer = RecReplayBuffer.from_pandas(frame, SCHEMA.replace(items=None))
    folder, mine = buffer._log.store.root, os.getpid()
    with monkeypatch.context() as patch:  # its own copy of the buffer goes when it ends
        patch.setattr(log.os, "getpid", lambda: mine + 1)
        log._remove(folder, mine)
    assert folder.is_dir()
    log._remove(folder, mine)
    assert not folder.exists()


def test_opening_writes_and_locks_nothing(root):
    shutil.rmtree(root.parent / "copy", ignore_errors=True)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    (root / ".lock").unlink()
    RecReplayBuffer.open(root)
    schema = LogStore(root).schema
    RecReplayBuffer.from_parquet(root.parent / "log.parquet", schema, root=root, test_days=2)
    assert not (root / ".lock").exists()
    after = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert {p: t for p, t in after.items() if p != root} == {
        p: t for p, t in before.items() if p not in (root, root / ".lock")
    }


def test_a_large_file_is_sampled_when_opened_and_read_whole_when_asked(tmp_path):
    rows = 400_000
    table = pd.DataFrame({"i": np.arange(rows) % 9, "r": np.zeros(rows)})
    convert_log(table, tmp_path, LogSchema(item="i", quality="r", duplicates="keep"))
    assert verify_store(tmp_path).ok
    assert "every byte is what was written" in str(verify_store(tmp_path))
    action = next(tmp_path.glob("data-*/rows/action.memmap"))
    with action.open("rb+") as file:
        file.seek(100_001)
        file.write(b"\1")
    assert len(RecReplayBuffer.open(tmp_path)) == rows  # a single byte among three megabytes
    report = verify_store(tmp_path)
    assert not report.ok
    assert [fault.path for fault in report.faults] == [action]
    assert "another digest" in str(report)
    assert json.loads(report.to_json())["ok"] is False
    with pytest.raises(StoreError, match=r"action\.memmap: damaged.*convert the log again"):
        RecReplayBuffer.open(tmp_path, verify=True)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "is damaged|damaged"),
        ("[]", "not the manifest of a converted log"),
        ("[" * 100_000, "nested too deeply"),
        ('{"format": "other"}', "not the manifest of a converted log"),
        ('{"format": "torchrl-drpo-log", "version": 1}', "expected version 4, got 1"),
        ('{"format": "torchrl-drpo-log", "version": 4}', "its digest is another"),
    ],
)
def test_a_manifest_that_is_none_is_one_clear_error(root, manifest, message):
    (root / "manifest.json").write_text(manifest)
    with pytest.raises(StoreError, match=message) as caught:
        LogStore(root)
    assert "overwrite=True" in str(caught.value)
    assert "\n" not in str(caught.value)
    report = verify_store(root)
    assert not report.ok
    assert report.faults[0].path == root / "manifest.json"
