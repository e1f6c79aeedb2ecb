"""A conversion knows its input by its content: what changed is converted again, nothing else is."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pandas as pd
import pytest

from torchrl_drpo.data import InitialHistory, ItemTable, LogError, LogSchema, convert_log
from torchrl_drpo.data.conversion import run
from torchrl_drpo.data.sources import inputs
from torchrl_drpo.data.store import LogStore

SCHEMA = LogSchema(user="u", item="i", time="t", quality="r", items=ItemTable("items.csv", "id"))
ROWS = 30_000


def write(path, reward):
    columns = {
        "u": np.arange(ROWS) % 300,
        "i": np.arange(ROWS) % 7,
        "t": np.arange(ROWS) + 10**9,
        "r": reward,
    }
    frame = pd.DataFrame(columns)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:  # of the same size whatever the values are
        frame.to_parquet(path, compression=None, index=False, use_dictionary=False)


def rewrite(path, reward):
    write(path, reward)


def in_place(path, reward):
    content = path.read_bytes()
    write(path.with_suffix(".new" + path.suffix), reward)
    changed = path.with_suffix(".new" + path.suffix).read_bytes()
    assert len(changed) == len(content)
    with path.open("rb+") as file:
        file.write(changed)


def keeping_its_date(path, reward):
    before = path.stat()
    in_place(path, reward)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def copied_with_its_date(path, reward):
    before, other = path.stat(), path.with_name("other" + path.suffix)
    write(other, reward)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    shutil.copy2(other, path)


@pytest.fixture
def folder(tmp_path):
    pd.DataFrame({"id": range(7)}).to_csv(tmp_path / "items.csv", index=False)
    return tmp_path


@pytest.mark.parametrize("change", [rewrite, in_place, keeping_its_date, copied_with_its_date])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_log_that_was_corrected_is_converted_again(folder, change, suffix):
    log, root = folder / f"log{suffix}", folder / "out"
    reward = np.arange(ROWS) % 2
    write(log, reward)
    convert_log(log, root, SCHEMA)
    size = log.stat().st_size
    reward[5_000:20_000] = 1
    change(log, reward)
    assert log.stat().st_size == size
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert_log(log, root, SCHEMA)
    convert_log(log, root, SCHEMA, overwrite=True)
    found = LogStore(root).rows["next", "reward"].mean().item()
    assert found == pytest.approx(reward.mean(), rel=1e-5)


def test_what_is_the_same_stays_the_same(folder, monkeypatch):
    log, root = folder / "log.parquet", folder / "out"
    write(log, np.zeros(ROWS))
    convert_log(log, root, SCHEMA)
    name = LogStore(root).data.name
    monkeypatch.setattr(run.Conversion, "run", None)  # nothing is converted any more
    with monkeypatch.context() as patch:  # neither is anything read: the stamps are known
        patch.setattr(inputs, "digest", None)
        convert_log(log, root, SCHEMA)
    os.utime(log)  # touched, or copied to another machine: read, and found the same
    convert_log(log, root, SCHEMA)
    (folder / "elsewhere").mkdir()
    for file in (log, folder / "items.csv"):
        shutil.copy(file, folder / "elsewhere")
    convert_log(folder / "elsewhere" / log.name, root, SCHEMA)
    assert LogStore(root).data.name == name


@pytest.mark.parametrize("table", ["items.csv", "past.parquet"])
def test_tables_beside_the_log_are_input_too(folder, table):
    log, root = folder / "log.parquet", folder / "out"
    write(log, np.zeros(ROWS))
    pd.DataFrame({"u": [1, 2], "h": [[1], [2, 3]]}).to_parquet(folder / "past.parquet")
    schema = SCHEMA.replace(initial_history=InitialHistory("past.parquet", "u", "h"))
    convert_log(log, root, schema)
    if table == "items.csv":
        (folder / table).write_text((folder / table).read_text().replace("6", "9"))
    else:
        pd.DataFrame({"u": [1, 3], "h": [[1], [2, 3]]}).to_parquet(folder / table)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert_log(log, root, schema)


def test_a_log_that_is_written_meanwhile_is_refused(folder):
    log, root = folder / "log.csv", folder / "out"
    write(log, np.zeros(ROWS))

    def touch(stage, *_):
        if stage == "sorted":
            write(log, np.ones(ROWS))

    with pytest.raises(
        LogError, match=r"log\.csv changed while it was converted; convert it again"
    ):
        convert_log(log, root, SCHEMA, progress=touch)
    assert not (root / "manifest.json").exists()
    convert_log(log, root, SCHEMA)
    assert LogStore(root).rows["next", "reward"].mean().item() == 1
    assert len(list(root.glob("data-*"))) == 1  # what was begun with the other content is gone


def test_a_file_of_the_future_is_read_each_time(folder, monkeypatch):
    """Its times say nothing about what was written since: a clock of a server may go ahead."""
    log = folder / "log.csv"
    write(log, np.zeros(ROWS))
    monkeypatch.setattr(inputs.time, "time_ns", lambda: log.stat().st_ctime_ns - 10**9)
    assert inputs.inputs_of([str(log)])[0].stamp is None


def test_remote_files_are_told_by_their_version(frame, tmp_path):
    import fsspec

    schema = LogSchema(user="user", item="item", time="time", quality="click")
    for click in (0, 1):
        with fsspec.open("memory://versions/log.parquet", "wb") as file:
            frame.assign(click=click).to_parquet(file)
        convert_log("memory://versions/log.parquet", tmp_path, schema, overwrite=True)
        assert LogStore(tmp_path).rows["next", "reward"].mean().item() == click
