"""What commands tell of their progress."""

from __future__ import annotations

from pathlib import Path

from tests.pipeline.exporting.runtimes import FORMATS
from tests.pipeline.serving.served import checkpoint
from torchrl_drpo.pipeline.exporting import export_policy
from torchrl_drpo.pipeline.serving import user_files
from torchrl_drpo.pipeline.serving.recommender import Recommender, Request
from torchrl_drpo.pipeline.terminal import AllRuns


def test_all_runs_are_told_beside_each() -> None:
    said: list[tuple[str, int, int]] = []
    told = AllRuns(lambda *each: said.append(each), ["bc, seed 0", "bc, seed 1"], 300)
    told("bc, seed 0", 100, 300)
    told("bc, seed 0, held-out rows", 5, 5)  # no run
    told("bc, seed 0", 300, 300)
    told("bc, seed 1", 80, 80)  # stopped early: there is no more of it
    assert [each[1:] for each in said if each[0] == "all runs, steps"] == [
        (0, 600), (100, 600), (300, 600), (600, 600)
    ]  # fmt: skip
    assert [each for each in said if each[0] != "all runs, steps"] == [
        ("bc, seed 0", 100, 300),
        ("bc, seed 0, held-out rows", 5, 5),
        ("bc, seed 0", 300, 300),
        ("bc, seed 1", 80, 80),
    ]
    said.clear()
    AllRuns(lambda *each: said.append(each), ["bc, seed 0"], 300)("bc, seed 0", 1, 300)
    assert said == [("bc, seed 0", 1, 300)]  # one run is all runs


def test_graphs_and_users_are_counted(tmp_path: Path, monkeypatch) -> None:
    said: list[tuple[str, int, int]] = []
    model = checkpoint("catalogue")
    export_policy(
        model, tmp_path / "graph", k=2, formats=FORMATS, progress=lambda *each: said.append(each)
    )
    parts = 2 * len(FORMATS)
    assert [each[1:] for each in said] == [(number, parts) for number in range(parts + 1)]
    said.clear()
    monkeypatch.setattr(user_files, "USERS_AT_A_TIME", 2)
    (tmp_path / "users.txt").write_text("7\n8\n9\n")
    user_files.write_lists(
        Recommender(model),
        Request(k=2),
        tmp_path / "users.txt",
        tmp_path / "lists.csv",
        lambda *each: said.append(each),
    )
    assert said == [("users", 2, 3), ("users", 3, 3)]
