"""The folder of a conversion: what may be removed, who may write, and that again always works."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.ordered import ordered
from torchrl_drpo.data import LogSchema, RecReplayBuffer, convert_log
from torchrl_drpo.data.conversion import run
from torchrl_drpo.data.store import LogStore, folder
from torchrl_drpo.files import fingerprint

SCHEMA = LogSchema(user="user", item="item", time="time", quality="click", labels=("play",))
OTHER = SCHEMA.replace(quality="play")


@pytest.fixture
def log(frame, tmp_path) -> Path:
    frame.to_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


@pytest.fixture
def root(log) -> Path:
    convert_log(log, log.parent / "root", SCHEMA)
    return log.parent / "root"


def data(root: Path) -> Path:
    return LogStore(root).data


def test_only_what_a_conversion_made_is_removed(log, root):
    old = data(root)
    partial = root / "data-00112233445566ff.partial"  # of a conversion that died
    folder.mark(partial)
    theirs = [
        root / "data-2024", root / "data-raw", root / "data-0123456789abcdef",
        root / "data-0123456789abcdef.partial", root / "data-00112233445566aa",
    ]  # fmt: skip
    for other in theirs:
        other.mkdir()
        (other / "precious.txt").write_text("x")
    (theirs[-1] / folder.MARK).write_text('{"format": "torchrl-drpo-log", "data": "another"}')
    (root / "data-notes.txt").write_text("x")
    outside = root.parent / "data-fedcba9876543210"
    folder.mark(outside)
    (root / outside.name).symlink_to(outside)
    convert_log(log, root, OTHER, overwrite=True)
    assert all((other / "precious.txt").read_text() == "x" for other in theirs)
    assert (root / "data-notes.txt").read_text() == "x"
    assert (root / outside.name).is_symlink()
    assert outside.is_dir()
    assert not old.exists()
    assert not partial.exists()


@pytest.mark.parametrize("name", ["../precious", "/tmp", ".", "data-raw", "data-0123456789abcdef"])
def test_a_manifest_that_names_a_foreign_folder_removes_nothing(log, root, name):
    (root.parent / "precious").mkdir()
    (root / "data-raw").mkdir()
    (root / "data-0123456789abcdef").mkdir()
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["data"] = name
    del manifest["sha256"]
    manifest["sha256"] = fingerprint(manifest)
    (root / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="convert the log again"):
        LogStore(root)
    convert_log(log, root, OTHER, overwrite=True)
    assert (root.parent / "precious").is_dir()
    assert (root / "data-raw").is_dir()
    assert (root / "data-0123456789abcdef").is_dir()


def test_a_conversion_of_the_version_before_is_replaced_whole(log, tmp_path):
    root = tmp_path / "old"
    old = root / "data-0123456789abcdef"
    (old / "rows").mkdir(parents=True)
    (old / "schema.json").write_text(SCHEMA.to_json())
    (old / "rows" / "meta.json").write_text("{}")
    manifest = {"format": "torchrl-drpo-log", "version": 1, "data": old.name, "files": {}}
    (root / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"expected version 4, got 1, .*convert the log again"):
        RecReplayBuffer.open(root)
    with pytest.raises(FileExistsError, match="expected version 4, got 1"):
        convert_log(log, root, SCHEMA)
    assert old.is_dir()
    convert_log(log, root, SCHEMA, overwrite=True)
    assert LogStore(root).report.rows > 0
    assert not old.exists()


def _cut(root: Path) -> None:
    os.truncate(data(root) / "rows" / "action.memmap", 100)


def _change(root: Path) -> None:
    path = data(root) / "rows" / "action.memmap"
    path.write_bytes(bytes(path.stat().st_size))


def _lose_a_file(root: Path) -> None:
    (data(root) / "schema.json").unlink()


def _lose_the_data(root: Path) -> None:
    shutil.rmtree(data(root))


def _swap(root: Path) -> None:
    rows = data(root) / "rows"
    content = (rows / "user.memmap").read_bytes()
    (rows / "action.memmap").rename(rows / "user.memmap")
    (rows / "action.memmap").write_bytes(content)


def _break_the_manifest(root: Path) -> None:
    (root / "manifest.json").write_text('{"format": ')


def _no_manifest(root: Path) -> None:
    (root / "manifest.json").unlink()


def _deep_manifest(root: Path) -> None:
    (root / "manifest.json").write_text("[" * 100_000)


def _a_file_for_a_folder(root: Path) -> None:
    found = data(root)
    shutil.rmtree(found)
    found.write_text("x")


DAMAGES = [
    _cut, _change, _lose_a_file, _lose_the_data, _swap, _break_the_manifest, _no_manifest,
    _deep_manifest,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("schema", [SCHEMA, OTHER])
def test_converting_again_works_whatever_is_left(log, root, damage, schema):
    expected = LogStore(root).rows["action"].clone()
    damage(root)
    with pytest.raises((ValueError, FileNotFoundError), match="convert"):
        RecReplayBuffer.open(root)
    convert_log(log, root, schema, overwrite=True)
    assert (RecReplayBuffer.open(root, verify=True).column("action") == expected).all()
    assert len(list(root.glob("data-*"))) == 1


@pytest.mark.parametrize("damage", [_cut, _change, _lose_a_file, _lose_the_data, _swap])
def test_a_damaged_conversion_of_the_same_log_is_made_anew_unasked(log, root, damage):
    damage(root)
    convert_log(log, root, SCHEMA)
    assert RecReplayBuffer.open(root, verify=True).report.rows > 0


def test_what_stands_in_the_way_is_said_and_left_alone(log, root):
    name = data(root).name
    _a_file_for_a_folder(root)
    with pytest.raises(FileExistsError, match=rf"{name} is in the way: no conversion made it"):
        convert_log(log, root, SCHEMA)
    assert (root / name).read_text() == "x"
    shutil.rmtree(root)
    (root / f"{name}.partial").mkdir(parents=True)
    (root / f"{name}.partial" / "precious").write_text("x")
    with pytest.raises(FileExistsError, match=r"partial is in the way"):
        convert_log(log, root, SCHEMA)
    assert (root / f"{name}.partial" / "precious").read_text() == "x"


def _note_naming(work: Path, name: str) -> None:
    """As somebody would write it who wants another file removed, or taken for one of these."""
    path = _note(work, "sorted")
    note = json.loads(path.read_text())
    note["files"].append([name, 0, 0, 0])
    del note["sha256"]
    path.write_text(json.dumps({**note, "sha256": fingerprint(note)}))


def _note(work: Path, stage: str) -> Path:
    return sorted((work / "notes").glob(f"{stage}-*.json"))[-1]


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda work: _flip(_note(work, "written"), 40),
        lambda work: _flip(_note(work, "sorted"), 40),
        lambda work: _flip(_note(work, "read"), 40),
        lambda work: _flip(sorted((work / "parts").glob("*/sorted"))[-1], 100),
        lambda work: _flip(work / "rows" / "user.memmap", 33),
        lambda work: os.truncate(work / "rows" / "user.memmap", 8),
        lambda work: (work / "rows" / "user.memmap").unlink(),
        lambda work: (work / "rows" / "other.memmap").write_text("a stranger"),
        lambda work: os.truncate(work / "rows" / "user.memmap", 1 << 16),
        lambda work: _note(work, "written").write_text("[]"),
        lambda work: shutil.rmtree(work / "notes"),
        lambda work: (work / "index" / "link").symlink_to(work.parent.parent / "log.parquet"),
        lambda work: os.link(work / "rows" / "user.memmap", work.parent.parent / "another name"),
        lambda work: _note_naming(work, "../../log.parquet"),
        lambda work: _note_naming(work, str(work.parent.parent / "log.parquet")),
        lambda work: (work / folder.MARK).write_text("{"),
    ],
)
def test_what_a_dead_conversion_left_is_checked_before_it_is_built_upon(log, tmp_path, damage):
    _goes_on_behind_damage(log, tmp_path, "scored", damage)


@pytest.mark.parametrize(
    "damage",
    [
        lambda work: _flip(sorted((work / "parts").glob("*/*.rec"))[-1], 100),
        lambda work: sorted((work / "parts").glob("*/*.rec"))[-1].unlink(),
        lambda work: _flip(_note(work, "read"), 40),
        lambda work: shutil.rmtree(work / "parts"),
    ],
)
def test_what_one_left_that_was_still_sorting_is_checked_too(log, tmp_path, damage):
    _goes_on_behind_damage(log, tmp_path, "sorted", damage)


def _goes_on_behind_damage(log, tmp_path, when, damage):
    options = {"batch_rows": 50, "partition_rows": 80}
    convert_log(log, tmp_path / "whole", SCHEMA, **options)

    def die(stage, done, _):
        if (stage, done) == (when, 2):
            raise KeyboardInterrupt

    root = tmp_path / "root"
    with pytest.raises(KeyboardInterrupt):
        convert_log(log, root, SCHEMA, progress=die, **options)
    work = next(root.glob("*.partial"))
    before = log.read_bytes()
    damage(work)
    if not folder.is_own(work):  # its mark was hit: it may be anybody's
        with pytest.raises(FileExistsError, match="is in the way"):
            convert_log(log, root, SCHEMA, **options)
        shutil.rmtree(work)
    convert_log(log, root, SCHEMA, **options)
    one, other = LogStore(root, verify=True), LogStore(tmp_path / "whole")
    assert one.manifest == other.manifest
    assert log.read_bytes() == before


@pytest.mark.parametrize("name", ["../../up", "/abs", "a.b", "x/../../../../../escaped", "."])
def test_names_from_a_log_are_no_paths(frame, tmp_path, name):
    """As a label, a context, a part of the log: found under its name, written nowhere else."""
    named = name.replace("/abs", str(tmp_path / "victim"))
    (tmp_path / "victim.memmap").write_text("precious")
    root = tmp_path / "deep" / "er" / "root"
    frame = frame.assign(part=np.where(frame["time"] % 1200 == 0, named, "train"))
    frame[named] = frame["play"]
    context = f"{named} too"
    frame[context] = frame["tab"]
    schema = SCHEMA.replace(labels=(named,), context=(context,), split="part")
    buffer = RecReplayBuffer.from_parquet(frame, schema, root=root, history=0)
    kept = ordered(frame)
    assert buffer.column(named).tolist() == kept["play"].tolist()
    assert buffer[:][named].tolist() == kept["play"].tolist()
    assert buffer.contexts[context].decode([0, 3]) == [0, 3]
    assert len(buffer.split(named)) == (kept["part"] == named).sum()
    assert (tmp_path / "victim.memmap").read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"victim.memmap", "deep"}
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["root"]
    known = {"rows", "index", "catalogues", folder.MARK, "schema.json"}
    assert {path.name for path in data(root).iterdir()} == known


def test_two_of_the_same_conversion_are_one(log, tmp_path, monkeypatch):
    root, runs, real = tmp_path / "root", [], run.Conversion.run

    def slow(self):
        runs.append(1)
        time.sleep(0.5)
        return real(self)

    monkeypatch.setattr(run.Conversion, "run", slow)
    reports = []
    threads = [
        threading.Thread(target=lambda: reports.append(convert_log(log, root, SCHEMA)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 1
    assert len(reports) == 4
    assert all(report == reports[0] for report in reports)


def test_another_conversion_waits_for_nobody(log, root):
    fcntl = pytest.importorskip("fcntl")
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="another process is converting into"):
            convert_log(log, root, OTHER, overwrite=True)
        convert_log(log, root, SCHEMA)  # it is there: nothing to wait for
    (root / ".lock").unlink()
    (root / ".lock").symlink_to(log)
    before = log.read_bytes()
    with pytest.raises(OSError, match=r"\.lock"):
        convert_log(log, root, OTHER, overwrite=True)
    assert log.read_bytes() == before
