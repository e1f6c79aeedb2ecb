"""Folds of rows where the state is the user, and what is said of a model that hardly explains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from torchrl_drpo import LogSchema
from torchrl_drpo.data import ItemTable
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.kinds.catalogue import CatalogueTraining
from torchrl_drpo.pipeline.kinds.embedding import EmbeddingTraining
from torchrl_drpo.pipeline.reward_model import embedding, fit, folding
from torchrl_drpo.pipeline.reward_model.folding import log_folds, names_user
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward, reward_warnings
from torchrl_drpo.pipeline.reward_model.make import RewardConfig
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import command
from torchrl_drpo.rewards.explained import explained_variance

USERS, ITEMS, ROWS = 24, 6, 1_200
TRAINING = {"catalogue": CatalogueTraining, "embedding": EmbeddingTraining}
FIT = RewardConfig(folds=2, dim=4, hidden=(8,), steps=120, batch_size=128, learning_rate=4e-2)

pytestmark = pytest.mark.usefixtures("one_thread")


def make_log() -> pd.DataFrame:
    """Every user likes the even items or the odd ones; ``person`` is the user by another name."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, USERS, ROWS), rng.integers(0, ITEMS, ROWS)
    likes = (user % 3 == 0) == (item % 2 == 0)
    return pd.DataFrame(
        {
            "user": user,
            "item": item,
            "time": np.arange(ROWS) * 600,
            "person": [f"p{number}" for number in user],
            "tab": rng.integers(0, 2, ROWS),
            "liked": 0.2 + 0.6 * likes + 0.2 * rng.standard_normal(ROWS),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    make_log().to_parquet(folder / "log.parquet")
    vectors = list(np.eye(2, dtype=np.float32)[np.arange(ITEMS) % 2])
    pd.DataFrame({"item": range(ITEMS), "vector": vectors}).to_parquet(folder / "items.parquet")
    for name, context in (("person", ("tab", "person")), ("tab", ("tab",))):
        schema = LogSchema(
            user="user",
            item="item",
            time="time",
            quality="liked",
            context=context,
            duplicates="keep",
            items=ItemTable(path="items.parquet", id="item", embedding="vector"),
        )
        (folder / f"{name}.json").write_text(schema.to_json())
    return folder


def config(folder: Path, out: Path, policy: str, schema: str) -> TrainConfig:
    return TrainConfig(
        logs=str(folder / "log.parquet"),
        schema=folder / f"{schema}.json",
        output=out,
        policy=policy,
        objectives=("positive-only-q",),
        test_days=1,
        history=2,
        steps=2,
        batch_size=64,
        ks=(1,),
        model=ModelConfig(dim=2, hidden=(4,)),
    )


def fitted(folder: Path, out: Path, policy: str):
    settings = config(folder, out, policy, "person")
    data = SplitLog.open(settings, out / "log")
    return data, TRAINING[policy](data, settings, lambda *_: None).reward


@pytest.mark.parametrize("policy", sorted(TRAINING))
def test_where_the_state_is_the_user_folds_are_of_rows(
    folder: Path, tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "RewardConfig", lambda: FIT)
    data, reward = fitted(folder, tmp_path / "person", policy)
    train = data.log.split("train")
    user, facts = train.column("user"), reward.facts
    assert facts["folds_of"] == "rows"
    for number in range(USERS):
        assert len(reward.columns["fold"][user == number].unique()) == facts["folds"]
    found = explained_variance(reward.columns["predicted_reward"], train.quality, user)
    assert facts["explained_variance"] == pytest.approx(found.share.item(), abs=1e-5)
    assert facts["explained_variance_error"] == pytest.approx(found.error.item(), rel=1e-3)
    assert 0.4 < facts["explained_variance"] < 0.75  # of .09, with .04 of noise: .69


def test_by_users_nobody_would_know_what_a_new_person_likes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        embedding, "fold_groups", lambda data: data.log.split("train").column("user")
    )
    monkeypatch.setattr(LogReward, "check", lambda *_: None)
    facts = fitted(folder, tmp_path, "embedding")[1].facts
    assert facts["folds_of"] == "users"
    assert facts["explained_variance"] < 0.1


def test_other_contexts_leave_the_folds_to_the_users(folder: Path, tmp_path: Path) -> None:
    settings = config(folder, tmp_path, "catalogue", "tab")
    data = SplitLog.open(settings, tmp_path / "log")
    assert torch.equal(folding.fold_groups(data), data.log.split("train").column("user"))


@pytest.mark.parametrize(
    ("user", "column", "named"),
    [
        ([3, 3, 8, 8, 1], [0, 0, 2, 2, 1], True),
        ([3, 3, 8, 8, 1], [0, 0, 2, 2, 2], False),  # two users of one value
        ([3, 3, 8, 8, 1], [0, 1, 2, 2, 0], False),  # a user of two values
        ([3, 3, 8, 8, 1], [0, 1, 1, 0, 2], False),  # as many values as users all the same
        ([4, 4], [7, 7], True),
    ],
)
def test_a_column_names_the_user_where_they_go_one_to_one(
    user: list[int], column: list[int], named: bool
) -> None:
    context = torch.tensor([[0] * len(user), column]).T
    if len(set(user)) == 1:  # a constant names the only user
        assert names_user(torch.tensor(user), context)
    else:
        assert names_user(torch.tensor(user), context) is named


def test_what_is_doubtful_is_said() -> None:
    facts = {"explained_variance": 0.004, "explained_variance_error": 0.003, "rows": 3_000}
    facts |= {"explained_variance_of_state": 0.001, "folds": 5, "folds_of": "users"}
    (said,) = reward_warnings(facts)
    assert "explains 0.40% " in said
    assert "standard error of 0.30%: less than twice" in said
    reward = LogReward(None, None, None, facts, "")
    assert reward.warnings == (said,)
    assert "explains 0.4% (standard error 0.3%) of the variance" in reward.describe()
    reward.check(["uphill"])  # a doubt is no refusal
    assert reward_warnings(facts | {"explained_variance": 0.0061}) == ()


def test_the_command_says_it_at_the_terminal_and_in_the_table(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = embedding.explained_variance

    def little(predicted: torch.Tensor, *others: torch.Tensor):
        return plain(predicted, *others)._replace(share=torch.tensor(0.01, dtype=torch.double))

    monkeypatch.setattr(embedding, "explained_variance", little)
    command(config(folder, tmp_path, "embedding", "person"))
    said = "The reward model explains 1.00% of the variance of rewards that it had not seen, with a"
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in (tmp_path / "table.md").read_text()


def test_too_few_users_are_counted_and_what_to_do_is_something_that_can_be_done() -> None:
    """``drpo train`` has no option for the folds of a catalogue's model."""
    user = torch.tensor([3, 8, 3, 3])
    with pytest.raises(ValueError, match=r"3 folds need as many users, .* have 2; ask for obj"):
        log_folds(4, user, 3)
    with pytest.raises(ValueError, match=r"5 folds need as many rows, .* have 4; ask for fewer"):
        log_folds(4, None, 5, remedy="fewer folds, or for ")
    fold = log_folds(4, user, 2)
    assert len({*fold[user == 3].tolist()}) == 1
