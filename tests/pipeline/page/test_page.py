"""Pages of runs, read back by a parser that is not ours; of made-up numbers, nothing is trained."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from scipy import stats

from tests.pipeline.page.made_runs import CALIBRATION, EVIL, FURTHER, RUNS, change, make_run
from tests.pipeline.page.reading import Page
from torchrl_drpo import cli
from torchrl_drpo.cli.commands import COMMANDS
from torchrl_drpo.cli.main import _load
from torchrl_drpo.cli.options import parse
from torchrl_drpo.pipeline.page import command
from torchrl_drpo.pipeline.page.advice import (
    best_policies,
    commands,
    hints,
    hits_and_lift,
    still_falls,
)
from torchrl_drpo.pipeline.page.folder import read_run

SECTIONS = [
    "The log",
    "What was found",
    "Lift and hits",
    "Contexts",
    "The reward model",
    "Training curves",
    "What to do next",
    "Settings",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "a run")


def drawn(folder: Path, *more: Path) -> Page:
    page = (more and folder.parent / "both.html") or folder / "report.html"
    output = ["--output", str(page)] if more else []
    assert cli.main(["report", str(folder), *map(str, more), *output]) == 0
    return Page(page)


def test_the_numbers_are_those_of_the_results(folder: Path) -> None:
    page = drawn(folder)
    assert page.headings == SECTIONS
    table = {row["policy"]: row for row in page.table("policy")}
    for name in ("bc", "drpo"):
        for metric, heading in (("hr@5_best", "HR@5 best ↑"), ("lift@5", "lift ↑")):
            seeds = [run[metric] for run in RUNS[name]]
            half = stats.t.ppf(0.975, 1) * stats.sem(seeds)
            assert table[name][heading] == f"{sum(seeds) / 2:.3f} ± {half:.3f}"
    assert table["random"]["lift ↑"].startswith("1.000")
    assert table["the log itself"]["top-100 quality ↑"] == f"{0.4625:.3f}"
    bins = page.table("bin")
    assert [row["rows"] for row in bins] == [f"{each['rows']:,}" for each in CALIBRATION]
    assert [row["logged"] for row in bins] == ["0.2125", "0.7875"]
    assert bins[1]["± (95%)"] == "-"
    assert "40 rows (2.6%) of 4 items that training never showed" in page.text
    assert "2022-04-25 to 2022-05-08" in page.text
    assert "It explains 31.0% (standard error 2.0%)" in page.text


def test_what_a_log_says_is_shown_and_not_obeyed(folder: Path) -> None:
    page = drawn(folder)
    assert page.text.count(EVIL) == 3  # a context's title, its hint, and the note
    assert "script" not in page.tags
    assert all(each.startswith("#") for each in page.references)
    for loading in ("http:", "https:", "//", "url(", "@import"):
        rest = re.sub(r"url\(#[0-9a-z]+\)", "", page.source)
        assert loading not in rest.replace("</", ""), loading


def test_the_same_results_give_the_same_bytes(folder: Path) -> None:
    first = drawn(folder).source
    assert drawn(folder).source == first
    assert len(first) < 300_000
    change(folder, mean_quality={"train": 0.4875, "test": 0.4})
    assert drawn(folder).source != first


def test_what_is_not_there_is_not_drawn(folder: Path) -> None:
    change(folder, reward_model=None, notes=None, **dict.fromkeys(FURTHER))
    for file in (folder / "runs").iterdir():
        file.unlink()
    page = drawn(folder)
    gone = ("Contexts", "The reward model", "Training curves")
    assert page.headings == [each for each in SECTIONS if each not in gone]
    assert "The curves of drpo, seed 1, are left out" in page.text
    assert "the log itself" not in page.text


def test_curves_of_another_run_are_not_shown(folder: Path) -> None:
    other = json.loads((folder / "results.json").read_text())["runs"]
    other["drpo"][1]["lift@5"] = 9.0
    change(folder, runs=other)
    run = read_run(folder)
    assert len(run.curves["loss_actor"]["drpo"]) == 1
    assert len(run.curves["loss_actor"]["bc"]) == 2
    assert "drpo-1.json is of another run than results.json" in run.lost[0]


def test_a_log_without_users_and_a_lift_without_end(folder: Path) -> None:
    data = json.loads((folder / "results.json").read_text())
    data["data"]["users"] = 0
    data["summary"]["drpo"]["lift@5"] = {"mean": "inf", "half_width": None, "runs": 2}
    data["runs"]["drpo"][0]["lift@5"] = "inf"
    change(folder, data=data["data"], summary=data["summary"], runs=data["runs"])
    page = drawn(folder)
    assert "Without a finite lift, and not drawn: drpo." in page.text
    assert "Left out, their lift being infinite: drpo." in page.text
    assert best_policies(read_run(folder)) == ["bc"]
    compared = drawn(folder, make_run(folder.parent / "other"))
    assert f"Without a finite lift, and not drawn: drpo ({folder.name})." in compared.text


def test_where_no_lift_is_finite_the_commands_go_by_hits(folder: Path) -> None:
    summary = json.loads((folder / "results.json").read_text())["summary"]
    for values in summary.values():
        values["lift@5"] = {"mean": "inf", "half_width": None, "runs": 2}
    change(folder, summary=summary)
    run = read_run(folder)
    assert best_policies(run) == []
    assert [name for name, _ in commands(run)] == ["drpo", "bc"]


# -- what to do next --------------------------------------------------------------------------


def test_the_commands_are_ones_that_the_command_line_reads(folder: Path) -> None:
    drawn(folder)
    source = (folder / "report.html").read_text()
    (block,) = re.findall(r"<pre><code>(.*?)</code></pre>", source, flags=re.DOTALL)
    lines = [shlex.split(line.replace("&#x27;", "'")) for line in block.splitlines()]
    assert [line[:2] for line in lines] == [
        ["drpo", "recommend"],
        ["drpo", "evaluate"],
        ["drpo", "export"],
    ]
    for _, name, *options in lines:
        config = parse(_load(COMMANDS[name].config), options, prog=name)
        assert config.checkpoint == folder / "drpo"
    assert "my logs/log.parquet" in lines[1]


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize(("other", "mean"), [(1.25, "inf"), (None, None)])
def test_an_infinite_lift_is_told_with_its_counts(
    folder: Path, within: bool, other: float | None, mean: str | None
) -> None:
    """Of the first objective too, which says what policies are compared in.

    Beside a seed whose lists hit nothing, whose lift is no number, the mean is none either.
    """
    data = json.loads((folder / "results.json").read_text())
    names = ["lift@5", "lift@5_within"][: 1 + within]
    for method in ("random", "bc", "drpo"):
        for name in names:
            data["summary"][method][name] = {**data["summary"][method]["lift@5"]}
            for seed in data["runs"][method]:
                seed[name] = seed["lift@5"]
    for name in names:
        data["summary"]["bc"][name] = {"mean": mean, "half_width": None, "runs": 2}
        data["runs"]["bc"][0][name], data["runs"]["bc"][1][name] = other, "inf"
    change(folder, summary=data["summary"], runs=data["runs"])
    run = read_run(folder)
    assert hits_and_lift(run)[1] == names[-1]
    assert best_policies(run) == ["drpo"]
    (said,) = [hint for hint in hints(run) if "infinite" in hint]
    assert "390 poor held-out rows" in said
    assert "of bc (in 1 of 2 seeds)" in said
    assert "Left out, their lift being infinite: bc." in drawn(folder).text


def test_hints_follow_from_the_numbers(folder: Path) -> None:
    said = " ".join(hints(read_run(folder)))
    gap = [0.42 - 0.31, 0.36 - 0.35]  # of hits, seed by seed
    half = stats.t.ppf(0.975, 1) * stats.sem(gap)
    assert f"drpo is ahead of bc by {sum(gap) / 2:.3f} ± {half:.3f}" in said
    assert "holds zero" in said
    assert "In lift, " not in said  # 1.015 ± .762: clearly ahead
    assert "the item adds 0.5%, less than one standard error (2.0%)" in said
    assert "hit less than half as often as bc hits it" in said
    assert "bc-tilt: left out" in said


def test_a_loss_that_still_falls_is_told_from_one_that_only_jitters() -> None:
    falls = [(step, 100.0 - step) for step in range(100)]
    flat = [(step, 1.0 + (-1) ** step) for step in range(100)]
    assert still_falls(falls)
    assert not still_falls(flat)
    assert not still_falls(falls[:12])


# -- several runs -----------------------------------------------------------------------------


def test_runs_of_the_same_rows_are_compared(folder: Path, tmp_path: Path) -> None:
    longer = {"steps": 200, "learning_rate": 0.5}
    page = drawn(folder, make_run(tmp_path / "longer", config=longer))
    assert "All were judged by the same held-out rows" in page.text
    rows = [(row["policy"], row["run"]) for row in page.table("policy")]
    assert rows[:4] == [
        ("random", "a run"),
        ("random", "longer"),
        ("bc", "a run"),
        ("bc", "longer"),
    ]
    settings = page.table("setting")
    assert settings == [
        {"setting": "steps", "a run": "100", "longer": "200"},
        {"setting": "learning_rate", "a run": "-", "longer": "0.5"},
    ]
    assert "What is known of their logs is the same." in page.text
    assert "Lift and hits" in page.headings


@pytest.mark.parametrize(("mark", "why"), [("b" * 64, "different held-out"), (None, "not known")])
def test_runs_of_other_rows_are_not_put_into_one_picture(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mark: str | None, why: str
) -> None:
    other = make_run(tmp_path / "other")
    change(other, held_out_rows=mark)
    page = drawn(folder, other)
    assert why in capsys.readouterr().err
    assert why in page.text
    assert "Lift and hits" not in page.headings


# -- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no finished run of drpo train"),
        ("[]", "is not what drpo train writes"),
        ("{", "is not JSON"),
        ('{"version": 1}', "no 'config'"),
        ('{"config": {"objectives": ["../../x"]}}', "no objective is called '../../x'"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert cli.main(["report", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_drawn_ends_nothing_and_leaves_no_old_one(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(folder)

    def broken(_: object) -> str:
        raise ModuleNotFoundError("No module named 'matplotlib'")

    monkeypatch.setattr(command, "run_page", broken)
    command.page_beside(folder)
    assert "was not drawn (ModuleNotFoundError: No module" in capsys.readouterr().err
    assert not (folder / "report.html").exists()
    (folder / "report.html").write_text("my own notes")
    command.page_beside(folder)
    assert (folder / "report.html").read_text() == "my own notes"


def test_a_report_of_somebody_else_stays(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody has named it: `report.html` is what other programs write, too."""
    other = make_run(folder.parent / "other")
    monkeypatch.chdir(folder.parent)
    for page, runs in ((folder / "report.html", [folder]), (Path("report.html"), [folder, other])):
        page.write_text("coverage")
        assert cli.main(["report", *map(str, runs)]) == 2
        assert "is no page of a run: it stays" in capsys.readouterr().err
        assert page.read_text() == "coverage"
        assert cli.main(["report", *map(str, runs), "--output", str(page)]) == 0
        assert cli.main(["report", *map(str, runs)]) == 0  # it is ours now
    (folder / "report.html").write_text("coverage")
    assert not command.page_beside(folder)
    assert "what lies there is no page of a run" in capsys.readouterr().err
    assert (folder / "report.html").read_text() == "coverage"


@pytest.mark.parametrize(
    "changes", [{"reward_model": -1}, {"reward_calibration": [1.0]}, {"contexts": {"groups": 1}}]
)
def test_numbers_of_another_form_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], changes: dict
) -> None:
    change(folder, **changes)
    assert cli.main(["report", str(folder)]) == 2
    assert "results.json is not what drpo train writes" in capsys.readouterr().err
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("named", ["logs", "dataset"])
def test_a_page_is_called_by_its_log(folder: Path, named: str) -> None:
    settings = json.loads((folder / "results.json").read_text())["config"]
    settings.pop("logs", None)
    change(folder, config=settings | {named: "the-log"})
    drawn(folder)
    assert "<title>Run on the-log</title>" in (folder / "report.html").read_text()
