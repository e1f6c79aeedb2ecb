"""``drpo tune`` on a log whose truth is known: inner rows alone, resumed, and a file for train."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest

from tests.pipeline.topic_log import DAYS, config
from torchrl_drpo import cli
from torchrl_drpo.pipeline.config.stopping import StoppingConfig
from torchrl_drpo.pipeline.config.tune import TuneConfig
from torchrl_drpo.pipeline.objectives.own import own_options
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.pipeline.tune.command import run_tune

pytestmark = pytest.mark.usefixtures("one_thread")
SPACE = ("drpo.kappa=0.05..1", "learning_rate=1e-4..1e-1:log")


def settings(log: Path, output: Path, **changes) -> TuneConfig:
    stopping = StoppingConfig(validation_days=2, evaluate_every=15, patience=2)
    base = config(
        log, output, objectives=("drpo",), steps=30, stopping=replace(stopping, early_stopping=True)
    )
    plain = {each.name: getattr(base, each.name) for each in fields(base)}
    return TuneConfig(**{**plain, "trials": 4, "space": SPACE, "test_days": 3, **changes})


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text())


def test_the_choice_is_of_the_training_period_and_trains(log: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    plan = settings(log, tmp_path / "tune")
    found = run_tune(plan)
    assert [trial.number for trial in found.trials] == [0, 1, 2, 3]
    assert found.trials[0].values["learning_rate"] == plan.learning_rate
    assert found.choice.metrics[0] == max(trial.metrics[0] for trial in found.trials)

    # A trial is worth what a plain run of its steps is worth, on a log without the test days.
    frame = pd.read_parquet(log / "log.parquet")
    (tmp_path / "shorter").mkdir()
    frame[frame.time < (DAYS - 3) * 86_400].to_parquet(tmp_path / "shorter" / "log.parquet")
    (tmp_path / "shorter" / "schema.json").write_text((log / "schema.json").read_text())
    trial = found.choice
    alone = config(
        *(tmp_path / "shorter", tmp_path / "alone"),
        objectives=("drpo",), steps=trial.steps, test_days=2,
        learning_rate=trial.values["learning_rate"],
        set=(f"drpo.kappa={trial.values['drpo.kappa']}",),
    )  # fmt: skip
    worth = run_train(alone).runs["drpo"][0]["ndcg@5_best"]
    assert worth == pytest.approx(trial.metrics[0], rel=1e-12)

    # Other rewards on the test days choose the same.
    test = frame.time >= (DAYS - 3) * 86_400
    frame.loc[test, "play"] = frame.duration - frame.play
    (tmp_path / "other").mkdir()
    frame.to_parquet(tmp_path / "other" / "log.parquet")
    (tmp_path / "other" / "schema.json").write_text((log / "schema.json").read_text())
    other = run_tune(settings(tmp_path / "other", tmp_path / "again"))
    assert other.trials == found.trials

    train = ["train", "--config", str(tmp_path / "tune" / "choice.json")]
    assert cli.main([*train, "--output", str(tmp_path / "chosen")]) == 0
    chosen = read(tmp_path / "chosen", "results.json")["config"]
    assert chosen["steps"] == trial.steps
    assert chosen["set"] == [f"drpo.kappa={trial.values['drpo.kappa']}"]
    assert chosen["learning_rate"] == trial.values["learning_rate"]


def test_a_killed_search_goes_on_within_its_trial(log: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    plan = settings(log, tmp_path / "killed", trials=3, metrics=("hr@5_best", "lift@5"), seeds=2)

    def killer(name: str, step: int, steps: int) -> None:
        if name == "trials" and step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tune(plan, killer)
    resumed = run_tune(plan)
    whole = run_tune(replace(plan, output=tmp_path / "whole"))
    assert resumed.trials == whole.trials
    data = read(tmp_path / "whole", "tune.json")
    assert data["metrics"] == ["hr@5_best", "lift@5"]
    assert data["choice"] in data["frontier"]
    assert "| trial | drpo.kappa | learning_rate | steps |" in (
        (tmp_path / "whole" / "table.md").read_text()
    )


def test_an_infinite_lift_is_no_choice(log: Path, tmp_path: Path) -> None:
    """On few validation rows a list of one may hit no poor row: that says nothing of the trial."""
    pytest.importorskip("optuna")
    metrics = ("hr@1_best", "lift@1")
    plan = settings(log, tmp_path / "tune", ks=(1,), metrics=metrics, keep=0.1, seeds=2)
    plan = replace(plan, stopping=replace(plan.stopping, validation_rows=60))
    found = run_tune(plan)
    values = [value for trial in found.trials for value in trial.metrics]
    assert values
    assert all(map(math.isfinite, values))
    assert found.choice.few is not None
    hits, rows = found.choice.few
    assert hits < 1 <= rows
    assert max(values) <= rows  # as if all best rows were hit, and one of the worst
    data = read(plan.output, "tune.json")
    chosen = data["trials"][data["choice"]]
    assert (chosen["worst_hits"], chosen["worst_rows"]) == (hits, rows)
    assert data["warning"] == found.warning
    said = f"Trial {data['choice']}: It hit {hits:.2g} of the {rows:,} worst validation rows"
    assert said in found.warning
    assert said in (plan.output / "table.md").read_text()
    assert "inf" not in found.table().to_markdown()
    assert run_tune(plan).trials == found.trials  # read from the journal


def test_another_objective_and_other_code_are_other_searches(
    log: Path, tmp_path: Path, monkeypatch
) -> None:
    """In one folder, where all but the objective's name is the same."""
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    code = "import torchrl_drpo\n\ndef mine(actor):\n    return torchrl_drpo.{}(actor)\n"
    name = f"own_{tmp_path.name}"
    rate = {"space": ("learning_rate=1e-3..1e-1:log",), "trials": 1, "steps": 15}

    def tuned(objective: str, folder: str) -> list[tuple[float, ...]]:
        own_options.cache_clear()
        sys.modules.pop(name, None)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        plan = settings(log, tmp_path / folder, objectives=(objective,), **rate)
        return [trial.metrics for trial in run_tune(plan).trials]

    found = {each: tuned(each, "same") for each in ("bc", "drpo")}
    for each, loss in {"bc": "BehaviorCloningLoss", "drpo": "DRPOLoss"}.items():
        (tmp_path / f"{name}.py").write_text(code.format(loss))
        assert tuned(f"{name}:mine", "same") == found[each]
    assert found["bc"] != found["drpo"]
    sys.modules.pop(name, None)


def test_a_trial_that_diverges_ends_no_search(log: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = ("learning_rate=1e-2,1e30",)
    plan = settings(log, tmp_path / "tune", space=space, trials=6)
    found = run_tune(plan)
    by_rate = {trial.values["learning_rate"]: trial.metrics for trial in found.trials}
    assert by_rate["1e30"] == ()
    assert by_rate["1e-2"] == found.choice.metrics
    assert run_tune(replace(plan, trials=7)).trials[:6] == found.trials


def test_without_the_extra_it_says_which(log: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    words = ("--logs", str(log / "log.parquet"), "--schema", str(log / "schema.json"))
    more = ("--objectives", "bc", "--ks", "5", "--output", str(tmp_path), "--batch-size", "128")
    assert cli.main(["tune", *words, *more]) == 2
    assert "pip install 'torchrl-drpo[tune]'" in capsys.readouterr().err
