"""Cells: computed once, kept, and lost one at a time."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from tests.reproduction import small_cells
from torchrl_drpo.reproduction import cells as module
from torchrl_drpo.reproduction.cells import (
    CellError,
    default_workers,
    read_cells,
    run_cells,
)
from torchrl_drpo.reproduction.target import Cell


def double(name: str, x: float, log: Path | None = None, **over: Any) -> Cell:
    settings = {"x": x, "log": None if log is None else str(log)}
    return Cell("t", name, small_cells.double, settings, **over)


def runs(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


# -- what is kept -------------------------------------------------------------------------------


def test_a_cell_is_kept_as_the_json_that_a_section_sees(tmp_path: Path):
    cell = double("a", 1.5)
    fresh = run_cells([cell], tmp_path, workers=1)["t"]["a"]
    assert fresh["result"]["pair"] == [1.5, 1.5]  # a list, as it will be when it is read
    assert fresh["settings"] == {"x": 1.5, "log": None}
    assert fresh["made"]["torch"]
    assert fresh["processor_seconds"] >= 0
    assert json.loads((tmp_path / "t" / "a.json").read_text()) == fresh
    records, missing = read_cells([cell], tmp_path)
    assert records["t"]["a"] == fresh
    assert missing == []


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


@pytest.mark.parametrize(
    "changed",
    [
        Cell("t", "a", small_cells.double, {"x": 1, "log": None}, version=2),
        Cell("t", "a", small_cells.double, {"x": 2, "log": None}),
        Cell("t", "a", small_cells.fail, {"x": 1, "log": None}),
    ],
)
def test_another_version_setting_or_function_is_another_cell(tmp_path: Path, changed: Cell):
    run_cells([double("a", 1)], tmp_path, workers=1)
    assert read_cells([changed], tmp_path) == ({"t": {}}, [changed])
    assert read_cells([double("a", 1)], tmp_path)[1] == []


def test_the_order_of_settings_and_the_kind_of_sequence_are_no_difference(tmp_path: Path):
    one = Cell("t", "a", small_cells.double, {"x": 1, "log": None})
    run_cells([one], tmp_path, workers=1)
    assert (
        read_cells([Cell("t", "a", small_cells.double, {"log": None, "x": 1})], tmp_path)[1] == []
    )
    settings = [{"seeds": (0, 1)}, {"seeds": [0, 1]}]
    prints = {module._fingerprint(Cell("t", "a", small_cells.double, s)) for s in settings}
    assert len(prints) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"fingerprint": "',
        b"\xff\xfe\x00",
        b"[1, 2]",
        b"null",
        b'{"fingerprint": "of another cell", "seconds": 1, "result": 1}',
    ],
)
def test_a_damaged_or_foreign_file_is_computed_again(tmp_path: Path, content: bytes):
    log = tmp_path / "log"
    cell = double("a", 1, log)
    run_cells([cell], tmp_path / "cells", workers=1)
    (tmp_path / "cells" / "t" / "a.json").write_bytes(content)
    found = run_cells([cell], tmp_path / "cells", workers=1)
    assert found["t"]["a"]["result"]["twice"] == 2
    assert runs(log) == ["1", "1"]


def test_a_record_without_its_result_is_no_record(tmp_path: Path):
    cell = double("a", 1)
    run_cells([cell], tmp_path, workers=1)
    path = tmp_path / "t" / "a.json"
    record = json.loads(path.read_text())
    del record["result"]
    path.write_text(json.dumps(record))
    assert read_cells([cell], tmp_path)[1] == [cell]


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


def test_a_file_is_the_old_one_until_it_is_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_cells([double("a", 1)], tmp_path, workers=1)
    before = (tmp_path / "t" / "a.json").read_bytes()

    def no_room(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("torchrl_drpo.pipeline.artifacts.folder.os.replace", no_room)
    with pytest.raises(OSError, match="no space left"):  # nor is there room for the traceback
        run_cells([double("a", 2)], tmp_path, workers=1)
    assert (tmp_path / "t" / "a.json").read_bytes() == before
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["a.json"]  # and no litter


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
        monkeypatch.setattr(module.os, "sched_getaffinity", lambda _, m=mine: m, raising=False)
        assert default_workers() == expected
    monkeypatch.delattr(module.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(module.os, "cpu_count", lambda: None)
    assert default_workers() == 1
