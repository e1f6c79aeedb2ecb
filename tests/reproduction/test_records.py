"""Records: whose they are wherever code stands, and that they are what was written."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.reproduction import small_cells
from torchrl_drpo.reproduction.records import (
    compute_record,
    former_identity,
    identity,
    read_record,
    record_path,
)
from torchrl_drpo.reproduction.registry import load_targets
from torchrl_drpo.reproduction.target import Cell, Options

CELL = Cell("t", "a", small_cells.double, {"x": 1.5, "log": None})
#: By target, its first cell at the default options, as version 0.1 identified it.
FORMER = {
    "table1": "6dccc89fcb6e8be6d4f3fca350641bf85e0ff979ba042724ac9e22472207f135",
    "divergence": "1d4694c7089d25a53286c05b4c6aff53a4648c2e68df1585806f700845e8be69",
    "noise": "79ee1bdf7ac8fa0c8bdb0ddeb21cf44fbe94b1a7af1dd6eee59c274926696bfd",
    "ablation": "eec727a85ab15a38056ed736999be8dd4ddfcfc7910ab16d2bebabecec3e5ac3",
    "sensitivity": "6aee862037ef9914acdb91c9a801302c12bedb847355a6581e0e884b309a0bac",
    "online": "de468f76d2e85c24ceca19cb3b08581827b968dfa3adbf9189681077534741da",
    "geometry": "1699fd1eff8b977ceda1d5fc0a49280199756efa5b3cdc543d758b5e9a3e54eb",
    "cu1": "78c24ae6620882087e5c580411ac452d9bb0dbcce89b28d23c602a40c1de9bcc",
    "du1": "b01acec8bcfceb5299c795f7a146aeaf2a7fc322f3668e67530ba9986226e5c0",
    "kuairand": "2c1a2a5e80c0dadc662cf5293dd291ed4031d59e5865599dbf8c59a66798e44a",
    "beyond": "bf64d733430291b5e2ceec8aa78d8896bc115379de9ee115ccf9921610885b2e",
}


def write(folder: Path, record: Any, cell: Cell = CELL) -> Path:
    path = record_path(cell, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def written(folder: Path) -> dict[str, Any]:
    record = compute_record(CELL)
    write(folder, record)
    return record


# -- whose they are -----------------------------------------------------------------------------


def first_cells() -> dict[str, Cell]:
    options = Options(logs=Path("log.parquet"))
    cells = {target.name: target.cells(options) for target in load_targets(["all"])}
    return {name: found[0] for name, found in cells.items() if found}  # some need files


def test_a_function_that_moves_is_the_same_function():
    body = small_cells.double.__code__
    moved = types.FunctionType(body, {"__name__": "elsewhere"}, "double")
    moved.__qualname__, moved.__module__ = "double", "elsewhere"
    assert identity(Cell("t", "a", moved, CELL.settings)) == identity(CELL)


@pytest.mark.parametrize(
    "other",
    [
        Cell("u", "a", small_cells.double, CELL.settings),
        Cell("t", "b", small_cells.double, CELL.settings),
        Cell("t", "a", small_cells.fail, CELL.settings),
        Cell("t", "a", small_cells.double, {"x": 1.5, "log": "x"}),
        Cell("t", "a", small_cells.double, CELL.settings, version=2),
    ],
)
def test_everything_else_is_another_cell(other: Cell):
    assert identity(other) != identity(CELL)


def test_the_order_of_settings_and_the_kind_of_sequence_are_no_difference():
    settings = [{"seeds": (0, 1), "x": 1}, {"x": 1, "seeds": [0, 1]}]
    assert len({identity(Cell("t", "a", small_cells.double, s)) for s in settings}) == 1


def test_what_0_1_computed_is_still_known_where_it_would_be_the_same(tmp_path: Path):
    cells = {name: cell for name, cell in first_cells().items() if name in FORMER}
    for name in [name for name, cell in cells.items() if cell.version > 1]:
        assert former_identity(cells.pop(name)) != FORMER[name]
    assert {"cu1", "du1"} <= cells.keys()
    for name, cell in cells.items():
        assert former_identity(cell) == FORMER[name]
        former = {"fingerprint": FORMER[name], "seconds": 1.5, "result": {"a": [1]}}
        former["settings"] = dict(cell.settings)  # neither `made` nor a digest
        write(tmp_path, former, cell)
        assert read_record(cell, tmp_path)["result"] == {"a": [1]}
        changed = Cell(cell.target, cell.name, cell.run, cell.settings, cell.version + 1)
        assert read_record(changed, tmp_path) is None
    assert former_identity(CELL) is None  # 0.1 had no such target


# -- that they are what was written -------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(tmp_path: Path):
    record = written(tmp_path)
    assert read_record(CELL, tmp_path) == record
    assert record["result"]["pair"] == [1.5, 1.5]  # a list, as it will be when it is read
    assert record["settings"] == {"x": 1.5, "log": None}
    assert record["made"]["torch"]
    assert record["made"]["commit"] not in ("unknown", "no checkout") or not is_checkout()


def is_checkout() -> bool:
    return (Path(small_cells.__file__).parents[2] / ".git").exists()


def change(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(record: dict[str, Any]) -> None:
        for name in path[:-1]:
            record = record[name]
        record[path[-1]] = to

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        change("result", "twice", to=3.0000001),
        change("result", "more", to=1),
        change("seconds", to=0.001),
        change("settings", "x", to=2.5),
        change("made", "torch", to="9.9"),
        change("digest", to="0" * 64),
        change("digest", to=None),
        lambda record: record.pop("digest"),
        lambda record: record.pop("result"),
        change("fingerprint", to="of another cell"),
        change("fingerprint", to=None),
    ],
)
def test_a_record_that_was_changed_counts_as_absent(tmp_path: Path, edit):
    record = written(tmp_path)
    edit(record)
    write(tmp_path, record)
    assert read_record(CELL, tmp_path) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("seconds", "1"), ("processor_seconds", None), ("made", [1]), ("made", {"torch": 2}),
     ("settings", {}), ("settings", None)],
)  # fmt: skip
def test_a_record_of_0_1_that_no_report_could_use_counts_as_absent(
    tmp_path: Path, name: str, value: Any
):
    cell = first_cells()["cu1"]
    former = {"fingerprint": FORMER["cu1"], "seconds": 1, "result": 1, "settings": cell.settings}
    write(tmp_path, former, cell)
    assert read_record(cell, tmp_path) is not None
    write(tmp_path, former | {name: value}, cell)
    assert read_record(cell, tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [b"", b'{"fingerprint": "', b"\xff\xfe\x00", b"[1, 2]", b"null", b"[" * 100_000,
     b'{"fingerprint": "of another cell", "seconds": 1, "result": 1}'],
    ids=["empty", "torn", "no text", "a list", "null", "nested", "another"],
)  # fmt: skip
def test_a_damaged_or_foreign_file_counts_as_absent(tmp_path: Path, content: bytes):
    written(tmp_path)
    record_path(CELL, tmp_path).write_bytes(content)
    assert read_record(CELL, tmp_path) is None


def test_a_record_of_another_name_is_not_this_cells(tmp_path: Path):
    record = written(tmp_path)
    other = Cell("t", "b", CELL.run, CELL.settings)
    write(tmp_path, record, other)  # a file that was copied or renamed
    assert read_record(other, tmp_path) is None
