"""Cells: computed once, kept, and lost one at a time."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.reproduction import small_cells
from torchrl_drpo import files
from torchrl_drpo.reproduction import workers
from torchrl_drpo.reproduction.cells import CellError, read_cells, run_cells
from torchrl_drpo.reproduction.target import Cell


def double(name: str, x: float, log: Path | None = None, **over: Any) -> Cell:
    settings = {"x": x, "log": None if log is None else str(log)}
    return Cell("t", name, small_cells.double, settings, **over)


def runs(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


# -- what is kept -------------------------------------------------------------------------------


def test_what_was_computed_is_not_computed_again(tmp_path: Path):
    log = tmp_path / "log"
    first = [double("a", 1, log), double("b", 2, log)]
    run_cells(first, tmp_path / "cells", workers=1)
    states = []
    run_cells(
        [*first, double("c", 3, log)],
        tmp_path / "cells",
        workers=1,
        progress=lambda cell, state, seconds: states.append((cell.name, state)),
    )
    assert runs(log) == ["1", "2", "3"]
    assert states == [("a", "read"), ("b", "read"), ("c", "started"), ("c", "computed")]


def test_what_a_section_sees_does_not_depend_on_when_it_was_computed(tmp_path: Path):
    fresh = run_cells([double("a", 1.5)], tmp_path, workers=1)
    assert read_cells([double("a", 1.5)], tmp_path) == (fresh, [])
    assert json.loads((tmp_path / "t" / "a.json").read_text()) == fresh["t"]["a"]


@pytest.mark.parametrize("content", [b"", b'{"fingerprint": "of another cell"}', None])
def test_a_record_that_is_not_whole_is_computed_anew(tmp_path: Path, content: bytes | None):
    log, folder = tmp_path / "log", tmp_path / "cells"
    run_cells([double("a", 1, log)], folder, workers=1)
    path = folder / "t" / "a.json"
    if content is None:  # a number that was changed by hand
        content = path.read_bytes().replace(b'"twice": 2', b'"twice": 3')
    path.write_bytes(content)
    found = run_cells([double("a", 1, log)], folder, workers=1)
    assert found["t"]["a"]["result"]["twice"] == 2
    assert runs(log) == ["1", "1"]
    assert read_cells([double("a", 1, log)], folder) == (found, [])


# -- what fails ---------------------------------------------------------------------------------


def test_a_failing_cell_leaves_the_others_and_a_traceback(tmp_path: Path):
    bad = Cell("t", "bad", small_cells.fail, {"message": "no such number"})
    nan = Cell("u", "nan", small_cells.not_json, {})
    with pytest.raises(CellError, match="2 of 4 cells failed, the others are kept") as caught:
        run_cells([double("a", 1), bad, nan, double("b", 2)], tmp_path, workers=1)
    assert caught.value.failures["t/bad"] == "ArithmeticError: no such number"
    assert caught.value.failures["u/nan"].startswith("ValueError: Out of range float")
    assert sorted(p.name for p in tmp_path.glob("*/*.json")) == ["a.json", "b.json"]
    trace = tmp_path / "t" / "bad.error.txt"
    assert "small_cells.py" in trace.read_text()
    run_cells([Cell("t", "bad", small_cells.double, {"x": 1})], tmp_path, workers=1)
    assert not trace.exists()  # it is well again


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "write"])
def test_a_full_disk_ends_the_run_with_one_error_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    log = tmp_path / "log"
    run_cells([double("a", 1)], tmp_path / "cells", workers=1)
    before = (tmp_path / "cells" / "t" / "a.json").read_bytes()
    owner = Path if call == "write" else files.os
    with monkeypatch.context() as patch:
        patch.setattr(owner, "write_text" if call == "write" else call.removeprefix("os."), full)
        with pytest.raises(OSError, match="cell t/a was computed, but its record") as caught:
            run_cells([double("a", 2, log), double("b", 3, log)], tmp_path / "cells", workers=1)
    message = str(caught.value)
    assert f"{tmp_path / 'cells' / 't' / 'a.json'} (No space left on device)" in message
    assert "give the same command again" in message
    assert runs(log) == ["2"]  # no further cell is computed for nothing
    assert (tmp_path / "cells" / "t" / "a.json").read_bytes() == before
    assert [p.name for p in (tmp_path / "cells" / "t").iterdir()] == ["a.json"]  # and no litter


def test_a_cell_that_fails_on_a_full_disk_is_still_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files.os, "replace", full)
    bad = Cell("t", "bad", small_cells.fail, {"message": "no such number"})
    with pytest.raises(CellError, match="t/bad: ArithmeticError: no such number"):
        run_cells([bad], tmp_path, workers=1)


def test_a_folder_that_cannot_be_written_is_found_out_before_anything_is_computed(tmp_path: Path):
    (tmp_path / "cells").write_text("a file")
    with pytest.raises(OSError, match="cells"):
        run_cells([double("a", 1, tmp_path / "log")], tmp_path / "cells", workers=1)
    assert runs(tmp_path / "log") == []


def test_a_process_that_cannot_keep_its_record_ends_the_others_too(tmp_path: Path):
    folder = tmp_path / "cells"
    blocked = double("a", 1)
    (folder / "t" / "a.json").mkdir(parents=True)  # no file can take its place
    cells = [blocked, Cell("t", "long", small_cells.sleep, {"seconds": 600})]
    with pytest.raises(OSError, match="cell t/a was computed, but its record"):
        run_cells(cells, folder, workers=2)
    assert multiprocessing.active_children() == []


WRITING = """
import os, sys, time
from pathlib import Path
from torchrl_drpo import files
from tests.reproduction.test_cells import double
from torchrl_drpo.reproduction.cells import run_cells

