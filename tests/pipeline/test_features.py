"""Numeric features from a log to a recommendation, where nothing else says what is good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo.data import LogSchema
from torchrl_drpo.pipeline import rows as catalogue_data
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.reward_model import fit as catalogue_reward_fit
from torchrl_drpo.pipeline.reward_model.fit import RewardConfig, RewardFit
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.policies.catalogue import catalogue_policy
from torchrl_drpo.rewards.catalogue import CatalogueReward
from torchrl_drpo.rewards.regression import StandardisedReward
from torchrl_drpo.rewards.towers import two_tower_module

pytestmark = pytest.mark.usefixtures("one_thread")

USERS, ITEMS, DAYS, DAY = 60, 12, 8, 86_400
FEATURES = ("mood", "noise", "clock", "constant")
WITHOUT = LogSchema(user="user", item="item", time="time", quality="liked", duplicates="keep")
FIT = RewardConfig(folds=2, dim=4, hidden=(16,), steps=100, batch_size=128, learning_rate=2e-2)


def make_log() -> pd.DataFrame:
    """Every item is shown alike; the even ones are liked in a good mood, the odd ones in a bad."""
    rng = np.random.default_rng(0)
    rows = USERS * DAYS * 4
    mood, item = rng.standard_normal(rows), rng.integers(0, ITEMS, rows)
    day = np.tile(np.repeat(np.arange(DAYS) * DAY, 4), USERS)
    match = (item % 2 == 0) == (mood > 0)
    return pd.DataFrame(
        {
            "user": np.repeat(np.arange(USERS), DAYS * 4),
            "item": item,
            "time": day + rng.integers(0, DAY, rows),
            "liked": (rng.random(rows) < np.where(match, 0.9, 0.1)).astype(int),
            "mood": 2e4 + 5e3 * mood,  # none of them in standard units
            "noise": 1e-3 * rng.standard_normal(rows),
            "clock": 1.6e9 + 1e5 * rng.random(rows),
            "constant": 0.1,
        }
    )


@pytest.fixture(autouse=True)
def _small_fits(monkeypatch) -> None:
    monkeypatch.setattr(catalogue_reward_fit, "RewardConfig", lambda: FIT)


def config(folder: Path, frame: pd.DataFrame, features: tuple[str, ...], **changes):
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "log.parquet")
    (folder / "schema.json").write_text(replace(WITHOUT, features=features).to_json())
    base = TrainConfig(
        logs=str(folder / "log.parquet"),
        schema=folder / "schema.json",
        output=folder / "run",
        test_days=2,
        history=3,
        objectives=("drpo",),
        steps=120,
        batch_size=128,
        learning_rate=1e-2,
        ks=(3,),
        model=ModelConfig(dim=8, hidden=(16,)),
    )
    return replace(base, **changes)


def open_data(folder: Path, frame: pd.DataFrame, features: tuple[str, ...]) -> SplitLog:
    settings = config(folder, frame, features)
    return SplitLog.open(settings, settings.output / "log")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SplitLog:
    return open_data(tmp_path_factory.mktemp("data"), make_log(), FEATURES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    settings = config(
        tmp_path_factory.mktemp("train"), make_log(), FEATURES, objectives=("drpo", "positive-only")
    )
    return settings, run_train(settings)


# -- the log -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [2**21, 4 * 100, 1])
def test_moments_are_those_of_the_training_rows(data, monkeypatch, block: int) -> None:
    monkeypatch.setattr(catalogue_data, "_NUMBERS_AT_A_TIME", block)
    mean, std = SplitLog(data.log).feature_moments()
    frame = make_log()
    kept = frame.loc[frame["time"] < (DAYS - 2) * DAY, list(FEATURES)].to_numpy()
    kept = kept.astype(np.float32).astype(np.float64)  # as the log holds them
    assert len(kept) == len(data.train_items())
    np.testing.assert_allclose(mean.numpy(), kept.mean(0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(std.numpy()[:3], kept.std(0)[:3], rtol=1e-9)
    assert std[3] < 1e-12


def test_moments_are_read_once(data, monkeypatch) -> None:
    mean, std = data.feature_moments()
    monkeypatch.setattr(data, "log", None)
    assert data.feature_moments()[0] is mean
    assert data.feature_moments()[1] is std


def test_users_are_known_by_their_latest_features(data) -> None:
    users = data.users()
    last = make_log().sort_values(["user", "time"], kind="stable").groupby("user").last()
    numbers = users.ids.encode(last.index.to_numpy())
    expected = torch.tensor(last[list(FEATURES)].to_numpy(), dtype=torch.float32)
    assert users.features.dtype == torch.float32
    assert torch.equal(users.features[numbers], expected)


def test_a_log_without_features_has_none(tmp_path: Path) -> None:
    data = open_data(tmp_path, make_log(), ())
    assert data.num_features == 0
    assert data.users().features.shape == (USERS, 0)


# -- policies ----------------------------------------------------------------------------------


def test_a_policy_that_reads_them_knows_what_is_good_and_another_guesses(
    trained, tmp_path: Path
) -> None:
    settings, results = trained
    blind = run_train(config(tmp_path, make_log(), (), objectives=settings.objectives))
    for objective in settings.objectives:
        seeing, guessing = results.runs[objective][0], blind.runs[objective][0]
        assert seeing["lift@3"] > 3
        assert seeing["gauc_quality"] > 0.8
        # 480 held-out rows, half of them best: a hit rate of 1/4 has a standard error of .03.
        assert guessing["lift@3"] == pytest.approx(1.0, abs=0.5)
        assert guessing["gauc_quality"] == pytest.approx(0.5, abs=0.06)


def test_other_units_train_the_same_policy(trained, tmp_path: Path) -> None:
    settings, results = trained
    frame = make_log()
    frame["mood"] = frame["mood"] * 1000 + 5
    other = config(tmp_path, frame, FEATURES)
    moved = run_train(other).runs["drpo"][0]
    for metric in ("hr@3_best", "hr@3_worst", "gauc_quality"):
        assert moved[metric] == pytest.approx(results.runs["drpo"][0][metric], abs=0.03)
    policies = [
        catalogue_policy(PolicyCheckpoint.load(s.output / "drpo").actor) for s in (settings, other)
    ]
    history, features = torch.tensor([[-1, 3, 4]]), policies[0].usual_features().clone()
    features[0] += 4e3
    logits = [policies[0].distribution(policies[0](history, None, features[None])).logits]
    features[0] = features[0] * 1000 + 5
    logits.append(policies[1].distribution(policies[1](history, None, features[None])).logits)
    torch.testing.assert_close(logits[0], logits[1], atol=0.1, rtol=0.05)


def test_the_checkpoint_evaluates_as_the_run_did(trained) -> None:
    settings, results = trained
    found = run_evaluate(
        EvaluateConfig(settings.output / "drpo", settings.logs, test_days=2, ks=(3,))
    )
    assert found.rows == USERS * 2 * 4
    assert found.metrics["drpo"] == pytest.approx(results.runs["drpo"][0], nan_ok=True)


def test_users_are_recommended_what_suits_their_mood(trained) -> None:
    settings, _ = trained
    checkpoint = PolicyCheckpoint.load(settings.output / "drpo")
    frame = make_log().sort_values(["user", "time"], kind="stable")
    mood = frame.groupby("user")["mood"].last()
    right = [
        (place.item % 2 == 0) == (mood[user] > 2e4)
        for user in mood.index[(mood - 2e4).abs() > 1e3]
        for place in recommend(checkpoint, int(user), k=3, exclude_seen=False)
    ]
    assert len(right) > 100
    assert np.mean(right) > 0.85
    mean = catalogue_policy(checkpoint.actor).usual_features()
    empty = torch.zeros(0, dtype=torch.long)
    assert torch.equal(checkpoint.state(empty), checkpoint.state(empty, None, mean))
    places = recommend(checkpoint, 999, k=ITEMS, cold_start=True)
    logits = checkpoint.index().top_k(checkpoint.state(empty, None, mean), ITEMS)[1]
    assert [place.item for place in places] == checkpoint.items.decode(logits)


# -- reward models -----------------------------------------------------------------------------


def fitted(data: SplitLog, folder: Path):
    return RewardFit(data, folder, history=3, settings=FIT).open(lambda *_: None)


def test_the_reward_model_reads_them_too(data, tmp_path: Path) -> None:
    seeing = fitted(data, tmp_path / "seeing")
    blind = fitted(open_data(tmp_path, make_log(), ()), tmp_path / "blind")
    # Mood and item together explain .16 of a variance of .25; few rows find a part of it.
    assert 0.25 < seeing.facts["explained_variance"] < 0.64
    assert blind.facts["explained_variance"] < 0.05
    mean, std = data.feature_moments()
    for member in seeing.model.members:
        scaler = member.network.module.encoder.scaler
        torch.testing.assert_close(scaler.mean, mean.float())
        torch.testing.assert_close(scaler.scale[:3], std[:3].float())
    again = fitted(data, tmp_path / "seeing")
    rows = data.test[:50]
    rows["fold"] = torch.full((50,), -1)
    torch.testing.assert_close(again.model.predict_all(rows), seeing.model.predict_all(rows))


@pytest.mark.parametrize("sizes", [(), (2,)])
def test_a_row_of_all_predictions_is_each_prediction(sizes: tuple[int, ...]) -> None:
    members = [
        StandardisedReward(
            two_tower_module(ITEMS, dim=4, history=3, context_sizes=sizes, num_features=2)
        )
        for _ in range(3)
    ]
    model = CatalogueReward(members)
    for parameter in model.parameters():
        parameter.data.normal_()
    for number, member in enumerate(members):
        member.network.module.encoder.scaler.fit_(torch.ones(2), torch.ones(2) * (1 + number))
    observation = {"history": torch.randint(-1, ITEMS, (7, 3)), "features": torch.randn(7, 2)}
    observation |= {"context": torch.randint(-1, 2, (7, 1))} if sizes else {}
    rows = TensorDict({"observation": observation, "fold": torch.arange(7) % 4 - 1}, [7])
    one_by_one = [
        model(rows.clone().set("action", torch.full((7,), item)))["predicted_reward"]
        for item in range(ITEMS)
    ]
    torch.testing.assert_close(model.predict_all(rows), torch.stack(one_by_one, -1))
    other = rows.clone().set(("observation", "features"), torch.randn(7, 2))
    assert not torch.allclose(model.predict_all(other), model.predict_all(rows))


def test_objectives_that_follow_the_model_see_them(tmp_path: Path) -> None:
    settings = config(tmp_path, make_log(), FEATURES, objectives=("guided", "positive-only-q"))
    runs = run_train(settings).runs
    for objective in settings.objectives:
        assert runs[objective][0]["lift@3"] > 3
