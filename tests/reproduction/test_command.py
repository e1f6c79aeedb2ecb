"""``drpo reproduce``: exit codes, what goes where, and what is never overwritten."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.reproduction import small_cells
from torchrl_drpo import files
from torchrl_drpo.cli import main
from torchrl_drpo.reproduction import command, registry
from torchrl_drpo.reproduction.config import ReproduceConfig
from torchrl_drpo.reproduction.registry import MODULES, load_targets
from torchrl_drpo.reproduction.target import Cell, Claim, Options, Section, Target


def cells(options: Options) -> list[Cell]:
    made = [Cell("sums", f"s{k}", small_cells.double, {"x": k}) for k in range(options.seeds)]
    return made[:1] if options.quick else made


def section(options: Options, results: Any) -> Section:
    total = sum(record["result"]["twice"] for record in results.values())
    return Section("Sums", f"{total}", claims=[Claim("adds", "s", "not held", f"it is {total}")])


BROKEN = Cell("broken", "b", small_cells.fail, {"message": "no [/room] for it"})
TARGETS = {
    "sums": Target("sums", "adds", cells, section),
    "broken": Target("broken", "fails", lambda options: [BROKEN], section),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets that take no time, in place of the real ones."""
    monkeypatch.setattr(command, "load_targets", lambda names: [TARGETS[n] for n in names])


def reproduce(*arguments: object) -> int:
    return main(["reproduce", *map(str, arguments), "--workers", "1"])


# -- the registry -------------------------------------------------------------------------------


def test_every_target_loads_under_its_own_name_and_has_distinct_cells():
    targets = load_targets([registry.ALL])
    assert [target.name for target in targets] == list(MODULES)
    for options in (Options(seeds=3, fresh_seeds=3), Options(quick=True)):
        for target in targets:
            made = target.cells(options)
            assert {cell.target for cell in made} <= {target.name}
            assert len({cell.name for cell in made}) == len(made)
            json.dumps([dict(cell.settings) for cell in made], allow_nan=False)


def test_targets_come_once_and_in_the_reports_order(monkeypatch: pytest.MonkeyPatch):
    names = [t.name for t in load_targets(["geometry", "table1", "geometry"])]
    assert names == ["table1", "geometry"]
    monkeypatch.setitem(MODULES, "table2", MODULES["table1"])
    with pytest.raises(ValueError, match="holds target 'table1', not 'table2'"):
        load_targets(["table2"])


def test_list_names_every_target(capsys: pytest.CaptureFixture[str]):
    assert main(["reproduce", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in MODULES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], "unknown target 'nope'; choose among table1"),
        ([], "name a target"),
        (["table1", "--seeds", "1"], "seeds must be at least 2, for an interval, got 1"),
        (["table1", "--fresh-seeds", "0"], "fresh_seeds must be at least 2.* got 0"),
        (["table1", "--device", "abacus"], "device: "),
        (["table1", "--report-only"], "holds none of the \\d+ cells"),
        (
            ["kuairand"],
            "target kuairand needs --logs <folder>/log_standard.*; `drpo reproduce all`",
        ),
        (["table1", "kuairand", "--report-only"], "target kuairand needs --logs"),
        (["all", "kuairand", "--quick"], "target kuairand needs --logs"),
    ],
)
def test_bad_input_ends_with_code_2_and_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["reproduce", *arguments, "--output", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.match(f"drpo: .*{message}.*\n$", shown.err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--logs", "/nowhere/at/all"]])
def test_bad_options_end_with_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["reproduce", "table1", *arguments]) == 2
    shown = capsys.readouterr().err
    assert arguments[1] in shown
    assert shown.count("\n") == 1


def test_a_device_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    assert main(["reproduce", "table1", "--device", "cuda:1"]) == 2
    assert "device 'cuda:1' was asked for, but torch finds no CUDA" in capsys.readouterr().err
    assert command.options_of(ReproduceConfig(("table1",))).device == "cpu"


# -- runs ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_a_run_computes_then_reports_then_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert reproduce("sums", "--seeds", 3, "--output", tmp_path) == 0
    first = capsys.readouterr()
    assert "sums/s2: 0.0 s, 0 left" in first.err
    assert str(tmp_path / "report.html") in first.out
    assert "it is 6" in (tmp_path / "report.md").read_text()
    assert reproduce("sums", "--seeds", 4, "--output", tmp_path) == 0
    second = capsys.readouterr().err
    assert "3 of 4 cells were there already" in second
    assert "s0" not in second
    assert "it is 12" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("given", [False, True])
def test_all_goes_on_without_the_log_that_one_target_needs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: bool,
):
    needy = dataclasses.replace(TARGETS["sums"], needs="<folder>/log.parquet")
    monkeypatch.setattr(command, "load_targets", lambda names: [needy])
    (tmp_path / "log.parquet").touch()
    logs = ["--logs", tmp_path / "log.parquet"] if given else []
    assert reproduce("all", "--seeds", 2, "--output", tmp_path, "--json", *logs) == 0
    shown = capsys.readouterr()
    said = "drpo: target sums is not tested, for it needs --logs <folder>/log.parquet\n"
    assert (said in shown.err) is not given
    assert json.loads(shown.out)["claims"]  # of the section that says what was not tested


