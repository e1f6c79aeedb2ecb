"""The columns of ``drpo train`` that say what each policy would have earned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.click_log import ITEMS, SCHEMA, make_log, settings
from torchrl_drpo.data import LogSchema
from torchrl_drpo.evaluation.statistics.student import student_t_quantile
from torchrl_drpo.pipeline import finished
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.results import TrainResults
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.run_value import over_seeds
from torchrl_drpo.pipeline.train import run_train

pytestmark = pytest.mark.usefixtures("one_thread", "quick_reward_fit")


def values(folder: Path, schema: LogSchema = SCHEMA, **changes: object) -> TrainConfig:
    """Settings of two seeds on the clicks, without propensities where the schema names none."""
    log = make_log()
    if schema.propensity is None:
        log = log.drop(columns="propensity")
    return settings(folder, log, schema, **{"steps": 60, "seeds": 2} | changes)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return values(tmp_path_factory.mktemp("values"))


@pytest.fixture(scope="module")
def results(config: TrainConfig) -> TrainResults:
    return run_train(config)


def test_the_table_has_a_value_for_each_policy_and_its_verdict(
    results: TrainResults, config: TrainConfig
) -> None:
    table = results.table()
    assert list(table.header)[-2:] == ["value, SNIPS ↑", "verdict on it"]
    verdicts = {row[0]: row[-1] for row in table.rows}
    judged = ("random", "popularity", "bc")  # rankings that count histories have no probabilities
    assert {name for name, verdict in verdicts.items() if verdict} == set(judged)
    assert {verdicts[name] for name in judged} == {"usable"}
    assert "the log itself had 0.4" in table.note
    upright = results.table(upright=True)
    assert upright.rows[-1] == ["verdict on it", *verdicts.values()]
    found = json.loads((config.output / "results.json").read_text())["off_policy"]
    assert len(found["runs"]["bc"]) == 2
    log = SplitLog.open(config, config.output / "log").test.quality
    assert found["logging_policy"]["value"] == pytest.approx(log.double().mean().item())
    bc = found["summary"]["bc"]
    assert bc["low"] < found["logging_policy"]["value"] < bc["high"]  # it clones the logger


def test_a_ranking_s_value_is_that_of_its_formula(
    results: TrainResults, config: TrainConfig
) -> None:
    data = SplitLog.open(config, config.output / "log")
    rows = data.test
    r = rows.quality.double().numpy()
    p = rows.column("propensity").double().numpy()
    count = np.bincount(data.train_items().numpy(), minlength=ITEMS) + 1.0
    for name, policy in (
        ("random", np.full(ITEMS, 1 / ITEMS)),
        ("popularity", count / count.sum()),
    ):
        w = policy[rows.column("action").numpy()] / p
        assert results.values is not None
        found = results.values.runs[name][0]["SNIPS"]
        assert found["value"] == pytest.approx((w @ r) / w.sum(), rel=1e-6)


def test_finished_runs_are_read_and_not_judged_again(
    results: TrainResults, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(finished, "policy_scores", forbidden)
    again = run_train(config)
    assert again.values is not None
    assert results.values is not None
    assert again.values.to_json() == results.values.to_json()
    assert again.runs == results.runs


def test_a_reward_model_of_the_command_makes_it_doubly_robust(
    config: TrainConfig, tmp_path: Path
) -> None:
    own = replace(config, output=tmp_path, objectives=("positive-only-q",), seeds=1)
    found = run_train(own)
    assert found.values is not None
    assert found.values.estimator == "DR"
    assert set(found.values.runs["random"][0]) == {"SNIPS", "DR"}
    assert list(found.table().header)[-2] == "value, DR ↑"


def test_logs_without_propensities_have_no_such_columns(tmp_path: Path) -> None:
    schema = SCHEMA.replace(propensity=None)
    found = run_train(values(tmp_path, schema, seeds=1, steps=2))
    assert found.values is None
    assert "value" not in " ".join(found.table().header)
    assert "off_policy" not in found.to_json()


def test_a_logger_without_chance_loses_no_run(tmp_path: Path) -> None:
    config = values(tmp_path, seeds=1, steps=2)
    make_log().assign(propensity=1.0).to_parquet(config.logs, index=False)
    found = run_train(config)
    assert found.values is not None
    assert found.values.columns()["verdict on it"]["bc"] == "meaningless"
    assert found.values.columns()["value, SNIPS ↑"]["bc"] == "-"
    assert "deterministic" in found.values.runs["bc"][0]["SNIPS"]["reasons"][0]


def test_seeds_add_their_spread_to_the_interval_of_the_rows() -> None:
    seeds = [
        {"SNIPS": {"value": v, "low": v - 0.1, "high": v + 0.3, "verdict": verdict}}
        for v, verdict in ((0.4, "usable"), (0.5, "weak"), (0.6, "usable"))
    ]
    one = over_seeds(seeds[:1], "SNIPS")
    assert (one.value, one.verdict) == (0.4, "usable")
    assert (one.low, one.high) == (pytest.approx(0.3), pytest.approx(0.7))
    three = over_seeds(seeds, "SNIPS")
    spread = student_t_quantile(0.95, 2) * 0.1 / 3**0.5
    assert three.verdict == "weak"
    assert three.low == pytest.approx(0.5 - (0.1**2 + spread**2) ** 0.5)
    assert three.high == pytest.approx(0.5 + (0.3**2 + spread**2) ** 0.5)
