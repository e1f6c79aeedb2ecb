"""``drpo train`` and ``drpo evaluate`` on a log with contexts whose metrics are not all finite."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from torchrl_drpo import cli
from torchrl_drpo.data import LogSchema
from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.objectives.named import NAMES, following_model
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, DAYS, STEPS = 900, 9, 40


def make_log() -> pd.DataFrame:
    """Item "a" is clicked whenever it is shown, which is in six rows of ten; no other ever is."""
    rng = np.random.default_rng(0)
    item = np.where(rng.random(ROWS) < 0.6, "a", rng.choice(list("bcdefgh"), ROWS))
    return pd.DataFrame(
        {
            "item": item,
            "time": np.arange(ROWS) * DAYS * 86_400 // ROWS,
            "tab": rng.choice(["home", "search", "zoo"], ROWS),
            "click": (item == "a").astype(int),
        }
    )


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("log")
    make_log().to_parquet(folder / "log.parquet")
    schema = LogSchema(
        item="item", time="time", quality="click", context=("tab",), duplicates="keep"
    )
    (folder / "schema.json").write_text(schema.to_json())
    return TrainConfig(
        logs=str(folder / "log.parquet"),
        schema=folder / "schema.json",
        output=folder / "run",
        objectives=("bc",),
        steps=STEPS,
        batch_size=128,
        learning_rate=1e-2,
        ks=(1,),
        model=ModelConfig(dim=8, hidden=(8,)),
    )


def test_a_finished_run_reads_back_as_it_was(settings: TrainConfig) -> None:
    steps: list[int] = []
    first = run_train(settings, lambda name, step, total: steps.append(step))
    assert len(steps) > 1
    metrics = first.runs["bc"][0]
    # "a" is first for everyone: every click is hit and nothing else. 180 clicks in three tabs.
    assert metrics["lift@1"] == metrics["lift@1_within"] == math.inf
    assert math.isnan(metrics["hr@1_best_lowest"])
    assert metrics["hr@1_best"] == 1.0
    steps.clear()
    again = run_train(settings, lambda name, step, total: steps.append(step))
    assert steps == [STEPS]  # nothing was trained
    np.testing.assert_equal(again.runs, first.runs)

    written = json.loads((settings.output / "results.json").read_text())
    read = {
        name: [report.metrics_from_json(m) for m in seeds]
        for name, seeds in written["runs"].items()
    }
    np.testing.assert_equal(read, first.runs)
    assert written["summary"]["bc"]["lift@1"]["mean"] == "inf"
    table = (settings.output / "table.md").read_text()
    header, bc = (line for line in table.splitlines() if line.startswith(("| policy", "| bc")))
    cells = dict(zip(header.split(" | "), bc.split(" | "), strict=True))
    assert cells["lift ↑"] == cells["lift within contexts ↑"] == "inf"
    assert report.CONTEXT_NOTE in table


def test_held_out_contexts_are_the_log_s(settings: TrainConfig) -> None:
    data = SplitLog.open(settings, settings.output / "log")
    (tabs,) = data.log.contexts.values()
    frame = make_log()
    last = frame[frame["time"] >= (DAYS - 3) * 86_400]
    assert data.held_out.context.shape == (len(last), 1)
    assert tabs.decode(data.held_out.context[:, 0]) == last["tab"].tolist()


def test_a_log_that_numbers_its_contexts_otherwise_is_evaluated_the_same(
    settings: TrainConfig, tmp_path: Path
) -> None:
    run_train(settings)
    frame = make_log()
    frame.to_parquet(tmp_path / "same.parquet")
    frame["tab"] = frame["tab"].replace("search", "a-new-tab")  # sorts first: all numbers move
    frame.to_parquet(tmp_path / "moved.parquet")
    # Popularity reads no context: what differs would be how the rows are grouped.
    found = [
        run_evaluate(EvaluateConfig(settings.output / "bc", str(tmp_path / name), ks=(1, 3)))
        for name in ("same.parquet", "moved.parquet")
    ]
    for method in ("random", "popularity"):
        np.testing.assert_equal(found[0].metrics[method], found[1].metrics[method])
    assert math.isfinite(found[0].metrics["popularity"]["lift@3_within"])


def test_a_log_without_contexts_is_not_compared_within_them(
    settings: TrainConfig, tmp_path: Path
) -> None:
    schema = LogSchema(item="item", time="time", quality="click", duplicates="keep")
    (tmp_path / "schema.json").write_text(schema.to_json())
    plain = replace(settings, schema=tmp_path / "schema.json", output=tmp_path / "run")
    results = run_train(plain)
    assert not [name for name in results.runs["bc"][0] if "within" in name or "lowest" in name]
    assert SplitLog.open(plain, plain.output / "log").held_out.context is None
    assert "contexts" not in (plain.output / "table.md").read_text()


def test_help_names_every_objective(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "79")
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--help"])
    assert end.value.code == 0
    shown = "".join(c for c in capsys.readouterr().out if not (c.isspace() or c == "│"))
    assert f"byname,of{','.join(NAMES)},orofyourown" in shown
    modelled = ",".join(following_model(NAMES))
    assert f"Ofthese,{modelled}firstfit" in shown
