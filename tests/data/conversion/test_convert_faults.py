"""What a bad log gets: one clear error, and nothing that was there is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo.data import (
    InitialHistory,
    ItemTable,
    LogError,
    LogSchema,
    Percentile,
    RecReplayBuffer,
    convert_log,
)
from torchrl_drpo.data.store import LogStore

SCHEMA = LogSchema(
    user="user", item="item", time="time", quality="click + 0.0 * play", propensity="propensity",
    context=("tab",), features=("age", "mood"), labels=("duration",),
)  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("play", np.nan, "row 17: reward is not finite: play is nan"),
        ("play", np.inf, "row 17: reward is not finite: play is inf"),
        ("propensity", 0.0, r"row 17: propensity outside \(0, 1\]: 0.0; expected a probability"),
        ("propensity", 1.5, r"row 17: propensity outside \(0, 1\]: 1.5"),
        ("propensity", np.nan, r"row 17: propensity outside \(0, 1\]: nan"),
        ("item", -1, "row 17: negative item id: -1"),
        ("user", None, "row 17: missing id: user is null"),
        ("item", None, "row 17: missing id: item is null"),
        ("time", None, "row 17: missing time: time is null"),
        ("tab", None, "row 17: missing id: tab is null"),
        ("mood", np.nan, "row 17: feature is not finite: mood is nan; fill it, clip it"),
        ("mood", -np.inf, "row 17: feature is not finite: mood is -inf"),
        ("mood", 1e39, r"row 17: feature is not finite: mood is 1e\+39"),  # float32 ends at 3.4e38
        ("age", None, "row 17: feature is not finite: age is nan"),
    ],
)
def test_a_bad_value_is_named_or_dropped(frame, tmp_path, column, value, message):
    if value is None:
        frame[column] = frame[column].astype("Int64")
    frame.loc[17, column] = value
    frame.to_parquet(tmp_path / "log.parquet")
    with pytest.raises(LogError, match=message) as caught:
        convert_log(tmp_path / "log.parquet", tmp_path / "out", SCHEMA)
    assert "log.parquet" in str(caught.value)
    report = convert_log(tmp_path / "log.parquet", tmp_path / "out", SCHEMA, bad_rows="drop")
    kind = message.split("row 17: ")[1].split(":")[0].replace("\\", "")
    assert report.dropped == {kind: 1}
    assert report.rows + report.duplicates == len(frame) - 1


def test_a_formula_that_is_not_finite_names_the_row(frame):
    with pytest.raises(LogError, match=r"row \d+: reward is not finite: log\(click\) gives -inf"):
        RecReplayBuffer.from_pandas(frame, SCHEMA.replace(quality="log(click)"))


def test_columns_that_are_missing_or_of_another_kind(frame):
    with pytest.raises(LogError, match=r"no column 'clik' \(did you mean 'click'"):
        RecReplayBuffer.from_pandas(frame, SCHEMA.replace(quality="clik"))
    with pytest.raises(LogError, match=r"row 0: the id user is 1\d\d.5, which is no whole number"):
        RecReplayBuffer.from_pandas(frame.assign(user=frame["user"] + 0.5), SCHEMA)
    with pytest.raises(LogError, match="'play' holds string values"):
        RecReplayBuffer.from_pandas(frame.assign(play="much"), SCHEMA)
    with pytest.raises(LogError, match=r"'mood' holds string values, .* boolean or float"):
        RecReplayBuffer.from_pandas(frame.assign(mood="good"), SCHEMA)
    both = SCHEMA.replace(features=("tab",))  # a category may hold strings, a number may not
    with pytest.raises(LogError, match=r"'tab' holds string values, .* boolean or integer values"):
        RecReplayBuffer.from_pandas(frame.assign(tab="home"), both)
    with pytest.raises(LogError, match="holds float values, but the schema uses it where list"):
        RecReplayBuffer.from_pandas(frame, SCHEMA.replace(history="play", duplicates="keep"))
    timeless = SCHEMA.replace(time=None, duplicates="keep")
    with pytest.raises(LogError, match="a split by day needs"):
        RecReplayBuffer.from_pandas(frame, timeless, test_days=1)


def test_files_that_are_not_what_they_say(frame, tmp_path):
    whole = tmp_path / "whole.parquet"
    frame.to_parquet(whole)
    cases = {
        "truncated.parquet": (whole.read_bytes()[: whole.stat().st_size // 2], "truncated"),
        "foreign.parquet": (b"user,item\n1,2\n" * 50, "truncated, damaged or of another format"),
        "empty.parquet": (b"", r"is empty \(0 bytes\)"),
        "notes.xls": (b"hello", "neither Parquet"),
        "notes.txt": (b"hello\nyou\n", "has no column 'user'"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LogError, match=message) as caught:
            convert_log(tmp_path / name, tmp_path / "out", SCHEMA)
        assert name in str(caught.value)
    frame.iloc[:0].to_parquet(tmp_path / "none.parquet")
    with pytest.raises(LogError, match="the log has no rows"):
        convert_log(tmp_path / "none.parquet", tmp_path / "out", SCHEMA)
    with pytest.raises(FileNotFoundError, match="no log file matches"):
        convert_log(tmp_path / "nowhere*.parquet", tmp_path / "out", SCHEMA)
    with pytest.raises(TypeError, match="a log is a path"):
        convert_log(3, tmp_path / "out", SCHEMA)


def test_damaged_pages_deep_in_a_file(frame, tmp_path):
    path = tmp_path / "log.parquet"
    frame.to_parquet(path, compression="gzip")
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 200] = b"\x07" * 200  # the footer stays whole
    path.write_bytes(content)
    with pytest.raises(LogError, match=r"log\.parquet cannot be read"):
        convert_log(path, tmp_path / "out", SCHEMA)


def test_mixed_schemas_between_files(parquet, frame, tmp_path):
    frame.assign(user=frame["user"].astype(str)).to_parquet(parquet / "part-9.parquet")
    with pytest.raises(LogError, match=r"'user' is integer in .*part-0.* but string in .*part-9"):
        convert_log(parquet, tmp_path / "out", SCHEMA)
    frame.drop(columns="tab").to_parquet(parquet / "part-9.parquet")
    with pytest.raises(LogError, match=r"part-9.parquet has no column 'tab'"):
        convert_log(parquet, tmp_path / "out", SCHEMA)
    # a number is a number: one writer's int32 is another's int64
    frame.astype({"click": "int64", "play": "float32"}).to_parquet(parquet / "part-9.parquet")
    assert convert_log(parquet, tmp_path / "out", SCHEMA).rows_read == 2 * len(frame)


def test_duplicates_can_be_an_error_or_stay(frame):
    with pytest.raises(LogError, match="exact duplicate rows, the first: user"):
        RecReplayBuffer.from_pandas(frame, SCHEMA.replace(duplicates="error"))
    kept = RecReplayBuffer.from_pandas(frame, SCHEMA.replace(duplicates="keep"))
    assert len(kept) == len(frame)


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


def test_side_tables_are_checked(frame, tmp_path):
    frame.to_parquet(tmp_path / "log.parquet")

    def convert(table: pd.DataFrame, **schema):
        table.to_parquet(tmp_path / "side.parquet")
        convert_log(tmp_path / "log.parquet", tmp_path / "out", SCHEMA.replace(**schema))

    ids = frame["item"].unique()
    repeated = pd.DataFrame({"id": [*ids, ids[0]]})
    with pytest.raises(LogError, match=rf"side.parquet: id {ids[0]} repeats"):
        convert(repeated, items=ItemTable("side.parquet", "id"))
    ragged = pd.DataFrame({"id": [1, 2], "e": [[1.0, 2.0], [3.0]]})
    with pytest.raises(LogError, match="row 1: embedding of 1 numbers, expected 2"):
        convert(ragged, items=ItemTable("side.parquet", "id", embedding="e"))
    holes = pd.DataFrame({"id": [1, 2], "c": pd.array([1, None], dtype="Int64")})
    with pytest.raises(LogError, match="lacks one of its codes"):
        convert(holes, items=ItemTable("side.parquet", "id", codes=("c",)))
    user = int(frame["user"][0])
    twice = pd.DataFrame({"u": [user, user], "h": [[7], [14]]})
    with pytest.raises(LogError, match=f"user {user} repeats"):
        convert(twice, initial_history=InitialHistory("side.parquet", "u", "h"))
    with pytest.raises(FileNotFoundError, match=r"no log file matches .*gone.parquet"):
        convert(twice, items=ItemTable("gone.parquet", "id"))


def test_arguments_are_checked(frame, tmp_path):
    with pytest.raises(ValueError, match="bad_rows must be"):
        convert_log(frame, tmp_path, SCHEMA, bad_rows="ignore")
    with pytest.raises(ValueError, match="test_days must be at least 1"):
        convert_log(frame, tmp_path, SCHEMA, test_days=0)
    with pytest.raises(ValueError, match="test_days or test_start, not both"):
        convert_log(frame, tmp_path, SCHEMA, test_days=1, test_start="1970-01-02")
    with pytest.raises(ValueError, match="must be YYYY-MM-DD, got 'tomorrow'"):
        convert_log(frame, tmp_path, SCHEMA, test_start="tomorrow")
    with pytest.raises(ValueError, match="batch_rows must be at least 1"):
        convert_log(frame, tmp_path, SCHEMA, batch_rows=0)
    with pytest.raises(LogError, match="no row is left"):
        convert_log(frame.assign(propensity=0.0), tmp_path, SCHEMA, bad_rows="drop")
    with pytest.raises(LogError, match="rewards do not fit float32"):
        convert_log(frame, tmp_path, SCHEMA.replace(quality="1e39 * click + 1e39"))
    percentile = SCHEMA.replace(quality=Percentile("play"))
    with pytest.raises(ValueError, match="needs training rows to be fitted on"):
        convert_log(frame, tmp_path, percentile, test_start="1960-01-01")
    halves = frame.assign(position=1.5)
    with pytest.raises(LogError, match=r"row 0: not a whole number: position is 1.5"):
        convert_log(halves, tmp_path, SCHEMA.replace(position="position"))
    days = frame.assign(day=20201301)
    with pytest.raises(LogError, match="row 0: no date: day 20201301; expected YYYYMMDD"):
        convert_log(days, tmp_path, SCHEMA.replace(date="day"))


def test_a_missing_extra_is_named(frame, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'torchrl-drpo\[data\]'"):
        RecReplayBuffer.from_pandas(frame, SCHEMA)


def test_two_conversions_at_once_are_refused(frame, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another process is converting"):
            convert_log(frame, tmp_path, SCHEMA)


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
    manifest.write_text(manifest.read_text().replace('"version": 3', '"version": 1', 1))
    with pytest.raises(ValueError, match=r"expected version 3, got 1, .*; convert the log again"):
        LogStore(root)
    manifest.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        LogStore(root)


def contents(root: Path, finished: bool = False) -> dict[str, bytes]:
    """Every file of a conversion by its name; ``finished`` leaves out what is under way."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not (finished and ".partial" in str(path))
    }


