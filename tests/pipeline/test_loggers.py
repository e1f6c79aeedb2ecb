"""Curves that go to Weights & Biases and MLflow: the wiring always, the packages where they are."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from dataclasses import fields, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing import event_accumulator
from torchrl.record.loggers import mlflow as torchrl_mlflow
from torchrl.record.loggers import wandb as torchrl_wandb

from tests.pipeline.topic_log import config
from torchrl_drpo import cli
from torchrl_drpo.pipeline.config.stopping import StoppingConfig
from torchrl_drpo.pipeline.config.tune import TuneConfig
from torchrl_drpo.pipeline.loggers import loggers
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.pipeline.tune.command import run_tune

pytestmark = pytest.mark.usefixtures("one_thread")


def fake(name: str, monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)
    for where in (torchrl_wandb, torchrl_mlflow):
        monkeypatch.setattr(where, f"_has_{name}", True, raising=False)


def test_wandb_has_a_run_for_each_of_ours(log: Path, tmp_path: Path, monkeypatch) -> None:
    runs: list[dict[str, Any]] = []

    def init(**given: Any) -> Any:
        runs.append({"given": given, "logged": [], "ended": None})
        mine = runs[-1]
        return SimpleNamespace(
            log=lambda data, **more: mine["logged"].append({**data, **more}),
            finish=lambda exit_code: mine.update(ended=exit_code),
            define_metric=lambda *_, **__: None,
            id=given["id"],
        )

    fake("wandb", monkeypatch, init=init)
    plan = config(log, tmp_path, objectives=("bc", "drpo"), steps=40, logger="wandb")
    run_train(plan)
    assert [run["given"]["name"] for run in runs] == ["bc-0", "drpo-0"]
    assert len({run["given"]["id"] for run in runs}) == 2
    assert [run["ended"] for run in runs] == [0, 0]
    assert any("train/kappa" in data for data in runs[1]["logged"])
    state = tmp_path / "bc-0-1.state"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), loggers(plan, "bc-0", state):
            raise KeyboardInterrupt
    assert runs[-1]["ended"] == 1
    assert runs[-1]["given"]["id"] == runs[-2]["given"]["id"]  # it goes on


def test_mlflow_has_them_too_by_names_that_it_takes(tmp_path: Path, log, monkeypatch) -> None:
    told: list[Any] = []
    fake(
        "mlflow",
        monkeypatch,
        set_tracking_uri=lambda uri: told.append(("uri", uri)),
        get_experiment_by_name=lambda name: SimpleNamespace(experiment_id="7"),
        start_run=lambda experiment_id: SimpleNamespace(),
        set_experiment=lambda experiment_id: None,
        set_tag=lambda key, value: told.append((key, value)),
        log_metric=lambda key, value, step: told.append((key, step)),
        end_run=lambda status: told.append(("end", status)),
    )
    monkeypatch.setattr(torchrl_mlflow, "mlflow", sys.modules["mlflow"], raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with loggers(config(log, tmp_path, logger="mlflow"), "bc-0", tmp_path / "s") as (logger,):
        logger.log_scalar("evaluation/hr@5", 0.5, step=20)
    where = f"sqlite:///{tmp_path / 'curves' / 'mlflow.db'}"
    assert told[0] == ("uri", where)
    assert told[-3:] == [
        ("mlflow.runName", "bc-0"), ("evaluation/hr_at_5", 20), ("end", "FINISHED"),
    ]  # fmt: skip


def curves(folder: Path) -> dict[str, list[Any]]:
    """What lies there by run and quantity, of CSV files or of TensorBoard's."""
    found: dict[str, list[Any]] = {
        str(path.relative_to(folder)): path.read_text().splitlines()
        for path in folder.rglob("*.csv")
    }
    for run in {path.parent for path in folder.rglob("events*")}:
        events = event_accumulator.EventAccumulator(str(run))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found[f"{run.name}/{tag}"] = [(e.step, str(e.value)) for e in events.Scalars(tag)]
    return found


@pytest.mark.parametrize("name", ["csv", "tensorboard"])
def test_files_of_a_killed_run_are_those_of_one_that_was_not(log, tmp_path, name: str) -> None:
    early = StoppingConfig(early_stopping=True, validation_days=2, evaluate_every=40, patience=9)
    plan = config(
        log, tmp_path / "killed", objectives=("drpo",), steps=260, logger=name, stopping=early
    )
    kills = [("drpo, seed 0, looked at", 240), ("drpo, seed 0", 20)]

    def killer(run: str, step: int, steps: int) -> None:
        if kills and (run, step) == kills[0]:
            kills.pop(0)
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_train(plan, killer)
    run_train(plan, killer)
    whole = replace(plan, output=tmp_path / "whole")
    run_train(whole)
    found, expected = ({str(f): curves(f) for f in (o / "curves", o / "validation" / "curves")}
                       for o in (plan.output, whole.output))  # fmt: skip
    assert [*found.values()] == [*expected.values()]
    assert all(found.values())

    # Nor do those of a run with other settings, which takes its place, hold the older one's steps.
    run_train(replace(whole, steps=60, stopping=StoppingConfig()))
    (loss,) = (v for k, v in curves(whole.output / "curves").items() if "train/loss_actor" in k)
    assert len(loss) == 3


def test_each_trial_of_a_search_has_its_own_files(log: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    base = config(log, tmp_path, objectives=("bc",), steps=40, logger="csv")
    plain = {each.name: getattr(base, each.name) for each in fields(base)}
    run_tune(TuneConfig(**plain | {"trials": 2, "space": ("learning_rate=1e-3,1e-2",)}))
    found = curves(tmp_path / "validation" / "curves")
    losses = [lines for name, lines in found.items() if name.endswith("loss_actor.csv")]
    assert [[line.split(",")[0] for line in lines] for lines in losses] == [["20", "40"]] * 2
    assert {name.split("/")[0] for name in found} == {"trial-0-0", "trial-1-0"}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_missed_before_anything_is_trained(
    log: Path, tmp_path: Path, name: str, monkeypatch, capsys
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda each, *_: None if each == name else found(each)
    )
    words = ("--logs", str(log / "log.parquet"), "--schema", str(log / "schema.json"))
    assert cli.main(["train", *words, "--logger", name, "--output", str(tmp_path / "run")]) == 2
    assert f"pip install 'torchrl-drpo[{name}]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore")
def test_wandb_itself_offline(log: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_train(config(log, tmp_path, objectives=("drpo",), steps=40, logger="wandb"))
    (run,) = (tmp_path / "curves" / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))


@pytest.mark.filterwarnings("ignore")
def test_mlflow_itself_in_a_local_store(log: Path, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_train(config(log, tmp_path, objectives=("bc", "drpo"), steps=40, logger="mlflow"))
    with sqlite3.connect(tmp_path / "curves" / "mlflow.db") as store:
        runs = store.execute("select name, status from runs order by name").fetchall()
        steps = store.execute("select step from metrics where key = 'train/kappa'").fetchall()
    assert runs == [("bc-0", "FINISHED"), ("drpo-0", "FINISHED")]
    assert sorted(steps) == [(20,), (40,)]