def wait(*_):
    print("writing", flush=True)
    time.sleep(600)

setattr(files.os, sys.argv[2], wait)
run_cells([double("a", 2)], Path(sys.argv[1]), workers=1)
"""


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_run_that_is_killed_while_it_writes_leaves_the_old_record(tmp_path: Path, call: str):
    run_cells([double("a", 1)], tmp_path, workers=1)
    before = (tmp_path / "t" / "a.json").read_bytes()
    command = [sys.executable, "-c", WRITING, str(tmp_path), call]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, env=environment()) as process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "t" / "a.json").read_bytes() == before
    assert read_cells([double("a", 1)], tmp_path)[1] == []
    assert read_cells([double("a", 2)], tmp_path)[1] == [
        double("a", 2)
    ]  # what is left is no record
    found = run_cells([double("a", 2)], tmp_path, workers=1)
    assert found["t"]["a"]["result"]["twice"] == 4


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def test_a_process_that_dies_costs_one_cell(tmp_path: Path):
    states: list[tuple[str, str]] = []
    cells = [
        double("a", 1),
        Cell("t", "killed", small_cells.die, {"code": 7}),
        double("b", 2),
        Cell("t", "torn", small_cells.die_sending, {}),
        Cell("t", "bad", small_cells.fail, {"message": "wrong"}),
        double("c", 3),
        Cell("t", "threads", small_cells.threads, {}),
    ]
    with pytest.raises(CellError) as caught:
        run_cells(
            cells,
            tmp_path,
            workers=2,
            progress=lambda cell, state, seconds: states.append((cell.name, state)),
        )
    assert set(caught.value.failures) == {"t/killed", "t/torn", "t/bad"}
    assert "died with exit code 7 (out of memory?)" in caught.value.failures["t/killed"]
    assert "died with exit code 9" in caught.value.failures["t/torn"]
    assert not (tmp_path / "t" / "killed.error.txt").exists()
    records, missing = read_cells(cells, tmp_path)
    assert [cell.name for cell in missing] == ["killed", "torn", "bad"]
    assert {n: r["result"]["twice"] for n, r in records["t"].items() if n in "abc"} == {
        "a": 2,
        "b": 4,
        "c": 6,
    }
    assert records["t"]["threads"]["result"] == 1  # of each process, beside another
    assert sorted(states) == sorted(
        [(cell.name, "started") for cell in cells]
        + [(n, "computed") for n in ("a", "b", "c", "threads")]
        + [(n, "failed") for n in ("killed", "torn", "bad")]
    )


def test_an_interrupt_ends_the_processes_and_keeps_what_is_done(tmp_path: Path):
    def interrupt(cell: Cell, state: str, seconds: float) -> None:
        if state == "computed":
            raise KeyboardInterrupt

    cells = [double("a", 1), Cell("t", "long", small_cells.sleep, {"seconds": 600})]
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, tmp_path, workers=2, progress=interrupt)
    assert multiprocessing.active_children() == []
    assert read_cells(cells, tmp_path)[1] == cells[1:]


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a b", "a\n", "-a", "é"])
def test_names_that_cannot_name_a_file_are_refused(tmp_path: Path, name: str):
    for cell in (double(name, 1), Cell(name, "a", small_cells.double, {"x": 1})):
        with pytest.raises(ValueError, match="start with a letter or digit") as caught:
            run_cells([cell], tmp_path, workers=1)
        assert repr(name) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_two_cells_of_one_name_are_refused_and_two_targets_may_share_one(tmp_path: Path):
    with pytest.raises(ValueError, match="two cells of target 't' are called 'a'"):
        read_cells([double("a", 1), double("a", 2)], tmp_path)
    other = Cell("u", "a", small_cells.double, {"x": 2})
    found = run_cells([double("a", 1), other], tmp_path, workers=1)
    assert (found["t"]["a"]["result"]["twice"], found["u"]["a"]["result"]["twice"]) == (2, 4)


def test_there_is_a_worker_a_core_up_to_eight(monkeypatch: pytest.MonkeyPatch):
    for cores, expected in ((1, 1), (3, 3), (64, 8)):
        mine = set(range(cores))
        monkeypatch.setattr(workers.os, "sched_getaffinity", lambda _, m=mine: m, raising=False)
        assert workers.default_workers() == expected
    monkeypatch.delattr(workers.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(workers.os, "cpu_count", lambda: None)
    assert workers.default_workers() == 1