HELP = """
import sys, time
from torchrl_drpo import files
from torchrl_drpo.cli import main
try:
    main(["reproduce", "--help"])
except SystemExit:
    pass
heavy = {"torch", "torchrl", "tensordict", "numpy", "matplotlib", "pyarrow"} & set(sys.modules)
print(sorted(heavy), time.process_time(), file=sys.stderr)
"""


def test_help_imports_nothing_heavy_and_is_there_at_once():
    done = subprocess.run(
        [sys.executable, "-c", HELP],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    heavy, seconds = done.stderr.rsplit(maxsplit=1)
    assert heavy == "[]"
    assert float(seconds) < 0.5
    assert "--report-only" in done.stdout


@pytest.mark.usefixtures("small")
def test_a_full_disk_is_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert reproduce("sums", "--seeds", 2, "--output", tmp_path) == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    capsys.readouterr()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    for seeds in (2, 3):  # where the report alone is written, and where a cell is
        assert reproduce("sums", "--seeds", seeds, "--output", tmp_path) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("drpo: ")
        assert "No space left on device" in told
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.usefixtures("small")
def test_json_is_the_claims_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert reproduce("sums", "--seeds", 2, "--output", tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "claims.json").read_text())
    assert found["claims"][0]["evidence"] == "it is 2"


@pytest.mark.usefixtures("small")
def test_a_failure_is_code_1_and_the_rest_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert reproduce("broken", "sums", "--seeds", 2, "--output", tmp_path) == 1
    shown = capsys.readouterr()
    assert "drpo: 1 failed" in shown.err
    assert "broken/b: ArithmeticError: no [/room] for it" in shown.err
    assert "no [/room] for it" in " ".join(shown.out.split())  # what rich would take for markup
    assert "it is 2" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "cells" / "broken" / "b.error.txt").exists()


@pytest.mark.usefixtures("small")
def test_a_section_that_fails_is_code_1_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spoiled = Target("sums", "adds", cells, lambda options, results: 1 / 0)
    monkeypatch.setitem(TARGETS, "sums", spoiled)
    assert reproduce("sums", "--seeds", 2, "--output", tmp_path) == 1


@pytest.mark.usefixtures("small")
def test_report_only_computes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert reproduce("sums", "--seeds", 2, "--output", tmp_path) == 0
    (tmp_path / "report.md").unlink()
    capsys.readouterr()
    assert reproduce("sums", "--seeds", 2, "--output", tmp_path, "--report-only") == 0
    assert "it is 2" in (tmp_path / "report.md").read_text()
    assert reproduce("sums", "--seeds", 3, "--output", tmp_path, "--report-only") == 0
    assert "1 of 3 cells are not there: s2" in (tmp_path / "report.md").read_text()
    assert not (tmp_path / "cells" / "sums" / "s2.json").exists()
    assert "s2: " not in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_a_quick_run_never_touches_the_real_one(tmp_path: Path):
    assert reproduce("sums", "--seeds", 2, "--output", tmp_path) == 0
    real = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert reproduce("sums", "--seeds", 2, "--output", tmp_path, "--quick") == 0
    assert {p: p.read_bytes() for p in real} == real
    added = {p for p in tmp_path.rglob("*") if p.is_file()} - set(real)
    assert added
    assert all(tmp_path / "quick" in p.parents for p in added)
    assert "QUICK RUN" in (tmp_path / "quick" / "report.md").read_text()


# -- the real targets ---------------------------------------------------------------------------


def assert_drawn(folder: Path, *names: str) -> None:
    found = json.loads((folder / "claims.json").read_text())
    assert {name: target["state"] for name, target in found["targets"].items()} == dict.fromkeys(
        names, "run"
    )
    assert {claim["target"] for claim in found["claims"]} == set(names)
    assert "nan" not in (folder / "report.md").read_text().split()


def test_cheap_targets_run_from_the_log_to_the_report(tmp_path: Path):
    assert reproduce("geometry", "divergence", "online", "--quick", "--output", tmp_path) == 0
    assert_drawn(tmp_path / "quick", "divergence", "online", "geometry")
    figures = {p.stem for p in (tmp_path / "quick" / "figures").iterdir()}
    assert {"divergence", "online", "geometry", "rewards"} <= figures


@pytest.mark.slow
def test_everything_runs_from_the_log_to_the_report(tmp_path: Path):
    assert reproduce("all", "--quick", "--output", tmp_path) == 0
    assert_drawn(tmp_path / "quick", *MODULES)


def test_a_log_has_one_name_wherever_the_command_is_given(tmp_path, monkeypatch):
    (tmp_path / "log.parquet").touch()
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "log.parquet"
    paths = (Path("log.parquet"), there)
    near, far = (command.options_of(ReproduceConfig(logs=path)) for path in paths)
    assert near.logs == far.logs == there.resolve()
