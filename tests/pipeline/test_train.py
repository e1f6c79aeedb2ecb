"""The whole way from a log to a recommendation, on a small log whose truth is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from torchrl_drpo import cli
from torchrl_drpo.data import LogSchema, Percentile
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.kinds.catalogue import CatalogueTraining
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train

pytestmark = pytest.mark.usefixtures("one_thread")

ITEMS, BAIT, TOPICS, USERS, DAYS = 44, 8, 4, 120, 14
SCHEMA = LogSchema(
    user="user",
    item="video",
    time="time",
    quality=Percentile("play", by=("duration_bucket",), duration="duration"),
    context=("tab",),
    labels=("liked", "play"),
)


def topic(item: int) -> int:
    return item % TOPICS


def make_log(seed: int = 0) -> pd.DataFrame:
    """Seven rows in ten show bait that nobody watches; the others suit the user's one topic."""
    rng = np.random.default_rng(seed)
    rows = USERS * DAYS * 3
    user = np.repeat(np.arange(USERS), DAYS * 3)
    bait = rng.random(rows) < 0.7
    own = BAIT + TOPICS * rng.integers(0, (ITEMS - BAIT) // TOPICS, rows) + user % TOPICS
    item = np.where(bait, rng.integers(0, BAIT, rows), own)
    duration = rng.uniform(8, 60, rows)
    share = np.where(bait, rng.uniform(0, 0.3, rows), rng.uniform(0.6, 1.0, rows))
    return pd.DataFrame(
        {
            "user": 1000 + user,
            "video": [f"v{i}" for i in item],
            "time": np.tile(np.repeat(np.arange(DAYS) * 86_400, 3), USERS)
            + rng.integers(0, 8e4, rows),
            "tab": rng.integers(0, 3, rows),
            "duration": duration,
            "play": share * duration,
            "liked": ((share > 0.8) & (rng.random(rows) < 0.5)).astype(np.int8),
        }
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    make_log().to_parquet(folder / "log.parquet")
    (folder / "schema.json").write_text(SCHEMA.to_json())
    return folder


def config(log: Path, output: Path, **changes) -> TrainConfig:
    base = TrainConfig(
        logs=str(log / "log.parquet"),
        schema=log / "schema.json",
        output=output,
        history=6,
        steps=150,
        batch_size=128,
        learning_rate=1e-2,
        ks=(5,),
        model=ModelConfig(dim=16, hidden=(32,)),
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def trained(log: Path, tmp_path_factory: pytest.TempPathFactory):
    settings = config(log, tmp_path_factory.mktemp("run"), seeds=2)
    return settings, run_train(settings)


def test_keeping_the_best_rows_repairs_what_imitation_gets_wrong(trained) -> None:
    _, results = trained
    metric = {name: {k: v.mean for k, v in m.items()} for name, m in results.summary.items()}
    assert metric["random"]["hr@5"] == pytest.approx(5 / ITEMS)
    assert metric["random"]["lift@5"] == pytest.approx(1.0)
    # The log shows bait most of the time: imitation and popularity rank it first.
    assert metric["popularity"]["lift@5"] < 0.05
    assert metric["bc"]["lift@5"] < 0.5
    for objective in ("drpo", "positive-only"):
        assert metric[objective]["lift@5"] > 4
        assert metric[objective]["hr@5_best"] > metric["bc"]["hr@5_best"] + 0.1
        assert metric[objective]["gauc_quality"] > 0.7 > 0.3 > metric["bc"]["gauc_quality"]
        assert metric[objective]["top100_quality"] == pytest.approx(  # all 44 items are in it
            metric["random"]["top100_quality"]
        )


def test_everything_is_written_for_people_and_machines(trained) -> None:
    settings, results = trained

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = (settings.output / "results.json").read_text()
    data = json.loads(text, parse_constant=no_constant)
    assert data["data"]["parts"] == {"train": USERS * 11 * 3, "test": USERS * 3 * 3}
    assert data["summary"]["drpo"]["lift@5"]["runs"] == 2
    lift = [seed["lift@5"] for seed in results.runs["drpo"]]
    base = [seed["lift@5"] for seed in results.runs["bc"]]
    paired = data["differences_from_bc"]["drpo"]["lift@5"]["mean"]
    assert paired == pytest.approx((lift[0] - base[0] + lift[1] - base[1]) / 2)
    assert str(settings.output) not in text
    table = (settings.output / "table.md").read_text().splitlines()
    assert table[0] == "1,080 held-out rows, 2 seeds, 95% t intervals."
    assert table[2].startswith("| policy | HR@5 best ↑ | HR@5 worst ↓ | lift ↑ |")
    assert [line.split("|")[1].strip() for line in table[4:-4]] == list(results.runs)
    assert "GAUC liked" in table[2]
    assert "GAUC play" not in table[2]  # a label, but not 0/1
    names = {path.name for path in settings.output.iterdir()}
    assert names >= {"bc", "drpo", "positive-only", "runs", "log"}
    assert not list(settings.output.rglob("*.state"))


def test_a_finished_command_given_again_trains_nothing(trained, monkeypatch) -> None:
    settings, results = trained

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(CatalogueTraining, "train", never)
    assert run_train(settings).runs == results.runs
    more = replace(settings, learning_rate=1e-3)
    with pytest.raises(AssertionError, match="trained again"):
        run_train(more)


def test_a_killed_run_ends_as_if_it_had_not_been(log: Path, tmp_path: Path) -> None:
    settings = config(log, tmp_path / "killed", objectives=("drpo",), steps=240)

    def killer(name: str, step: int, steps: int) -> None:
        if step == 220:  # the last checkpoint lies 20 steps back
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_train(settings, killer)
    assert not (settings.output / "results.json").exists()
    steps = []
    resumed = run_train(settings, lambda name, step, total: steps.append(step))
    assert steps == [220, 240]
    whole = run_train(replace(settings, output=tmp_path / "whole"))
    assert resumed.runs == whole.runs


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


def test_the_checkpoint_evaluates_as_the_run_did(trained, log: Path) -> None:
    settings, results = trained
    found = run_evaluate(
        EvaluateConfig(settings.output / "drpo", str(log / "log.parquet"), ks=(5,))
    )
    assert (found.rows, found.unknown_rows) == (USERS * 9, 0)
    for method in ("random", "popularity", "drpo"):
        assert found.metrics[method] == pytest.approx(results.runs[method][0], nan_ok=True)


def test_a_log_that_numbers_its_items_otherwise_is_matched_by_raw_ids(
    trained, log: Path, tmp_path: Path
) -> None:
    settings, results = trained
    frame = make_log()
    newcomer = frame["video"] == "v9"
    frame.loc[newcomer, "video"] = "a-new-video"  # sorts first: every number moves
    frame.to_parquet(tmp_path / "later.parquet")
    found = run_evaluate(
        EvaluateConfig(settings.output / "drpo", str(tmp_path / "later.parquet"), ks=(5,))
    )
    last_days = frame["time"] >= 11 * 86_400
    assert found.unknown_rows == int((newcomer & last_days).sum())
    assert found.rows == USERS * 9 - found.unknown_rows
    # Histories lose one item in forty-four, which changes little.
    assert found.metrics["drpo"]["lift@5"] == pytest.approx(
        results.runs["drpo"][0]["lift@5"], rel=0.3
    )


def test_a_foreign_catalogue_is_an_error(trained, tmp_path: Path) -> None:
    settings, _ = trained
    frame = make_log()
    frame["video"] = "other-" + frame["video"]
    frame.to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(ValueError, match="none of the 1080 held-out rows shows an item"):
        run_evaluate(EvaluateConfig(settings.output / "bc", str(tmp_path / "foreign.parquet")))
    frame["video"] = frame["video"].str.slice(7).astype(int)
    frame.to_parquet(tmp_path / "numbers.parquet")
    with pytest.raises(ValueError, match="ids are integers, the policy's are strings"):
        run_evaluate(EvaluateConfig(settings.output / "bc", str(tmp_path / "numbers.parquet")))


def test_users_are_recommended_their_topic(trained) -> None:
    settings, _ = trained
    checkpoint = PolicyCheckpoint.load(settings.output / "drpo")
    right = 0
    for user in range(40):
        places = recommend(checkpoint, 1000 + user, k=5, exclude_seen=False)
        right += sum(topic(int(p.item[1:])) == user % TOPICS for p in places)
    assert right / 200 > 0.8
    imitation = PolicyCheckpoint.load(settings.output / "bc")
    bait = recommend(imitation, 1000, k=5, exclude_seen=False)
    assert all(int(place.item[1:]) < BAIT for place in bait)


def test_a_checkpoint_knows_what_every_user_saw_and_where(trained, log: Path) -> None:
    settings, _ = trained
    checkpoint = PolicyCheckpoint.load(settings.output / "drpo")
    frame = make_log().sort_values(["user", "time"], kind="stable")
    for user in (1000, 1050, 1119):
        rows = frame[frame["user"] == user]
        number = int(checkpoint.users.ids.encode([user])[0])
        seen = checkpoint.items.decode(checkpoint.users.sequence(number))
        assert seen == rows["video"].tolist()
        context = checkpoint.contexts[0].decode(checkpoint.users.context[number])
        assert context == [rows["tab"].iloc[-1]]
        unseen = {place.item for place in recommend(checkpoint, user, k=ITEMS)}
        assert unseen == {f"v{i}" for i in range(ITEMS)} - set(seen)


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
    assert "holds no torchrl-drpo catalogue policy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objectives": ("dpo",)},
            "no objective 'dpo' .did you mean 'drpo'.*are bc, drpo",
        ),
        ({"objectives": ()}, "name an objective, of bc, drpo"),
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
