"""Runs that are killed, logged, given on the command line, refused, or of other logs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.pipeline.topic_log import USERS, config
from torchrl_drpo import cli
from torchrl_drpo.data import LogSchema
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_killed_run_ends_as_if_it_had_not_been(log: Path, tmp_path: Path) -> None:
    settings = config(log, tmp_path / "killed", objectives=("drpo",), steps=240)

    def killer(name: str, step: int, steps: int) -> None:
        if step == 220:  # the last checkpoint lies 20 steps back
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_train(settings, killer)
    assert not (settings.output / "results.json").exists()
    told: dict[str, list[tuple[int, int]]] = {}
    resumed = run_train(settings, lambda name, *where: told.setdefault(name, []).append(where))
    assert told["drpo, seed 0"] == [(220, 240), (240, 240)]
    assert told["drpo, seed 0, held-out rows"][-1] == (resumed.parts.test.rows,) * 2
    whole = run_train(
        replace(settings, output=tmp_path / "whole"),
        lambda name, *where: told.setdefault(name, []).append(where),
    )
    assert told["scan"][-1] == (1, 1)  # the conversion, which the killed run had behind it
    assert resumed.runs == whole.runs


def test_later_seeds_can_be_asked_for_alone(log: Path, tmp_path: Path) -> None:
    settings = config(log, tmp_path / "all", objectives=("drpo",), steps=20, seeds=2, device="auto")
    both = run_train(settings)
    last = run_train(replace(settings, output=tmp_path / "last", first_seed=1, seeds=1))
    assert last.runs["drpo"] == both.runs["drpo"][1:]
    assert (tmp_path / "last" / "runs" / "drpo-1.json").exists()
    PolicyCheckpoint.load(tmp_path / "last" / "drpo")


@pytest.mark.parametrize(("logger", "pattern"), [("csv", "*.csv"), ("tensorboard", "events*")])
def test_curves_are_logged_where_asked_for(
    log: Path, tmp_path: Path, logger: str, pattern: str
) -> None:
    run_train(config(log, tmp_path, objectives=("drpo",), steps=40, logger=logger))
    files = {path.name: path for path in (tmp_path / "curves" / "drpo-0").rglob(pattern)}
    assert files
    if logger == "csv":
        steps = [line.split(",")[0] for line in files["kappa.csv"].read_text().splitlines()]
        assert steps == ["20", "40"]


def test_the_command_line_from_train_to_recommend(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def drpo(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 0
        return capsys.readouterr().out

    logs, output = ("--logs", str(log / "log.parquet")), tmp_path / "run"
    train = ["train", *logs, "--schema", str(log / "schema.json"), "--output", str(output)]
    train += [
        "--objectives",
        "drpo",
        "--steps",
        "20",
        "--batch-size",
        "128",
        "--dim",
        "8",
        "--ks",
        "5",
        "--history",
        "4",
    ]
    shown = drpo(*train)
    assert "HR@5 best" in shown
    assert "popularity" in shown
    summary = json.loads(drpo(*train, "--json"))["summary"]

    policy = ("--checkpoint", str(output / "drpo"))
    assert "HR@5 best" in drpo("evaluate", *policy, *logs, "--ks", "5")
    found = json.loads(drpo("evaluate", *policy, *logs, "--ks", "5", "--json"))
    assert found["rows"] == USERS * 9
    assert found["metrics"]["drpo"]["lift@5"] == pytest.approx(summary["drpo"]["lift@5"]["mean"])

    recommend_to = ("recommend", *policy, "--user", "1003", "--k", "3", "--no-exclude-seen")
    listed = json.loads(drpo(*recommend_to, "--json"))
    assert listed["user"] == "1003"
    shown = drpo(*recommend_to)
    assert all(place["item"] in shown for place in listed["recommendations"])
    assert len(listed["recommendations"]) == 3

    assert cli.main(["recommend", "--checkpoint", str(output), "--user", "1003"]) == 2
    said = capsys.readouterr().err
    assert "holds no torchrl-drpo catalogue policy" in said
    assert f"name one of {output / 'drpo'}" in said


def test_rows_left_out_are_told_by_the_column_that_is_at_fault(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_parquet(log / "log.parquet").astype({"user": "Int64"})
    frame.loc[[3, 4], "user"] = None
    frame.loc[[4, 5, 6], "video"] = ""
    frame.to_parquet(tmp_path / "log.parquet")
    output = tmp_path / "run"
    words = ("--logs", tmp_path / "log.parquet", "--schema", log / "schema.json", "--ks", 5)
    words += ("--objectives", "bc", "--steps", 1, "--batch-size", 64, "--bad-rows", "drop")
    assert cli.main(["train", *map(str, words), "--output", str(output)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    told = "4 faulty rows left out: missing id in video (3), missing id in user (2); some have "
    assert told in said
    page = (output / "report.html").read_text()
    assert "faulty rows left out: missing id in user" in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objectives": ("dpo",)},
            "no objective 'dpo' .did you mean 'drpo'.*are bc, drpo",
        ),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"history": 0}, "history must be at least 1, got 0"),
        ({"ks": (0,)}, "ks must name list lengths"),
        ({"preset": "kuairand"}, "by a preset .--preset NAME. or a schema file"),
    ],
)
def test_settings_are_checked_before_anything_is_written(
    log: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_train(config(log, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("shared",)}, "no label 'shared' in the log; its schema has"),
        ({"labels": ("play",)}, "label 'play' is not 0/1"),
        ({"batch_size": 5000}, "batch_size is 5000 but the log has 3960 training rows"),
        ({"schema": Path("nowhere.json")}, r"cannot read the schema nowhere\.json"),
    ],
)
def test_what_does_not_fit_the_log_is_named(
    log: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_train(config(log, tmp_path, **changes))


def test_a_click_log_without_users_has_its_table_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    item = rng.integers(0, 10, 800)
    frame = pd.DataFrame(
        {
            "item": item,
            "time": np.arange(800) * 86_400 // 100,
            "tab": rng.integers(0, 2, 800),
            "click": (rng.random(800) < np.where(item < 3, 0.3, 0.02)).astype(int),
        }
    )
    frame.to_parquet(tmp_path / "log.parquet")
    schema = LogSchema(
        item="item", time="time", quality="click", context=("tab",), duplicates="keep"
    )
    (tmp_path / "schema.json").write_text(schema.to_json())
    settings = config(tmp_path, tmp_path / "run", objectives=("drpo",), steps=60, batch_size=128)
    results = run_train(settings)
    assert results.summary["drpo"]["lift@5"].mean > 1.2  # clicked rows are the best, others worst
    assert math.isfinite(results.summary["drpo"]["gauc_quality"].mean)
    checkpoint = PolicyCheckpoint.load(settings.output / "drpo")
    assert len(recommend(checkpoint, history=[3, 4], k=4)) == 4


def test_a_sample_of_the_real_log(real_logs: Path, tmp_path: Path) -> None:
    source = real_logs / "kuairand_pure_part" / "log_standard_20220425_20220508.parquet"
    frame = pd.read_parquet(source)
    sample = frame[frame["user_id"] % 60 == 0]
    sample.to_parquet(tmp_path / "log.parquet", index=False)
    settings = TrainConfig(
        logs=str(tmp_path / "log.parquet"),
        preset="kuairand",
        labels=("is_click", "long_view"),
        output=tmp_path / "run",
        objectives=("drpo", "tapered"),
        steps=30,
        batch_size=256,
        model=ModelConfig(dim=16),
    )
    results = run_train(settings)
    kept = sample.drop_duplicates()
    test = kept[kept["date"] >= 20220506]
    assert results.data["parts"] == {"train": len(kept) - len(test), "test": len(test)}
    assert results.data["items"] == kept["video_id"].nunique()
    data = SplitLog.open(settings, settings.output / "log")
    assert torch.equal(
        data.held_out.labels["is_click"].long().sum(), torch.tensor(test["is_click"].sum())
    )
    user = int(kept["user_id"].iloc[-1])
    seen = set(kept.loc[kept["user_id"] == user, "video_id"])
    for objective in settings.objectives:
        checkpoint = PolicyCheckpoint.load(settings.output / objective)
        places = recommend(checkpoint, user, k=10)
        assert len(places) == 10
        assert not seen & {place.item for place in places}
