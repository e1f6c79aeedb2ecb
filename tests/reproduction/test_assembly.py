"""From records to files: what a target that fails costs, what the report says of it, its facts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.reproduction import small_cells
from torchrl_drpo.reproduction import machine
from torchrl_drpo.reproduction.assembly import Planned, write_report
from torchrl_drpo.reproduction.target import (
    Cell,
    Claim,
    Figure,
    Options,
    Results,
    Section,
    Target,
)


def show(options: Options, results: Results) -> Section:
    total = sum(record["result"] for record in results.values())
    return Section("Sums", f"The sum is {total}.", claims=[Claim("adds up", "s", "held", "yes")])


def raises(options: Options, results: Results) -> Section:
    raise ZeroDivisionError("no seeds | at __all__")


def drawing(*names: str, spoil: bool = False) -> Any:
    def draw(canvas: Any) -> None:
        if spoil:
            raise RuntimeError("no axes")
        canvas.subplots().plot([0, 1])

    return lambda options, results: Section("f", "", figures=[Figure(n, "c", draw) for n in names])


def planned(name: str, section: Any = show, cells: int = 2) -> Planned:
    made = [Cell(name, f"c{k}", small_cells.double, {"x": k}) for k in range(cells)]
    return Planned(Target(name, "summary", lambda options: made, section), made)


def records(*plans: Planned, absent: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    return {
        plan.target.name: {
            cell.name: {"result": 1, "seconds": 0.25, "made": {"torch": "2.13"}}
            for cell in plan.cells
            if cell.name not in absent
        }
        for plan in plans
    }


def write(tmp_path: Path, *plans: Planned, failed: dict[str, str] | None = None, **kwargs: Any):
    return write_report(plans, Options(), records(*plans, **kwargs), tmp_path, failed or {})


def claims_file(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "claims.json").read_text())


def test_all_files_are_there_and_agree(tmp_path: Path):
    written = write(tmp_path, planned("a"), planned("b", drawing("one", "two")))
    assert written.failures == {}
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "claims.json",
        "figures/one.png",
        "figures/two.png",
        "report.html",
        "report.md",
    ]
    with Image.open(tmp_path / "figures" / "one.png") as image:
        assert image.format == "PNG"
    assert claims_file(tmp_path)["targets"]["a"] == {"seconds": 0.5, "state": "run"}
    assert "The sum is 2." in (tmp_path / "report.md").read_text()
    assert "The sum is 2." in (tmp_path / "report.html").read_text()
    assert claims_file(tmp_path)["facts"]["torch"] == "2.13"


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        (raises, "ZeroDivisionError: no seeds | at __all__"),
        (drawing("fine", spoil=True), "RuntimeError: no axes"),
        (drawing("../escape"), "'../escape' cannot name a figure's file"),
        (drawing("twice", "twice"), "two figures are called 'twice'"),
        (drawing("taken"), "two figures are called 'taken'"),
    ],
)
def test_a_section_that_raises_costs_its_own_target_only(tmp_path: Path, section, reason: str):
    written = write(
        tmp_path, planned("first", drawing("taken")), planned("bad", section), planned("last")
    )
    assert list(written.failures) == ["bad"]
    assert reason in written.failures["bad"]
    states = {name: t["state"] for name, t in claims_file(tmp_path)["targets"].items()}
    assert states["first"] == states["last"] == "run"
    assert states["bad"].startswith("not run: its section failed (")
    assert [claim["target"] for claim in claims_file(tmp_path)["claims"]] == ["last"]
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["taken.png"]


def test_whoever_looks_for_the_cause_gets_the_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DRPO_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, planned("bad", raises))


def test_a_target_that_lacks_cells_says_which_and_why(tmp_path: Path):
    written = write(
        tmp_path, planned("a", cells=3), absent=("c0", "c2"), failed={"a/c2": "it died"}
    )
    (part,) = written.report.parts
    assert part.section is None
    assert part.problem == "2 of 3 cells are not there: c0, c2 (it died)"
    assert part.seconds == 0.25  # of what is there
    many = planned("a", cells=9)
    (part,) = write(tmp_path, many, absent=tuple(c.name for c in many.cells)).report.parts
    assert part.problem == "9 of 9 cells are not there: c0, c1, c2, c3, c4 and 4 more"


def test_a_target_without_cells_is_shown(tmp_path: Path):
    written = write(tmp_path, planned("a", cells=0))
    assert written.report.parts[0].section is not None


# -- facts --------------------------------------------------------------------------------------


def test_facts_name_the_machine_and_the_versions():
    found = machine.facts()
    assert {"processor", "cores", "memory", "torch", "commit", "date", "GPU"} <= found.keys()
    assert all(isinstance(value, str) and value for value in found.values())
    assert json.loads(json.dumps(found)) == found


def test_facts_of_many_cells_are_counted_where_they_differ():
    made = [{"a": "1", "b": str(k)} for k in range(6)] + [{"a": "1", "b": "0"}, {"c": "9"}]
    assert machine.summarise(made) == [
        ("a", "1 (7 cells), not recorded (1 cell)"),
        ("b", "0 (2 cells), 1 (1 cell), 2 (1 cell), 3 (1 cell), 3 more (3 cells)"),
        ("c", "not recorded (7 cells), 9 (1 cell)"),
    ]
    assert machine.summarise([]) == []


def test_what_cannot_be_found_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert machine._commit(tmp_path) == "no checkout"
    (tmp_path / ".git").mkdir()
    assert machine._commit(tmp_path) == "unknown"  # git says that it is none
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._commit(tmp_path) == "unknown"  # no git at all
    assert machine._version("no-such-package") == "not installed as a package"


def test_a_checkout_with_changes_in_its_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "a")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "a@example.org")
    code = tmp_path / "torchrl_drpo" / "a.py"
    code.parent.mkdir()
    code.write_text("1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        machine._git(tmp_path, *command)
    commit = machine._git(tmp_path, "rev-parse", "--short=10", "HEAD")
    (tmp_path / "notes.txt").write_text("beside the code\n")
    assert machine._commit(tmp_path) == commit
    code.write_text("2\n")
    assert machine._commit(tmp_path) == f"{commit} with local changes"
