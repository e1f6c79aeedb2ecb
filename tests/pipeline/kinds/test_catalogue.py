"""Encoders of catalogue policies, from the settings through training to what is served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.pipeline.topic_log import config, make_log
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.policies import catalogue_policy

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = {
    "transformer": ModelConfig(dim=16, hidden=(32,), encoder="transformer", layers=1, dropout=0.1),
    "gru": ModelConfig(dim=16, hidden=(32,), encoder="gru", layers=1),
    "pooling": ModelConfig(dim=16, hidden=(32,), dropout=0.1),
}


@pytest.mark.parametrize(
    ("kind", "places"),
    [("transformer", "all"), ("transformer", "last"), ("gru", "all"), ("pooling", "all")],
)
def test_an_encoder_is_trained_saved_and_served(log: Path, tmp_path: Path, kind: str, places: str):
    settings = config(
        log, tmp_path, objectives=("drpo",), model=SHAPES[kind], train_places=places, steps=60
    )
    results = run_train(settings)
    assert results.summary["drpo"]["lift@5"].mean > 4  # chance is 1, imitation below 1/2
    checkpoint = PolicyCheckpoint.load(settings.output / "drpo")
    encoder = catalogue_policy(checkpoint.actor).encoder.config
    assert (encoder.kind, encoder.dropout) == (kind, SHAPES[kind].dropout)
    assert not catalogue_policy(checkpoint.actor).training
    found = run_evaluate(
        EvaluateConfig(settings.output / "drpo", str(log / "log.parquet"), ks=(5,))
    )
    assert found.metrics["drpo"] == pytest.approx(results.runs["drpo"][0], nan_ok=True)
    assert len(recommend(checkpoint, 1000, k=3)) == 3
    assert recommend(checkpoint, k=3) == recommend(checkpoint, history=[], k=3)


@pytest.mark.parametrize("places", ["all", "last"])
def test_times_and_feedback_of_histories_are_read_from_training_to_service(
    log: Path, tmp_path: Path, places: str
) -> None:
    shape = replace(SHAPES["transformer"], history_times=True, history_feedback=True)
    settings = config(
        log, tmp_path, objectives=("drpo",), model=shape, train_places=places, steps=40
    )
    results = run_train(settings)
    folder = settings.output / "drpo"
    checkpoint = PolicyCheckpoint.load(folder)
    policy = catalogue_policy(checkpoint.actor)
    assert set(checkpoint.actor.in_keys) >= {
        ("observation", "history_time"),
        ("observation", "history_feedback"),
    }
    data = SplitLog.open(settings, settings.output / "log", history_columns=("time", "feedback"))
    quality = data.log.split("train").quality
    assert policy.usual_feedback().item() == pytest.approx(quality.mean().item(), rel=1e-4)
    found = run_evaluate(EvaluateConfig(folder, str(log / "log.parquet"), ks=(5,)))
    assert found.metrics["drpo"] == pytest.approx(results.runs["drpo"][0], nan_ok=True)
    # A later log may count time in other ticks: floats and timestamps are read as microseconds.
    rows = pd.read_parquet(log / "log.parquet")
    rows.assign(time=rows["time"].astype(float)).to_parquet(tmp_path / "floats.parquet")
    found = run_evaluate(EvaluateConfig(folder, str(tmp_path / "floats.parquet"), ks=(5,)))
    assert found.metrics["drpo"] == pytest.approx(results.runs["drpo"][0], nan_ok=True)
    # What is served to a user is what the policy says after that user's last row.
    user = checkpoint.users.ids.find(1007)
    about = checkpoint.users.about(user)
    rows = (data.log.column("user") == user).nonzero()[:, 0]
    assert torch.equal(checkpoint.users.sequence(user), data.log.column("action")[rows])
    assert torch.equal(about["times"], data.log.column("time")[rows])
    assert torch.equal(about["feedback"], data.log.quality[rows])
    state = checkpoint.state(checkpoint.users.sequence(user), **about)
    liked = about | {"feedback": 1 - about["feedback"]}
    assert not torch.allclose(checkpoint.state(checkpoint.users.sequence(user), **liked), state)
    assert len(recommend(checkpoint, 1007, k=3)) == 3
    assert len(recommend(checkpoint, k=3)) == 3  # nothing has happened yet
    with pytest.raises(ValueError, match="for these items there are no times"):
        recommend(checkpoint, history=["v9", "v13"])


def test_a_killed_run_of_all_places_ends_as_if_it_had_not_been(log: Path, tmp_path: Path) -> None:
    settings = config(
        log,
        tmp_path / "killed",
        objectives=("drpo",),
        model=SHAPES["pooling"],  # quickest; dropout draws numbers too
        train_places="all",
        steps=220,
    )

    def killer(name: str, step: int, steps: int) -> None:
        if step == 220:  # the last step: the only checkpoint lies 20 steps back
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_train(settings, killer)
    told: dict[str, list[int]] = {}
    resumed = run_train(settings, lambda name, step, _: told.setdefault(name, []).append(step))
    assert told["drpo, seed 0"] == [220]
    whole = run_train(replace(settings, output=tmp_path / "whole"))
    assert resumed.runs == whole.runs


def test_a_step_of_all_places_is_about_as_many_rows(log: Path, tmp_path: Path) -> None:
    data = SplitLog.open(config(log, tmp_path), tmp_path / "log")
    sequences = data.train_sequences(128, 0, "cpu")
    counts = [int(sequences.sample()["collector", "mask"].sum()) for _ in range(20)]
    assert sum(counts) / 20 == pytest.approx(128, rel=0.1)


def test_encoders_are_part_of_what_a_run_is(log: Path, tmp_path: Path) -> None:
    base = config(log, tmp_path)
    others = [replace(base, model=shape) for shape in SHAPES.values()]
    others += [replace(others[0], train_places="all"), replace(base, train_places="all")]
    others.append(replace(base, model=replace(SHAPES["transformer"], heads=4)))
    others.append(replace(base, model=replace(SHAPES["transformer"], history_times=True)))
    others.append(replace(base, model=replace(base.model, history_feedback=True)))
    settings = [str(each.settings()) for each in (base, *others)]
    assert len(set(settings)) == len(settings)
    # What a pooled history does not have is no part of it.
    assert replace(base, model=replace(base.model, heads=4)).settings() == base.settings()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": {"encoder": "transformer", "dim": 10, "heads": 3}}, "3 heads cannot share"),
        ({"model": {"dropout": 1.0}}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"model": {"layers": 0}}, "layers must be at least 1, got 0"),
        ({"policy": "embedding", "model": {"encoder": "gru"}}, "states of a fixed form"),
        (
            {"model": {"encoder": "gru", "history_times": True}},
            "by a transformer, not by 'gru'",
        ),
        ({"policy": "embedding", "model": {"history_feedback": True}}, "states of a fixed form"),
        ({"policy": "embedding", "train_places": "all"}, "embedding policies have none of"),
        ({"objectives": ("guided",), "train_places": "all"}, "'guided' follows a reward model"),
        (
            {"objectives": ("conditioned",), "train_places": "all"},
            "'conditioned' is one that reads",
        ),
    ],
)
def test_settings_that_no_run_could_have_are_refused(options: dict, message: str) -> None:
    def make() -> TrainConfig:
        model = ModelConfig(**options.get("model", {}))
        return TrainConfig(logs="log", preset="kuairand", **options | {"model": model})

    with pytest.raises(ValueError, match=message):
        make()


def test_a_log_without_sequences_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    from torchrl_drpo.data import LogSchema

    make_log().to_parquet(tmp_path / "log.parquet")
    schema = LogSchema(item="video", quality="liked", duplicates="keep")
    (tmp_path / "schema.json").write_text(schema.to_json())
    with pytest.raises(ValueError, match="no users with sequences"):
        run_train(config(tmp_path, tmp_path / "run", train_places="all"))
    assert not (tmp_path / "run" / "runs").exists()


def test_the_actor_is_the_same_with_and_without_places(log: Path, tmp_path: Path) -> None:
    """The states that all places give are those that evaluation computes row by row."""
    from torchrl_drpo.objectives import AllPlaces, BehaviorCloningLoss
    from torchrl_drpo.policies import EncoderConfig, make_catalogue_actor

    data = SplitLog.open(config(log, tmp_path), tmp_path / "log")
    train = data.log.split("train", history=60)  # no sequence is longer
    actor = make_catalogue_actor(
        data.num_items,
        dim=8,
        history=60,
        context_sizes=data.context_sizes,
        encoder=EncoderConfig("transformer", dropout=0.3),
    ).eval()
    loss = AllPlaces(BehaviorCloningLoss, actor).eval()
    rows = loss.rows(train.sequences()[:])
    expected = actor.get_dist(train[:]).hidden
    found = rows["hidden"][rows["collector", "mask"]]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
