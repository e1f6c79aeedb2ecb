"""``drpo evaluate --ope``: estimates for a trained policy, against what the simulator knows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.click_log import ITEMS, LIKES, SCHEMA, make_log, settings
from torchrl_drpo import cli
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.off_policy import MODELLED, WEIGHTED
from torchrl_drpo.pipeline.train import run_train

pytestmark = pytest.mark.usefixtures("one_thread", "quick_reward_fit")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("ope")
    config = settings(folder, make_log(), objectives=("positive-only",), steps=150)
    run_train(config)
    return config


def test_the_estimate_holds_the_policy_s_true_value(trained: TrainConfig, tmp_path: Path) -> None:
    value = run_evaluate(
        EvaluateConfig(trained.output / "positive-only", trained.logs, ks=(3,), ope=True)
    ).value
    assert value is not None
    assert not value.fitted
    # Truth by another log, of the policy's own making: its mean click chance at these states.
    truth = true_value(trained)
    assert truth > 0.55  # the log earns .43
    for name, each in value.estimates.items():
        if name == "DM":
            assert abs(each.value - truth) < 0.04
            assert name not in value.differences
            continue
        assert each.low - 0.02 < truth < each.high + 0.02, name
        assert each.verdict == "usable"
        assert value.differences[name].p_value < 1e-6
    assert value.logging.value == pytest.approx(0.45, abs=0.05)


def true_value(settings: TrainConfig) -> float:
    import torch

    from torchrl_drpo.data import RecReplayBuffer
    from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint

    checkpoint = PolicyCheckpoint.load(settings.output / "positive-only")
    rows = torch.cat(
        list(RecReplayBuffer.open(settings.output / "log", history=2).split("test").batches(4096))
    )
    likes = torch.tensor(LIKES)[:, torch.tensor(checkpoint.items.decode(range(ITEMS)))]
    tabs = torch.tensor(checkpoint.contexts[0].decode(range(2)))
    chance = likes[tabs[rows["observation", "context"][:, 0]]]
    with torch.no_grad():
        return (checkpoint.actor.get_dist(rows).probs.double() * chance).sum(-1).mean().item()


def test_without_propensities_they_are_fitted_and_it_is_said(
    trained: TrainConfig, tmp_path: Path
) -> None:
    log = make_log().drop(columns="propensity")
    log.to_parquet(tmp_path / "log.parquet", index=False)
    schema = SCHEMA.replace(propensity=None)
    (tmp_path / "schema.json").write_text(schema.to_json())
    other = replace(
        trained,
        logs=str(tmp_path / "log.parquet"),
        schema=tmp_path / "schema.json",
        output=tmp_path / "run",
    )
    run_train(other)
    config = EvaluateConfig(other.output / "positive-only", other.logs, ks=(3,), ope=True)
    value = run_evaluate(config).value
    assert value is not None
    assert value.fitted
    truth = true_value(other)
    snips = value.estimates["SNIPS"]
    assert snips.low - 0.03 < truth < snips.high + 0.03
    said = " ".join(value.notes())
    assert "Propensities are fitted, the log has none" in said
    assert all(
        each.low < value.estimates[each.estimator].value < each.high for each in value.bounds
    )
    assert [each.factor for each in value.bounds] == [1.5, 2.0]
    assert value.to_json()["behavior"]["factor_to_logged"] is None
    table = value.calibration_table()
    assert table is not None
    assert len(table.rows) == len(value.behavior.calibration.predicted)
    with pytest.raises(ValueError, match="the log has no propensities"):
        run_evaluate(replace(config, behavior="logged"))


def test_fitted_propensities_come_near_the_logged_ones_and_so_does_the_estimate(
    trained: TrainConfig,
) -> None:
    config = EvaluateConfig(
        trained.output / "positive-only", trained.logs, ks=(3,), ope=True, reward_model="none"
    )
    logged, fitted = (
        run_evaluate(replace(config, behavior=which)).value for which in ("logged", "fitted")
    )
    assert logged is not None
    assert fitted is not None
    assert logged.calibration_table() is None
    assert fitted.gap < 1.15
    assert "though the log has its own" in " ".join(fitted.notes())
    true, model = logged.estimates["SNIPS"], fitted.estimates["SNIPS"]
    assert true.low < model.value < true.high
    assert model.verdict == "weak"  # never usable: nobody knows how good the model is
    for bound in fitted.bounds:  # IPS within the factor of the logged propensities holds the truth
        assert bound.low < true.value < bound.high


def test_fitted_weights_read_no_propensity_and_hold_the_truth(
    trained: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = EvaluateConfig(
        trained.output / "positive-only", trained.logs, ks=(3,), ope=True, behavior="weights"
    )
    value = run_evaluate(config).value
    assert value is not None
    truth = true_value(trained)
    for name in ("IPS", "SNIPS", "DR", "SNDR"):
        found = value.estimates[name]
        assert found.low - 0.02 < truth < found.high + 0.02, name
    assert value.fitted
    assert value.to_json()["propensities"] == "weights"
    assert value.calibration_table() is None
    said = " ".join(value.notes())
    assert "No propensities are read: fitted weights" in said
    assert "wrong by a factor of up to 1.5" in said


def test_the_command_prints_it_and_says_by_its_code_what_it_is_worth(
    trained: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", "--checkpoint", str(trained.output / "positive-only"), "--logs"]
    assert cli.main([*asked, trained.logs, "--ks", "3", "--ope", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["off_policy"]
    assert found["propensities"] == "logged"
    assert list(found["estimates"]) == [*WEIGHTED, *MODELLED]
    assert "difference" not in found["estimates"]["DM"]
    assert found["reward_model"]["source"] == "log"
    assert found["estimates"]["SNIPS"]["verdict"] == "usable"
    assert cli.main([*asked, trained.logs, "--ks", "3", "--ope"]) == 0
    shown = capsys.readouterr().out
    assert "the log itself" in shown
    assert "usable" in shown
    assert "- The reward model of the log's earlier days explains" in shown


def test_rows_of_items_that_the_policy_does_not_know_count_as_never_shown(
    trained: TrainConfig, tmp_path: Path
) -> None:
    log = make_log(seed=1)
    log.loc[log["item"] == 0, "item"] = 77  # a quarter of the rows
    log.to_parquet(tmp_path / "log.parquet", index=False)
    config = EvaluateConfig(
        trained.output / "positive-only", str(tmp_path / "log.parquet"), ks=(3,), ope=True
    )
    found = run_evaluate(config)
    assert found.unknown_rows > 0
    assert found.value is not None
    assert found.value.logging.diagnostics.rows == found.rows + found.unknown_rows
    assert found.value.estimates["IPS"].diagnostics.mean_weight < 0.97
    # The states of these rows count for the model's value, and their rewards for no correction.
    rows = found.value.rows
    never = rows.log_target == -np.inf
    assert int(never.sum()) == found.unknown_rows
    assert rows.residual()[never].abs().max() == 0
    dr = (rows.value + (rows.log_target - rows.log_behavior).exp() * rows.residual()).mean()
    assert found.value.estimates["DR"].value == pytest.approx(dr.item(), rel=1e-12)
