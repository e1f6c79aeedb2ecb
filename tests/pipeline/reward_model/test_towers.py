"""The reward model behind guided and the -q objectives: no leak, no second fit, no wrong sum."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo import GuidedLoss, LogSchema, cli, make_catalogue_actor, make_gaussian_actor
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.kinds.catalogue import CatalogueTraining
from torchrl_drpo.pipeline.objectives.make import make_objective
from torchrl_drpo.pipeline.objectives.named import OBJECTIVES, following_model
from torchrl_drpo.pipeline.reward_model import fit as catalogue_reward_fit
from torchrl_drpo.pipeline.reward_model import towers as catalogue_reward
from torchrl_drpo.pipeline.reward_model.fit import RewardConfig, RewardFit
from torchrl_drpo.pipeline.reward_model.towers import CatalogueReward, two_tower_module
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.rewards import AnnotatedBuffer, RewardRegression
from torchrl_drpo.rewards.regression import StandardisedReward

MODELLED = [
    name for name in following_model(OBJECTIVES) if "embedding" not in OBJECTIVES[name].policies
]

pytestmark = pytest.mark.usefixtures("one_thread")

USERS, ITEMS, DAYS, DAY = 30, 12, 6, 86_400
SCHEMA = LogSchema(
    user="user", item="item", time="time", quality="watched", context=("tab",), duplicates="keep"
)
SETTINGS = RewardConfig(
    folds=3, dim=4, hidden=(8,), steps=40, batch_size=64, learning_rate=3e-2, seed=1
)


def make_log(*, noise_only: bool = False) -> pd.DataFrame:
    """Five rows a user and day; the even items are watched to the end, the odd ones are not."""
    rng = np.random.default_rng(0)
    rows = USERS * DAYS * 5
    item = rng.integers(0, ITEMS, rows)
    worth = np.where(noise_only, 0.5, 0.8 - 0.6 * (item % 2))
    return pd.DataFrame(
        {
            "user": np.repeat(np.arange(USERS), DAYS * 5),
            "item": item,
            "time": np.tile(np.repeat(np.arange(DAYS) * DAY, 5), USERS)
            + rng.integers(0, DAY, rows),
            "tab": rng.integers(0, 2, rows),
            "watched": worth + 0.2 * rng.standard_normal(rows),
        }
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


@pytest.fixture(scope="module")
def reward(data: SplitLog, tmp_path_factory: pytest.TempPathFactory):
    return fitted(data, tmp_path_factory.mktemp("reward"))


def random_model(*, context: bool = True) -> CatalogueReward:
    """Untrained towers with large random numbers, in float64."""
    torch.manual_seed(0)
    sizes = (2,) if context else ()
    make = lambda: two_tower_module(ITEMS, dim=4, history=3, context_sizes=sizes, hidden=(8,))  # noqa: E731
    model = CatalogueReward([StandardisedReward(make()).double() for _ in range(3)]).double()
    for parameter in model.parameters():
        parameter.data.normal_()
    for member in model.members:
        member.mean.fill_(0.3)
        member.std.fill_(0.7)
    return model.requires_grad_(False).eval()


def some_rows(n: int = 7) -> TensorDict:
    g = torch.Generator().manual_seed(1)
    observation = {
        "history": torch.randint(-1, ITEMS, (n, 3), generator=g),
        "context": torch.randint(-1, 2, (n, 1), generator=g),
    }
    action = torch.randint(0, ITEMS, (n,), generator=g)
    reward = torch.rand(n, 1, generator=g, dtype=torch.double)
    columns = {"observation": observation, "action": action, "next": {"reward": reward}}
    return TensorDict(columns, [n])


# -- the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [None, [0, 1, 2, 0, 1, 2, 2], [-1, 0, -1, 1, 2, -1, 0]])
@pytest.mark.parametrize("context", [True, False])
def test_a_row_of_all_predictions_is_each_prediction(fold, context: bool) -> None:
    model, rows = random_model(context=context), some_rows()
    if fold is not None:
        rows["fold"] = torch.tensor(fold)
    one_by_one = [
        model(rows.clone().set("action", torch.full((7,), item)))["predicted_reward"]
        for item in range(ITEMS)
    ]
    torch.testing.assert_close(model.predict_all(rows), torch.stack(one_by_one, -1))


@pytest.mark.parametrize("block", [2**24, 2 * ITEMS, 1])
def test_the_expected_reward_is_the_sum_over_the_catalogue(monkeypatch, block: int) -> None:
    monkeypatch.setattr(catalogue_reward, "PREDICTIONS_AT_A_TIME", block)
    model, rows = random_model(), some_rows()
    rows["fold"] = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    actor = make_catalogue_actor(ITEMS, dim=4, history=3, context_sizes=(2,), temperature=0.7)
    actor = actor.double()
    got = model.expected_reward(rows, actor.get_dist(rows))
    weight = torch.arange(1.0, 8.0, dtype=torch.double)
    (got * weight).sum().backward()
    gradient = [p.grad.clone() for p in actor.parameters()]

    actor.zero_grad()
    wanted = (actor.get_dist(rows).logits.exp() * model.predict_all(rows)).sum(-1)
    (wanted * weight).sum().backward()
    torch.testing.assert_close(got, wanted)
    for found, parameter in zip(gradient, actor.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)
    assert gradient[0].abs().sum() > 0


def test_guided_takes_the_exact_expectation_from_the_model() -> None:
    model, rows = random_model(), some_rows()
    rows["fold"] = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    actor = make_catalogue_actor(ITEMS, dim=4, history=3, context_sizes=(2,)).double()
    loss, by_hand = GuidedLoss(actor, model), GuidedLoss(actor, model, expectation="exact")
    monkey = []
    loss.reward_model.predict_all = lambda rows: (
        monkey.append(len(rows)) or type(model).predict_all(loss.reward_model, rows)
    )
    torch.testing.assert_close(loss(rows)["loss_actor"], by_hand(rows)["loss_actor"])
    assert monkey  # all rows with a positive advantage in one product
    assert sum(monkey) < len(rows)


def test_a_policy_over_embeddings_is_refused() -> None:
    rows = TensorDict({"observation": torch.zeros(2, 5)}, [2])
    dist = make_gaussian_actor(state_dim=5, action_dim=4).get_dist(rows)
    with pytest.raises(TypeError, match="needs a CatalogueCategorical policy, got"):
        random_model().expected_reward(some_rows(2), dist)


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
    manifest.write_text(manifest.read_text().replace('"version": 2', '"version": 1'))
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
    monkeypatch.setattr(catalogue_reward_fit, "VERSION", 3)
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
