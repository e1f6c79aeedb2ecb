"""``drpo train`` on several ranks: the table of one process, and rank 0 alone speaks and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.gloo import run_ranks
from tests.pipeline.click_log import SCHEMA, make_log
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.crew import Crew, team, torchrun
from torchrl_drpo.pipeline.following import follow
from torchrl_drpo.pipeline.train import run_train

OBJECTIVES = ("bc", "drpo", "positive-only")


def _write(folder: Path) -> None:
    make_log().to_parquet(folder / "log.parquet")
    (folder / "schema.json").write_text(SCHEMA.to_json())


def _config(folder: Path, output: str, steps: int = 30) -> TrainConfig:
    return TrainConfig(
        logs=str(folder / "log.parquet"),
        schema=folder / "schema.json",
        output=folder / output,
        objectives=OBJECTIVES,
        steps=steps,
        batch_size=255,
        ks=(1, 3),
        model=ModelConfig(dim=8, hidden=(16,)),
    )


def _numbers(found: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(found, dict):
        for key, value in found.items():
            yield from _numbers(value, f"{path}/{key}")
    elif isinstance(found, list):
        for place, value in enumerate(found):
            yield from _numbers(value, f"{path}/{place}")
    elif isinstance(found, float):
        yield path, found


def _train(rank: int, size: int, folder: str) -> list[int]:
    config, steps = _config(Path(folder), "ranks"), []
    for _ in range(2):  # the second finds every run finished
        if Crew().leads:
            told = lambda name, step, _: name.startswith("all runs") or steps.append(step)  # noqa: E731
            run_train(config, told, Crew())
        else:
            follow(config, Crew())
    return steps


def test_two_ranks_give_the_table_of_one_process(tmp_path: Path):
    _write(tmp_path)
    alone = run_train(_config(tmp_path, "alone"))
    steps, silent = run_ranks(_train, 2, tmp_path, str(tmp_path))
    assert silent == []
    assert steps[-3:] == [30, 30, 30]
    assert steps.count(20) == 3  # each was trained once
    found = json.loads((tmp_path / "ranks" / "results.json").read_text())
    want = dict(_numbers(json.loads(json.dumps(alone.to_json()))["runs"]))
    got = dict(_numbers(found["runs"]))
    assert want.keys() == got.keys()
    assert got == pytest.approx(want, rel=1e-4, nan_ok=True)
    runs = sorted(p.name for p in (tmp_path / "ranks" / "runs").iterdir())
    assert runs == sorted(f"{name}-0.json" for name in OBJECTIVES)  # no state is left
    for name in OBJECTIVES:
        curves = [
            json.loads((tmp_path / part / "runs" / f"{name}-0.json").read_text())["curve"]
            for part in ("alone", "ranks")
        ]
        assert curves[1]["loss_actor"] == [
            [step, pytest.approx(value, rel=1e-5)] for step, value in curves[0]["loss_actor"]
        ]
        assert curves[1].get("kappa") == curves[0].get("kappa")


def test_one_process_is_its_own_crew():
    with torchrun() as crew:
        assert crew.leads
        assert team() is None
        crew.call(3)


@pytest.mark.slow
def test_torchrun(tmp_path: Path):
    _write(tmp_path)
    config = _config(tmp_path, "ranks")
    options = ["--logs", config.logs, "--schema", str(config.schema), "--output"]
    options += [str(config.output), "--steps", "30", "--batch-size", "255", "--json"]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    done = subprocess.run(
        [*launch, "-m", "--", "torchrl_drpo.cli", "train", *options, "--objectives", *OBJECTIVES],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    printed = json.loads(done.stdout)  # once, by rank 0
    assert set(OBJECTIVES) <= set(printed["runs"])
