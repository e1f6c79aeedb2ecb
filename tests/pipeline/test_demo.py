"""The demo: its numbers against the simulator's own ends, its files, its table."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from torchrl_drpo.cli import main
from torchrl_drpo.pipeline.config.demo import DemoConfig
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.demo.command import DemoResult, demo_table, run_demo
from torchrl_drpo.pipeline.demo.runs import METHODS, Cell, late_window
from torchrl_drpo.pipeline.trainer import History


def small(tmp_path, **changes):
    train = TrainerConfig(steps=60, evaluate_every=20, log_every=20)
    return DemoConfig(output=tmp_path, seeds=2, users=64, log_size=500, train=train, **changes)


@pytest.mark.slow
def test_processes_and_one_process_find_the_same_numbers(tmp_path):
    alone = run_demo(small(tmp_path / "one", workers=1))
    together = run_demo(small(tmp_path / "two", workers=2))
    assert [(c.method, c.seed) for c in together.cells] == [
        (method, seed) for seed in range(2) for method in METHODS
    ]
    for mine, theirs in zip(alone.cells, together.cells, strict=True):
        assert mine.metrics == pytest.approx(theirs.metrics, rel=1e-4)


def test_what_is_written_is_what_was_found(tmp_path):
    lines = []
    config = small(tmp_path, workers=1)
    result = run_demo(config, progress=lambda *line: lines.append(line))
    data = json.loads((tmp_path / "demo.json").read_text())
    assert data["table"]["DRPO"]["retrieved_reward"]["count"] == 2
    assert data["ends"] == result.ends
    assert 0.1 < result.ends["random"][0] < 0.2
    assert 0.4 < result.ends["oracle"][0] < 0.5
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert ("DRPO seed 1", 60, 60) in lines
    assert not list(tmp_path.glob("*.partial"))


def test_the_table_says_how_far_ahead_a_method_is():
    def cell(method, seed, reward):
        return Cell(method, seed, {"retrieved_reward": reward, "raw_reward": reward}, History())

    rewards = {"BC": (0.2, 0.3), "APG": (0.1, 0.2), "DRPO": (0.3, 0.42)}
    cells = [cell(m, seed, r) for m, values in rewards.items() for seed, r in enumerate(values)]
    ends = {"random": [0.15, 0.15], "oracle": [0.44, 0.46]}
    text = demo_table(DemoResult(DemoConfig(seeds=2), cells, ends, 1.0)).to_markdown()
    # Paired: .10 and .12, so .11 with t_1 = 12.706 times .01.
    assert "| **DRPO** | **0.360 ± 0.762** | **0.360 ± 0.762** | **+0.110 ± 0.127** |" in text
    assert "| random policy | 0.150 | 0.150 |" in text
    assert "| oracle | 0.450 | 0.450 |" in text


def test_the_late_window_is_the_last_fifth():
    history = History(evaluation={"x": [(20, 9.0), (80, 9.0), (90, 1.0), (100, 3.0)]})
    assert late_window(history, 100) == {"x": 2.0}
    assert late_window(History(evaluation={"x": [(10, 5.0)]}), 100) == {"x": 5.0}


def test_a_result_that_is_not_a_number_is_null_in_json():
    cells = [Cell(m, 0, {"retrieved_reward": math.nan}, History()) for m in METHODS]
    data = DemoResult(DemoConfig(seeds=1), cells, {}, 1.0).to_json()
    assert data["table"]["BC"]["retrieved_reward"]["mean"] is None
    json.dumps(data, allow_nan=False)


def test_the_command_prints_its_table_and_refuses_nonsense(tmp_path, capsys):
    args = ["demo", "--output", str(tmp_path), "--seeds", "1", "--steps", "20", "--users", "16"]
    assert main([*args, "--log-size", "200", "--workers", "1"]) == 0
    assert "random policy" in capsys.readouterr().out
    assert main([*args, "--log-size", "200", "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["seeds"] == 1
    assert main([*args, "--scenario", "calm"]) == 2
    error = capsys.readouterr().err.strip()
    assert "calm" in error
    assert "\n" not in error
    assert main(["demo", "--step", "3"]) == 2
    said = "unknown --step (did you mean '--steps'?) 3; `drpo demo --help` explains the options"
    assert capsys.readouterr().err == f"drpo: {said}\n"
    assert main(["dmeo"]) == 2
    assert "unknown command 'dmeo'" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "recommend" in capsys.readouterr().out


def test_a_logging_level_that_is_none_is_named(monkeypatch, capsys):
    monkeypatch.setenv("RL_LOGGING_LEVEL", "warning")
    assert main(["report", "nowhere"]) == 2
    said = capsys.readouterr().err
    assert "RL_LOGGING_LEVEL is 'warning', but torchrl knows DEBUG, INFO, WARNING," in said
    monkeypatch.setenv("RL_LOGGING_LEVEL", "")  # set to nothing, it is not set
    assert main(["report", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_one_process_prints_the_table_and_nothing_of_torchrl_s(tmp_path):
    command = [sys.executable, "-c", "from torchrl_drpo.cli import main; raise SystemExit(main())"]
    options = ["demo", "--quick", "--workers", "1", "--output", str(tmp_path)]
    found = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert "oracle" in found.stdout
    assert "INFO" not in found.stdout + found.stderr
