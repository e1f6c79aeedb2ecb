"""``drpo train --policy embedding``: from a log of item numbers to the recipe beyond DRPO."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensordict import TensorDict

from tests.pipeline.exporting.runtimes import FORMATS, check_lists
from tests.pipeline.topic_log import (
    BAIT,
    ITEMS,
    SCHEMA,
    TOPICS,
    config,
    make_log,
    topic,
)
from torchrl_drpo import cli
from torchrl_drpo.data import ItemTable
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.kinds import EmbeddingOptions, KindOptions
from torchrl_drpo.pipeline.config.serve import EvaluateConfig, ExportConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.export import command as export
from torchrl_drpo.pipeline.exporting import load_exported
from torchrl_drpo.pipeline.kinds.embedding import EmbeddingTraining
from torchrl_drpo.pipeline.kinds.item_vectors import item_vectors
from torchrl_drpo.pipeline.kinds.served import turned
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.reward_model import embedding as embedding_reward
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.policies.retrieval import retrieval_policy
from torchrl_drpo.rewards import uphill_log

pytestmark = pytest.mark.usefixtures("one_thread")


def options(**numbers) -> KindOptions:
    return KindOptions(embedding=EmbeddingOptions(**numbers))


def settings_for(log: Path, output: Path, **changes) -> TrainConfig:
    changes = {"objectives": ("bc", "uphill"), "steps": 200} | changes
    return config(log, output, policy="embedding", learning_rate=3e-3, **changes)


@pytest.fixture(scope="module")
def trained(log: Path, tmp_path_factory: pytest.TempPathFactory):
    objectives = ("bc", "bc-tilt", "positive-only", "drpo-q", "uphill", "uphill-tapered")
    settings = settings_for(log, tmp_path_factory.mktemp("run"), objectives=objectives)
    ran: list[str] = []
    learn = EmbeddingTraining._learn
    with pytest.MonkeyPatch.context() as patch:
        counted = lambda self, name, *rest: ran.append(name) or learn(self, name, *rest)  # noqa: E731
        patch.setattr(EmbeddingTraining, "_learn", counted)
        results = run_train(settings)
    assert ran == [name for name in objectives if name != "bc-tilt"]  # it serves what bc learned
    return settings, results


def test_the_recipe_serves_what_people_watch(trained) -> None:
    _, results = trained
    metric = {name: runs[0] for name, runs in results.runs.items()}
    # Five of the nine items of a user's topic are the most that can be hit.
    assert metric["uphill"]["hr@5_best"] > 0.45
    assert metric["uphill"]["hr@5_best"] > metric["bc"]["hr@5_best"] + 0.2
    assert metric["uphill"]["hr@5_worst"] < 0.02 < 0.2 < metric["bc"]["hr@5_worst"]
    for objective in ("positive-only", "drpo-q", "uphill-tapered"):
        assert metric[objective]["gauc_quality"] > 0.7 > 0.6 > metric["bc"]["gauc_quality"]
    assert results.reward_model["explained_variance"] > 0.4
    assert results.data["item_vectors"] == "training rows"
    assert results.data["items_without_vector"] == 0


def test_it_is_uphill_log_and_positive_only(trained, log: Path) -> None:
    """The rows that the command learns from are those of the documented function."""
    settings, _ = trained
    data = SplitLog.open(settings, settings.output / "log")
    training = EmbeddingTraining(data, settings, lambda *_: None)
    buffer = training.rows("uphill", 0)
    index = torch.arange(len(buffer))
    ours = buffer[index]
    raw = data.log.split("train")[:]
    policy = training.template
    flat = TensorDict(
        {
            "observation": policy.states(*(raw["observation", k] for k in ("history", "context"))),
            "action": policy.action_vectors(raw["action"]),
            "user": raw["user"],
            "next": {"reward": raw["next", "reward"]},
        },
        [len(raw)],
    )
    expected = uphill_log(flat, group_key="user")
    torch.testing.assert_close(ours["action"], expected["action"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours["logged_action"], expected["logged_action"])
    torch.testing.assert_close(ours["predicted_reward"], expected["predicted_reward"])
    assert torch.equal(ours["fold"].long(), expected["fold"])
    assert torch.equal(ours["item"], raw["action"])
    assert (ours["action"] - ours["logged_action"]).norm(dim=-1).mean() > 0.1


def test_a_finished_command_given_again_trains_and_fits_nothing(trained, monkeypatch) -> None:
    settings, results = trained

    def never(*_: object, **__: object) -> None:
        raise AssertionError("again")

    monkeypatch.setattr(EmbeddingTraining, "train", never)
    monkeypatch.setattr(embedding_reward, "cross_fit_bilinear", never)
    assert run_train(settings).runs == results.runs
    with pytest.raises(AssertionError, match="again"):
        run_train(replace(settings, kinds=options(uphill_step=0.1)))  # trains again
    with pytest.raises(AssertionError, match="again"):
        run_train(replace(settings, kinds=options(folds=3)))  # fits again


def test_a_killed_run_ends_as_if_it_had_not_been(log: Path, tmp_path: Path) -> None:
    settings = settings_for(log, tmp_path / "killed", objectives=("uphill",), steps=240)

    def killer(name: str, step: int, steps: int) -> None:
        if step == 220:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_train(settings, killer)
    steps = []
    resumed = run_train(settings, lambda name, step, total: steps.append((name, step)))
    assert [step for name, step in steps if name == "uphill, seed 0"] == [220, 240]
    whole = run_train(replace(settings, output=tmp_path / "whole"))
    assert resumed.runs == whole.runs


def test_the_checkpoint_evaluates_and_recommends_as_the_run_did(trained, log: Path) -> None:
    settings, results = trained
    found = run_evaluate(
        EvaluateConfig(settings.output / "uphill", str(log / "log.parquet"), ks=(5,))
    )
    assert found.metrics["uphill"] == pytest.approx(results.runs["uphill"][0], nan_ok=True)
    checkpoint = PolicyCheckpoint.load(settings.output / "uphill")
    assert checkpoint.policy == "embedding"
    right = 0
    for user in range(40):
        places = recommend(checkpoint, 1000 + user, k=5, exclude_seen=False)
        right += sum(topic(int(p.item[1:])) == user % TOPICS for p in places)
    assert right / 200 > 0.8
    policy, index = retrieval_policy(checkpoint.actor), checkpoint.index()
    hidden = torch.nn.functional.normalize(torch.randn(7, 16), dim=-1)
    scores, items = index.top_k(hidden, 3)
    cosine = (hidden @ policy.items.T).topk(3)
    assert torch.equal(items, cosine.indices)
    torch.testing.assert_close(scores * policy.temperature, cosine.values)


def test_tilt_moves_the_mean_that_serves_as_far_as_is_asked(
    trained, log: Path, tmp_path: Path
) -> None:
    settings, results = trained
    folder, logs = settings.output / "bc-tilt", str(log / "log.parquet")
    lift = {name: results.runs[name][0]["lift@5"] for name in ("bc", "bc-tilt")}
    assert lift["bc-tilt"] > lift["bc"] + 0.3
    evaluated = run_evaluate(EvaluateConfig(folder, logs, ks=(5,))).metrics["bc-tilt"]
    assert evaluated == pytest.approx(results.runs["bc-tilt"][0], nan_ok=True)
    still = run_evaluate(EvaluateConfig(folder, logs, ks=(5,), uphill_step=0.0))
    assert still.metrics["bc-tilt"] == pytest.approx(results.runs["bc"][0], nan_ok=True)
    with pytest.raises(ValueError, match="--uphill-step is of policies over item vectors"):
        run_evaluate(EvaluateConfig(settings.output / "bc", logs, ks=(5,), uphill_step=0.1))
    with pytest.raises(ValueError, match="--tau is of tilted policies over items or their codes"):
        run_evaluate(EvaluateConfig(folder, logs, ks=(5,), tau=0.1))
    export(ExportConfig(folder, tmp_path / "graph", k=3, uphill_step=0.2, formats=FORMATS))
    graph = load_exported(tmp_path / "graph")
    checkpoint = turned(PolicyCheckpoint.load(folder), uphill_step=0.2)
    assert graph.facts["model"]["tilt"]["uphill_step"] == 0.2
    rows = {
        "history": torch.randint(-1, ITEMS, (20, checkpoint.window)),
        "context": torch.randint(0, 3, (20, 1)),
    }
    found = checkpoint.actor.get_dist(TensorDict({"observation": rows}, [20])).topk(3)
    check_lists(tmp_path / "graph", rows, found.indices, found.values)


def test_tilt_has_no_tau_here(log: Path, tmp_path: Path) -> None:
    settings = settings_for(log, tmp_path, objectives=("bc-tilt",), set=("tilt.tau=0.1",))
    with pytest.raises(ValueError, match=r"'bc-tilt' .* has no tau, got 0\.1: .* --uphill-step"):
        run_train(settings)


def test_vectors_of_the_item_table_are_used_and_missing_ones_are_counted(
    log: Path, tmp_path: Path
) -> None:
    """Topics as vectors: the recipe needs no more than these, whatever their length."""
    rng = np.random.default_rng(0)
    corner = np.eye(TOPICS + 1)[[TOPICS if i < BAIT else topic(i) for i in range(ITEMS)]]
    vectors = (corner + 0.2 * rng.normal(size=corner.shape)) * rng.uniform(0.5, 3, (ITEMS, 1))
    table = pd.DataFrame(
        {"video": [f"v{i}" for i in range(ITEMS)], "vector": list(vectors.astype(np.float32))}
    ).drop(index=[3, 20])
    table.to_parquet(tmp_path / "items.parquet")
    make_log().to_parquet(tmp_path / "log.parquet")
    items = ItemTable(path="items.parquet", id="video", embedding="vector")
    (tmp_path / "schema.json").write_text(SCHEMA.replace(items=items).to_json())
    settings = settings_for(tmp_path, tmp_path / "run", objectives=("uphill",))
    results = run_train(settings)
    assert results.data["item_vectors"] == "item table"
    assert results.data["item_vectors_dim"] == TOPICS + 1  # the table's, not model.dim
    assert results.data["items_without_vector"] == 2
    assert results.runs["uphill"][0]["hr@5_best"] > 0.45
    note = (settings.output / "table.md").read_text()
    assert "from the item table; 2 of 44 items have none" in note
    data = SplitLog.open(settings, settings.output / "log")
    found = item_vectors(data, 16)
    row = int(data.items.encode(["v9"])[0])
    torch.testing.assert_close(found.vectors[row], torch.from_numpy(vectors[9]).float())
    missing = data.items.encode(["v3", "v20"])
    assert found.vectors[torch.as_tensor(missing)].abs().amax(-1).min() > 0


def test_a_sample_of_the_rows_is_enough_and_all_are_judged(log: Path, tmp_path: Path) -> None:
    few = options(max_rows=600, landmarks=16)
    settings = settings_for(log, tmp_path, objectives=("positive-only-q",), kinds=few, steps=20)
    results = run_train(settings)
    assert results.reward_model["rows"] == 600
    assert 0.1 < results.reward_model["explained_variance"] < 0.6
    data = SplitLog.open(settings, settings.output / "log")
    reward = EmbeddingTraining(data, settings, lambda *_: None).reward
    quality = data.log.split("train").quality
    assert reward.columns.shape == quality.shape
    error = (reward.columns["predicted_reward"] - quality).square().mean()
    assert 1 - (error / quality.var(correction=0)).item() == pytest.approx(
        results.reward_model["explained_variance"], abs=1e-4
    )


def test_the_command_line_trains_the_recipe(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs, output = ("--logs", str(log / "log.parquet")), tmp_path / "run"
    train = ["train", *logs, "--schema", str(log / "schema.json"), "--output", str(output)]
    train += ["--policy", "embedding", "--objectives", "uphill", "--uphill-step", "0.2"]
    train += ["--steps", "20", "--batch-size", "128", "--dim", "8", "--ks", "5"]
    assert cli.main(train) == 0
    shown = capsys.readouterr().out
    assert "HR@5 best" in shown
    assert re.search(r"reward model: explains [\d.]+% .*, -?[\d.]+% without the item", shown)
    policy = ("--checkpoint", str(output / "uphill"))
    assert cli.main(["recommend", *policy, "--user", "1003", "--k", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["recommendations"]) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "catalogue"}, "'uphill' moves action vectors.*a policy of kind embedding"),
        ({"objectives": ("guided",)}, "'guided' climbs an expectation over all items"),
    ],
)
def test_settings_are_checked_before_anything_is_written(
    log: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    settings = settings_for(log, tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        replace(settings, **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"uphill_step": -1.0}, "uphill_step must be a finite number of at least 0, got -1.0"),
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"landmarks": 0}, "landmarks must be at least 1, got 0"),
    ],
)
def test_numbers_of_the_reward_model_are_checked(numbers: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmbeddingOptions(**numbers)


def test_a_log_without_users_needs_an_item_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({"item": np.arange(800) % 10, "time": np.arange(800) * 864})
    frame["click"] = (frame["item"] < 3).astype(int)
    frame.to_parquet(tmp_path / "log.parquet")
    schema = SCHEMA.replace(
        user=None, item="item", quality="click", context=(), labels=(), duplicates="keep"
    )
    (tmp_path / "schema.json").write_text(schema.to_json())
    settings = settings_for(tmp_path, tmp_path / "run", objectives=("uphill",))
    with pytest.raises(ValueError, match=r"no item vectors: name the item table"):
        run_train(settings)


def test_a_reward_that_vectors_do_not_explain_is_not_followed(log: Path, tmp_path: Path) -> None:
    frame = make_log()
    frame["play"] = np.random.default_rng(1).uniform(0.0, 1.0, len(frame)) * frame["duration"]
    frame.to_parquet(tmp_path / "log.parquet")
    (tmp_path / "schema.json").write_text(SCHEMA.to_json())
    with pytest.raises(ValueError, match="the reward model explains nothing of this log"):
        run_train(settings_for(tmp_path, tmp_path / "run"))
