"""Cells on a small file: who learns from what, who chooses, and what is tilted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.reproduction.randomised.small_ratings import frame, write
from torchrl_drpo.reproduction.randomised.judge import Judge
from torchrl_drpo.reproduction.randomised.learning import Learner, state_rows
from torchrl_drpo.reproduction.randomised.methods import METHODS, jobs
from torchrl_drpo.reproduction.randomised.ratings import CHOOSING_GROUPS, read_ratings
from torchrl_drpo.reproduction.randomised.runs import open_ratings, run

TRAINING = {"steps": 4, "batch_size": 64, "learning_rate": 5e-3, "evaluate_every": 2}
REWARD = {"folds": 2, "steps": 20, "batch_size": 64, "learning_rate": 1e-2}


def _run(path: Path, seed: int = 1) -> dict[str, Any]:
    return run("small", str(path), "", seed, TRAINING, REWARD)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = write(tmp_path_factory.mktemp("ratings") / "ratings.parquet")
    return path, _run(path)


def test_a_cell_has_every_method_at_every_value(cell: tuple[Path, dict[str, Any]]) -> None:
    runs = cell[1]["runs"]
    expected = [(m.name, value) for m in METHODS.values() for value in m.values]
    assert sorted(map(str, expected)) == sorted(str((r["method"], r["value"])) for r in runs)
    json.dumps(cell[1], allow_nan=False)
    for each in runs:
        trained = METHODS[each["method"]].kind != "ranking"
        assert len(each["looks"]) == (2 if trained else 1)
        if trained:
            best = each["looks"].index(max(each["looks"]))
            assert each["step"] == 2 * (best + 1)


def test_a_seed_repeats_and_another_differs(cell: tuple[Path, dict[str, Any]]) -> None:
    path, first = cell
    assert _run(path) == first
    assert _run(path, seed=2)["runs"] != first["runs"]


def test_random_ratings_teach_nothing_and_reporting_users_choose_nothing(
    cell: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    path, first = cell
    group = read_ratings(path).group
    rows = frame()
    theirs = (group[torch.tensor(rows.user)] >= CHOOSING_GROUPS).numpy()
    changed = rows.rating.where((rows.exposure != "random") | ~theirs, 6 - rows.rating)
    other = _run(write(tmp_path / "other.parquet", rows.assign(rating=changed)))
    for mine, its in zip(first["runs"], other["runs"], strict=True):
        assert (mine["looks"], mine["step"]) == (its["looks"], its["step"])
        for metric, both in mine["sums"].items():
            for row, its_row in zip(both, its["sums"][metric], strict=True):
                assert row[:CHOOSING_GROUPS] == its_row[:CHOOSING_GROUPS]
    assert first["runs"] != other["runs"]


def test_what_is_tilted_is_the_product_of_policy_and_critic(
    cell: tuple[Path, dict[str, Any]],
) -> None:
    path, found = cell
    ratings = read_ratings(path)
    judge, learner = Judge.of(ratings), Learner(ratings, 1, TRAINING, REWARD)
    states = state_rows(judge.user)
    every = learner.critic.predict_all(states).double()
    log_prob = {}
    job = next(iter(jobs()))
    assert job.objective == "bc"
    learner.train(job, lambda step, actor: log_prob.update({step: actor.get_dist(states).logits}))
    for each in found["runs"]:
        if each["method"] == "BC, tilted":
            by_hand = judge.of_policy(log_prob[each["step"]].double() + every / each["value"])
            for metric, both in by_hand.items():
                expected = torch.tensor(each["sums"][metric], dtype=torch.float64)
                torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-4)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "ratings.parquet")
    before, _ = open_ratings(str(path), "one")
    write(path, frame().query("user < 50"))
    assert open_ratings(str(path), "one")[0] is before
    assert open_ratings(str(path), "two")[0].num_users == 50
