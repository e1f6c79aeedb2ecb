"""What a conversion that cannot end gets: one clear error, and nothing that was there is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensordict import TensorDict

from tests.data.conversion.full_schema import SCHEMA
from torchrl_drpo.data import (
    InitialHistory,
    ItemTable,
    LogError,
    Percentile,
    RecReplayBuffer,
    convert_log,
)
from torchrl_drpo.data.store import LogStore


def contents(root: Path, finished: bool = False) -> dict[str, bytes]:
    """Every file of a conversion by its name; ``finished`` leaves out what is under way."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not (finished and ".partial" in str(path))
    }


def test_another_conversion_is_not_overwritten_unasked(parquet, frame, tmp_path):
    root = tmp_path / "out"
    first = convert_log(parquet, root, SCHEMA)
    before = contents(root)
    other = SCHEMA.replace(quality="play")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert_log(parquet, root, other)
    frame.assign(propensity=2.0).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(LogError, match="propensity"):
        convert_log(tmp_path / "bad.parquet", root, SCHEMA, overwrite=True)
    assert contents(root, finished=True) == before
    assert convert_log(parquet, root, SCHEMA) == first
    assert convert_log(parquet, root, other, overwrite=True).rows == first.rows
    assert len(list(root.glob("data-*"))) == 1


