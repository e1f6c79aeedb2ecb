"""The reward model behind guided and the -q objectives: no leak, no second fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.pipeline.reward_model.watched_log import ITEMS, SCHEMA, USERS, make_log
from torchrl_drpo import LogSchema, cli, make_catalogue_actor
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.kinds.catalogue import CatalogueTraining
from torchrl_drpo.pipeline.objectives.make import make_objective
from torchrl_drpo.pipeline.objectives.named import OBJECTIVES, following_model
from torchrl_drpo.pipeline.reward_model import fit as catalogue_reward_fit
from torchrl_drpo.pipeline.reward_model.fit import RewardConfig, RewardFit
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.policies import EncoderConfig
from torchrl_drpo.rewards import AnnotatedBuffer, RewardRegression

MODELLED = [
    name for name in following_model(OBJECTIVES) if "embedding" not in OBJECTIVES[name].policies
]

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = RewardConfig(
    folds=3, dim=4, hidden=(8,), steps=40, batch_size=64, learning_rate=3e-2, seed=1
)


@pytest.fixture(autouse=True)
def _small_fits(monkeypatch) -> None:
    monkeypatch.setattr(catalogue_reward_fit, "RewardConfig", lambda: SETTINGS)


def config(folder: Path, frame: pd.DataFrame, schema: LogSchema = SCHEMA, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "log.parquet")
    (folder / "schema.json").write_text(schema.to_json())
    base = TrainConfig(
        logs=str(folder / "log.parquet"),
        schema=folder / "schema.json",
        output=folder / "run",
        test_days=2,
        history=3,
        steps=20,
        batch_size=64,
        ks=(3,),
        model=ModelConfig(dim=4, hidden=(8,)),
    )
    return replace(base, **changes)


def open_data(folder: Path, frame: pd.DataFrame, schema: LogSchema = SCHEMA) -> SplitLog:
    settings = config(folder, frame, schema)
    return SplitLog.open(settings, settings.output / "log")


def fitted(data: SplitLog, folder: Path, settings: RewardConfig = SETTINGS, history: int = 3):
    return RewardFit(data, folder, history=history, settings=settings).open(lambda *_: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SplitLog:
    return open_data(tmp_path_factory.mktemp("log"), make_log())


def test_histories_are_read_by_the_encoder_that_was_asked_for(data, tmp_path: Path) -> None:
    gru = replace(SETTINGS, encoder=EncoderConfig("gru", layers=1))
    first = fitted(data, tmp_path, gru)
    assert all(member.network.module.encoder.config.kind == "gru" for member in first.model.members)
    again = fitted(data, tmp_path, gru)
    torch.testing.assert_close(again.model.state_dict(), first.model.state_dict(), rtol=0, atol=0)
    pooled = RewardFit(data, tmp_path, history=3, settings=SETTINGS)
    assert pooled.fingerprint != first.fingerprint
    with pytest.raises(ValueError, match="reads the items of histories, not their times or feed"):
        replace(SETTINGS, encoder=EncoderConfig("gru", feedback=True))


@pytest.fixture(scope="module")
def reward(data: SplitLog, tmp_path_factory: pytest.TempPathFactory):
    return fitted(data, tmp_path_factory.mktemp("reward"))


# -- the fit -----------------------------------------------------------------------------------


def test_it_finds_what_items_are_worth(reward) -> None:
    # Items explain .09 of a variance of .13; the rest is noise that nothing can explain.
    assert 0.5 < reward.facts["explained_variance"] < 0.75
    assert reward.model.explained_variance.item() == reward.facts["explained_variance"]
    assert reward.facts["folds_of"] == "users"
    assert "explains 6" in reward.describe() or "explains 5" in reward.describe()


def test_all_rows_of_a_user_lie_in_one_fold(data, reward) -> None:
    fold = reward.columns["fold"]
    user = data.log.split("train").column("user")
    assert sorted(set(fold.tolist())) == [0, 1, 2]
    for number in range(USERS):
        assert len(set(fold[user == number].tolist())) == 1


def test_no_row_is_judged_by_a_model_that_saw_its_user(data, reward, tmp_path: Path) -> None:
    # Other rewards for the users of one fold: what is said of their rows must not move at all.
    fold = reward.columns["fold"]
    hidden = set(data.log.split("train").column("user")[fold == 1].tolist())
    frame = make_log()
    mine = frame["user"].isin(hidden)
    frame.loc[mine, "watched"] = 5.0 - 3.0 * frame.loc[mine, "watched"]
    other = fitted(open_data(tmp_path, frame), tmp_path / "reward")
    torch.testing.assert_close(other.columns["fold"], fold)
    for column in ("predicted_reward", "state_value"):
        same = (other.columns[column] == reward.columns[column]).numpy()
        assert same[fold == 1].all()
        assert not same[fold != 1].any()


def test_samples_carry_the_columns_of_their_own_rows(data, reward) -> None:
    user = data.log.split("train").column("user")
    fold_of_user = dict(zip(user.tolist(), reward.columns["fold"].tolist(), strict=True))
    batch = AnnotatedBuffer(data.train_buffer(64, 0, "cpu"), reward.columns).sample()
    assert batch["fold"].tolist() == [fold_of_user[user] for user in batch["user"].tolist()]
    again = reward.model(batch.clone())["predicted_reward"]
    torch.testing.assert_close(batch["predicted_reward"], again)


def test_a_log_without_users_is_cut_by_rows(tmp_path: Path) -> None:
    schema = LogSchema(item="item", time="time", quality="watched", duplicates="keep")
    found = fitted(open_data(tmp_path, make_log(), schema), tmp_path / "reward")
    assert found.facts["folds_of"] == "rows"
    assert found.facts["explained_variance"] > 0.5


def test_a_large_log_is_learned_from_a_part_and_judged_whole(data, tmp_path: Path) -> None:
    found = fitted(data, tmp_path, replace(SETTINGS, max_rows=200))
    assert found.facts["rows"] == 200
    assert len(found.columns) == len(data.log.split("train"))


# -- the cache ---------------------------------------------------------------------------------


@pytest.fixture
def fits(monkeypatch) -> list[int]:
    """Numbers of rows of the regressions that were carried out."""
    carried_out: list[int] = []
    call = RewardRegression.__call__

    def counted(self, rows):
        carried_out.append(len(rows))
        return call(self, rows)

    monkeypatch.setattr(RewardRegression, "__call__", counted)
    return carried_out


@pytest.mark.parametrize("killed_at", [2, 5])  # among the members of Q, and among those of V
def test_a_killed_fit_goes_on_with_the_next_member(
    data, reward, tmp_path: Path, fits, killed_at: int
) -> None:
    def killer(there: int, folds: int) -> None:
        if there == killed_at:
            raise KeyboardInterrupt

    fit = RewardFit(data, tmp_path, history=3, settings=SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        fit.open(killer)
    assert len(fits) == killed_at
    seen = []
    resumed = fit.open(lambda *at: seen.append(at))
    assert len(fits) == 6
    assert seen == [(there, 6) for there in range(1, 7)]
    for column in ("predicted_reward", "state_value"):
        torch.testing.assert_close(resumed.columns[column], reward.columns[column], rtol=0, atol=0)
    assert not (tmp_path / "members").exists()


def test_a_fitted_model_is_read_and_not_fitted_again(data, tmp_path: Path, fits) -> None:
    first = fitted(data, tmp_path)
    again = fitted(data, tmp_path)
    assert len(fits) == 6
    assert again.facts == first.facts
    assert (again.columns == first.columns).all()
    for one, other in ((again.model, first.model), (again.state_model, first.state_model)):
        state = one.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    (tmp_path / "manifest.json").write_text("{")  # damaged: as if it were not there
    fitted(data, tmp_path)
    assert len(fits) == 12


def test_a_model_of_the_version_without_a_state_value_is_fitted_anew(
    data, tmp_path: Path, fits
) -> None:
    fitted(data, tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 3', '"version": 1'))
    assert "state_value" in fitted(data, tmp_path).columns
    assert len(fits) == 12


@pytest.mark.parametrize("what", ["settings", "history", "log"])
def test_what_it_depends_on_makes_it_new(data, reward, tmp_path: Path, what: str, fits) -> None:
    before = reward.fingerprint
    if what == "settings":
        fit = RewardFit(data, tmp_path, history=3, settings=replace(SETTINGS, dim=5))
    elif what == "history":
        fit = RewardFit(data, tmp_path, history=2, settings=SETTINGS)
    else:
        fewer = open_data(tmp_path / "other", make_log().iloc[:-30])
        fit = RewardFit(fewer, tmp_path, history=3, settings=SETTINGS)
    assert fit.fingerprint != before
    assert RewardFit(data, tmp_path, history=3, settings=SETTINGS).fingerprint == before
    assert not fits


# -- drpo train --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue_reward_fit, "RewardConfig", lambda: SETTINGS)
        folder = tmp_path_factory.mktemp("train")
        settings = config(folder, make_log(), objectives=("drpo", *MODELLED))
        return settings, run_train(settings)


def test_the_results_say_how_good_the_reward_model_is(trained, reward) -> None:
    settings, results = trained
    assert results.reward_model == reward.facts
    written = json.loads((settings.output / "results.json").read_text())
    assert written["reward_model"] == reward.facts
    assert "explains 6" in (settings.output / "table.md").read_text()
    counted = {"random", "popularity", "recent-popularity", "co-occurrence", "item-knn"}
    assert set(results.runs) == {*counted, "drpo", *MODELLED}
    run = json.loads((settings.output / "runs" / "guided-0.json").read_text())
    assert run["reward_model"] == reward.facts
    assert run["curve"]["guidance_value"]


def test_the_other_objectives_are_what_they_were(trained, tmp_path: Path) -> None:
    settings, results = trained
    alone = replace(settings, output=tmp_path, objectives=("drpo",))
    assert run_train(alone).runs["drpo"][0] == pytest.approx(
        results.runs["drpo"][0], rel=0, abs=0, nan_ok=True
    )
    runs = [json.loads((s.output / "runs" / "drpo-0.json").read_text()) for s in (settings, alone)]
    assert runs[0]["fingerprint"] == runs[1]["fingerprint"]
    assert "reward_model" not in runs[0]
    assert "reward_model" not in json.loads((tmp_path / "results.json").read_text())
    assert not (tmp_path / "reward").exists()


def test_another_reward_model_makes_another_run(trained, monkeypatch) -> None:
    settings, results = trained
    monkeypatch.setattr(CatalogueTraining, "train", lambda *_: pytest.fail("trained again"))
    again = run_train(settings).runs
    assert again["guided"][0]["hr@3_best"] == results.runs["guided"][0]["hr@3_best"]
    monkeypatch.setattr(catalogue_reward_fit, "VERSION", 99)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        run_train(replace(settings, objectives=("taper-q",)))


def test_a_guided_policy_recommends(trained, capsys: pytest.CaptureFixture[str]) -> None:
    settings, _ = trained
    policy = ["--checkpoint", str(settings.output / "guided"), "--no-exclude-seen", "--json"]
    assert cli.main(["recommend", *policy, "--user", "3", "--k", "4"]) == 0
    found = json.loads(capsys.readouterr().out)["recommendations"]
    assert len({place["item"] for place in found}) == 4


def test_a_reward_model_that_knows_nothing_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(CatalogueTraining, "train", lambda *_: pytest.fail("trained on noise"))
    settings = config(tmp_path, make_log(noise_only=True), objectives=("taper-q",))
    for _ in range(2):  # fitted, and read again
        with pytest.raises(ValueError, match=r"explains nothing of this log .*-0\.\d+ over 600"):
            run_train(settings)


def test_names_are_checked() -> None:
    actor = make_catalogue_actor(ITEMS)
    with pytest.raises(
        ValueError, match=r"no objective 'guide' .did you mean 'guided'.*there are bc, .* taper-q"
    ):
        make_objective("guide", actor)
    with pytest.raises(ValueError, match="'guided' needs the log's reward model, got none"):
        make_objective("guided", actor)
