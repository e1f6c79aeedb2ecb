"""The reward model behind ``drpo evaluate --ope``: the right one, summed over all items, unseen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from tests.pipeline.click_log import ITEMS, make_log, settings
from torchrl_drpo import cli
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.evaluate import Evaluation, run_evaluate
from torchrl_drpo.pipeline.reward_model.held_out import fit_reward, read_reward
from torchrl_drpo.pipeline.reward_model.make import RewardConfig, RewardShape
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train

pytestmark = pytest.mark.usefixtures("one_thread", "quick_reward_fit")

SHAPE = RewardShape(num_items=ITEMS, history=2, context_sizes=(2,))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, quick_reward_fit: None) -> TrainConfig:
    folder = tmp_path_factory.mktemp("ope-q")
    config = settings(folder, make_log(), objectives=("positive-only-q", "bc"), steps=100)
    run_train(config)
    return config


def evaluated(config: TrainConfig, **options: object) -> Evaluation:
    return run_evaluate(
        EvaluateConfig(config.output / "bc", config.logs, ks=(3,), ope=True, **options)
    )


def test_the_run_s_own_model_is_taken_and_its_sum_over_items_is_exact(
    trained: TrainConfig,
) -> None:
    value = evaluated(trained).value
    assert value is not None
    assert value.reward_model is not None
    assert value.reward_model.source == "run"
    assert value.reward_model.explained_variance > 0.1
    checkpoint = PolicyCheckpoint.load(trained.output / "bc")
    fingerprint = checkpoint.facts["reward_fingerprint"]
    model = read_reward(trained.output / "reward", fingerprint, SHAPE)
    assert model is not None
    data = SplitLog.open(trained, trained.output / "log")
    rows = torch.cat(list(data.test_batches(4096)))
    with torch.no_grad():
        chance = checkpoint.actor.get_dist(rows).probs.double()
        every = [
            member.mean
            + member.std
            * member.network.module.every(
                rows["observation", "history"], rows["observation", "context"]
            )
            for member in model.members
        ]
    predicted = torch.stack(every).double().mean(0)
    of_policy = (chance * predicted).sum(-1)
    torch.testing.assert_close(value.rows.value, of_policy, rtol=1e-5, atol=1e-6)
    logged = rows["action"].unsqueeze(-1)
    weight = chance.gather(1, logged) / rows["propensity"].double().unsqueeze(-1)
    left = rows["next", "reward"].double() - predicted.gather(1, logged)
    dr = (of_policy + (weight * left)[:, 0]).mean().item()
    assert value.estimates["DR"].value == pytest.approx(dr, rel=1e-5)
    assert value.estimates["DM"].value == pytest.approx(of_policy.mean().item(), rel=1e-5)


def test_a_model_that_may_have_seen_the_rows_is_not_taken_and_the_user_is_told(
    trained: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", "--checkpoint", str(trained.output / "bc"), "--logs", trained.logs]
    asked += ["--ks", "3", "--ope", "--test-days", "5", "--json"]
    assert cli.main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["off_policy"]["reward_model"]["source"] == "log"
    assert "all numbers flatter it" in found["warnings"][0]


def test_another_run_s_model_in_the_folder_is_not_taken(
    trained: TrainConfig, tmp_path: Path
) -> None:
    assert read_reward(trained.output / "reward", "another", SHAPE) is None
    assert read_reward(trained.output / "reward", None, SHAPE) is None
    assert read_reward(tmp_path, "another", SHAPE) is None
    checkpoint = PolicyCheckpoint.load(trained.output / "bc")
    fingerprint = checkpoint.facts["reward_fingerprint"]
    other = replace(SHAPE, num_items=ITEMS + 1)
    assert read_reward(trained.output / "reward", fingerprint, other) is None


def test_draws_of_the_policy_come_near_the_sum(trained: TrainConfig) -> None:
    exact, drawn = evaluated(trained).value, evaluated(trained, draws=16).value
    assert exact is not None
    assert drawn is not None
    assert not torch.equal(exact.rows.value, drawn.rows.value)
    noise = (drawn.rows.value - exact.rows.value).std().item() / len(exact.rows) ** 0.5
    apart = drawn.estimates["DM"].value - exact.estimates["DM"].value
    assert 0 < abs(apart) < 4 * noise


def test_a_sample_of_the_rows_is_scored_and_said(trained: TrainConfig) -> None:
    value = evaluated(trained, ope_rows=400, reward_model="none").value
    assert value is not None
    assert list(value.estimates) == ["IPS", "clipped IPS", "SNIPS"]
    assert len(value.rows) == 400
    assert value.to_json()["log_rows"] == 1_800
    assert "Made of 400 of 1,800 rows" in " ".join(value.notes())
    whole = evaluated(trained, reward_model="none").value
    assert whole is not None
    few, all_rows = value.estimates["SNIPS"], whole.estimates["SNIPS"]
    assert abs(few.value - all_rows.value) < 4 * few.standard_error


def test_the_figure_is_written(trained: TrainConfig, tmp_path: Path) -> None:
    asked = ["evaluate", "--checkpoint", str(trained.output / "bc"), "--logs", trained.logs]
    plot = tmp_path / "ope.png"
    assert cli.main([*asked, "--ks", "3", "--ope", "--plot", str(plot)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert cli.main([*asked, "--plot", str(plot)]) == 2


def test_tiles_are_the_predictions_of_all_items_for_rows_of_any_fold() -> None:
    torch.manual_seed(0)
    rows = TensorDict(
        {
            "action": torch.randint(ITEMS, (300,)),
            "observation": {
                "history": torch.randint(-1, ITEMS, (300, 2)),
                "context": torch.randint(2, (300, 1)),
            },
            "next": {"reward": torch.rand(300, 1)},
        },
        [300],
    )
    model = fit_reward(rows, SHAPE, settings=RewardConfig(folds=3, steps=20))
    rows["fold"][:100] = -1
    tiles = model.tiles(rows)
    dense = model.predict_all(rows)
    found = torch.cat(
        [
            torch.cat([tiles(mine)(items) for items in (slice(0, 5), slice(5, ITEMS))], 1)
            for mine in (slice(0, 130), slice(130, 300))
        ]
    )
    torch.testing.assert_close(found, dense)