# Children, each killed by SIGKILL inside its k-th write: an append that is half done, or a rename
# about to happen. One interpreter forks them all, so that imports are paid once.
KILLER = """
import json, os, signal, sys
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
    convert.convert_log(source, root, schema, test_days=2, batch_rows=40, partition_rows=60)
    os._exit(0)

for writes in map(int, sys.argv[4].split()):
    child = os.fork()
    if child == 0:
        convert_and_die(writes)
    status = os.waitpid(child, 0)[1]
    print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1, flush=True)
    journals = [os.path.join(sys.argv[2], d, "journal.json") for d in os.listdir(sys.argv[2])]
    states = [json.load(open(j))["state"] for j in journals if os.path.exists(j)]
    print(*[json.dumps(state) for state in states], flush=True)
"""


#: Within partitioning, sorting, scoring, writing catalogues, and publishing.
KILLS = [9, 33, 41, 17, 44, 44, 44, 26, 7, 7, 8, 9, 10, 11]


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
    states = [json.loads(line) for line in lines[1::2] if line]
    assert {s["partitioned"] for s in states} == {True, False}
    count = states[-1]["scored"]  # the kills must reach every stage to mean anything
    assert any(0 < s["sorted"] < count for s in states)
    assert any(0 < s["scored"] < count for s in states)
    assert lines[-1] == "", "the last one died after its journal was gone"
    convert_log(parquet, killed, schema, **options)
    found = contents(killed)
    assert found == contents(tmp_path / "whole")
    assert any(name.endswith("observation/features.memmap") for name in found)
