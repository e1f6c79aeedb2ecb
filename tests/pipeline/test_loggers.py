"""Curves that go to Weights & Biases and MLflow: the wiring always, the packages where they are."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torchrl.record.loggers import mlflow as torchrl_mlflow
from torchrl.record.loggers import wandb as torchrl_wandb

from tests.pipeline.topic_log import config
from torchrl_drpo import cli
from torchrl_drpo.pipeline.loggers import loggers
from torchrl_drpo.pipeline.train import run_train

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