def test_two_conversions_at_once_are_refused(frame, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another process is converting"):
            convert_log(frame, tmp_path, SCHEMA)


def test_a_full_disk_is_said_and_survived(parquet, tmp_path, monkeypatch):
    root = tmp_path / "out"
    convert_log(parquet, root, SCHEMA)
    before = contents(root)
    from torchrl_drpo.data.conversion import journal

    real, left = journal.write_array, [60_000]

    def filling(file, array: np.ndarray) -> memoryview:
        left[0] -= array.nbytes
        if left[0] < 0:
            real(file, array[: len(array) // 2])  # a full disk takes what still fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, array)

    other = SCHEMA.replace(quality="play")
    monkeypatch.setattr(journal, "write_array", filling)
    with pytest.raises(OSError, match="the disk is full while converting") as caught:
        convert_log(parquet, root, other, overwrite=True, partition_rows=90)
    assert caught.value.errno == errno.ENOSPC
    assert contents(root, finished=True) == before
    monkeypatch.undo()
    convert_log(parquet, root, other, overwrite=True, partition_rows=90)
    convert_log(parquet, tmp_path / "b", other, partition_rows=90)
    assert contents(root) == contents(tmp_path / "b")


@pytest.mark.parametrize("folder", ["catalogues", "rows", "index", "notes", "parts", "."])
def test_what_a_killed_write_left_is_no_part_of_the_result(parquet, tmp_path, monkeypatch, folder):
    """Files are written beside their places and moved; a kill between leaves one under its name."""
    convert_log(parquet, tmp_path / "whole", SCHEMA)
    from torchrl_drpo.data.conversion import run

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "finish", stopped)
    with pytest.raises(KeyboardInterrupt):
        convert_log(parquet, tmp_path / "out", SCHEMA)
    monkeypatch.undo()
    (partial,) = (tmp_path / "out").glob("*.partial")
    (partial / folder / ".users.bin.32e346f2.tmp").write_bytes(b"half")
    convert_log(parquet, tmp_path / "out", SCHEMA)
    LogStore(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@contextlib.contextmanager
def largest_file(size):
    """No file may grow beyond ``size`` bytes: numpy and the kernel then say so each in its way."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [100, 1_500, 8_000, 16_000, 40_000])
def test_wherever_the_disk_is_full_it_is_said(frame, tmp_path, size):
    """In the journal, the records, the columns, item tables, histories, the catalogues."""
    frame.assign(user=frame["user"].astype(str)).to_parquet(tmp_path / "log.parquet")
    ids = sorted(frame["item"].unique())
    vectors = np.random.default_rng(0).normal(size=(len(ids), 60)).tolist()
    pd.DataFrame({"id": ids, "e": vectors}).to_parquet(tmp_path / "items.parquet")
    past = {"u": sorted(frame["user"].astype(str).unique())[:2], "h": [ids * 300, ids]}
    pd.DataFrame(past).to_parquet(tmp_path / "past.parquet")
    schema = SCHEMA.replace(
        items=ItemTable("items.parquet", "id", embedding="e"),
        initial_history=InitialHistory("past.parquet", "u", "h"),
    )
    root = tmp_path / "out"
    with largest_file(size), pytest.raises(OSError, match="disk is full while converting into"):
        convert_log(tmp_path / "log.parquet", root, schema)
    convert_log(tmp_path / "log.parquet", root, schema)
    convert_log(tmp_path / "log.parquet", tmp_path / "whole", schema)
    assert contents(root) == contents(tmp_path / "whole")


def test_a_disk_that_is_full_of_rows_is_said(tmp_path):
    rows = TensorDict({"action": torch.zeros(900, 5), "next": {"reward": torch.zeros(900)}}, [900])
    with largest_file(4_000), pytest.raises(OSError, match="disk is full while writing rows into"):
        RecReplayBuffer.from_tensordict(rows, root=tmp_path)
    assert len(RecReplayBuffer.from_tensordict(rows, root=tmp_path)) == 900


def test_damaged_conversions_are_refused(parquet, tmp_path):
    root = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match="convert one first"):
        LogStore(root)
    convert_log(parquet, root, SCHEMA)
    action = next(root.glob("data-*/rows/action.memmap"))
    action.write_bytes(action.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"action.memmap: expected \d+ bytes, found \d+"):
        LogStore(root)
    manifest = root / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 4', '"version": 1', 1))
    with pytest.raises(ValueError, match=r"expected version 4, got 1, .*; convert the log again"):
        LogStore(root)
    manifest.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        LogStore(root)


# Children, each killed by SIGKILL inside its k-th write: an append that is half done, or a rename
# about to happen. One interpreter forks them all, so that imports are paid once.
KILLER = """
import os, signal, sys
import numpy as np
from torchrl_drpo.data import LogSchema
from torchrl_drpo.data.conversion import convert, journal

def convert_and_die(writes):
    left = [writes]
    def due():
        left[0] -= 1
        return left[0] == 0
    def write_array(file, array, real=journal.write_array):
        if due():
            real(file, np.ascontiguousarray(array)[: len(array) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(file, array)
    def replace(old, new, real=os.replace):
        if due():
            os.kill(os.getpid(), signal.SIGKILL)
        real(old, new)
    journal.write_array = write_array
    os.replace = replace
    source, root, schema = sys.argv[1:4]
    schema = LogSchema.from_json(open(schema).read())
    options = dict(test_days=2, batch_rows=40, partition_rows=60, split_rows=90)
    convert.convert_log(source, root, schema, **options)
    os._exit(0)

for writes in map(int, sys.argv[4].split()):
    child = os.fork()
    if child == 0:
        convert_and_die(writes)
    status = os.waitpid(child, 0)[1]
    print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1, flush=True)
    folders = [os.path.join(sys.argv[2], d, "notes") for d in os.listdir(sys.argv[2])]
    print(*[name for f in folders if os.path.isdir(f) for name in os.listdir(f)], flush=True)
"""
#: Within partitioning, sorting, writing, and publishing.
KILLS = [12, 20, 33, 41, 33, 33, 33, 33, 60, 70, 36, 26, 9, 13]


@pytest.mark.slow  # test_workers_killed kills drivers in the gate
def test_a_conversion_killed_in_every_stage_ends_with_the_same_bytes(parquet, tmp_path):
    by = ("user", "duration_bucket")
    quality = Percentile("play", by=by, duration="duration", min_count=3)
    schema = SCHEMA.replace(quality=quality, session_gap=7200.0)
    (tmp_path / "schema.json").write_text(schema.to_json())
    options = {"test_days": 2, "batch_rows": 40, "partition_rows": 60}
    convert_log(parquet, tmp_path / "whole", schema, **options)
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", KILLER, parquet, killed, tmp_path / "schema.json"]
    command.append(" ".join(map(str, KILLS)))
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    lines = run.stdout.splitlines()
    assert lines[::2] == [str(int(signal.SIGKILL))] * len(KILLS), run.stderr
    stages = [Counter(name.partition("-")[0] for name in line.split()) for line in lines[1::2]]
    count = max(found["sorted"] for found in stages)  # the kills must reach every stage
    assert any(found["read"] and not found["sorted"] for found in stages)
    assert any(0 < found["sorted"] < count for found in stages)
    assert any(0 < found["written"] < count for found in stages)
    assert any(found["written"] == count for found in stages)
    assert lines[-1] == "", "the last one died after its notes were gone"
    convert_log(parquet, killed, schema, **options)
    found = contents(killed)
    assert found == contents(tmp_path / "whole")
    assert any(name.endswith("observation/features.memmap") for name in found)
