"""Options from a file: the same as on the command line, below what is given there."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.topic_log import SCHEMA, make_log
from torchrl_drpo.cli.commands import COMMANDS
from torchrl_drpo.cli.config_file import with_file
from torchrl_drpo.cli.main import main
from torchrl_drpo.cli.options import OptionError, parse
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.log import ConvertConfig
from torchrl_drpo.pipeline.config.serve import RecommendConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.objectives.assignments import assigned, spelled

LOG = ("--logs", "log.parquet", "--preset", "kuairand")
YAML = """
logs: log.parquet
preset: kuairand
objectives: [bc, drpo]
set: ["drpo.kappa=0.2"]
learning-rate: 1e-3
test_start: 2022-05-06
ks: [5, 10]
max_grad_norm: null
model:
  dim: 32
  hidden: []
  history-feedback: true
kinds:
  catalogue: {bias: false}
json: true
"""


#: A list of lists of twice the list before, 2^60 texts in all.
BOMB = ", ".join(["&a0 [x, x]", *(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))])


def read(path: Path, *options: str, config: type = TrainConfig) -> Any:
    return parse(config, ["--config", str(path), *options], prog="drpo")


def written(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_a_file_says_what_options_would(tmp_path: Path) -> None:
    path = written(tmp_path / "run.yaml", YAML)
    words = (
        *(*LOG, "--objectives", "bc", "drpo", "--set", "drpo.kappa=0.2"),
        *("--learning-rate", "0.001", "--test-start", "2022-05-06", "--ks", "5", "10"),
        *("--dim", "32", "--hidden", "--history-feedback", "--no-bias", "--json"),
    )
    same = parse(TrainConfig, words, prog="drpo")
    assert read(path) == same
    as_json = json.dumps(yaml.safe_load(YAML), default=str)
    assert read(written(tmp_path / "run.json", as_json)) == same
    flat = {**yaml.safe_load(as_json), "dim": 32, "hidden": [], "history_feedback": True}
    flat = {**flat, "bias": False}
    del flat["model"], flat["kinds"]
    assert read(written(tmp_path / "flat.json", flat)) == same


def test_the_command_line_wins(tmp_path: Path) -> None:
    path = written(tmp_path / "run.yaml", YAML)
    found = read(path, "--dim=8", "--ks", "7", "--no-json", "--bias", "--learning_rate", "0.5")
    expected = replace(
        read(path), ks=(7,), json=False, learning_rate=0.5, model=ModelConfig(8, (), "recency"),
        kinds=type(found.kinds)(),
    )  # fmt: skip
    expected = replace(expected, model=replace(expected.model, history_feedback=True))
    assert found == expected


def test_other_commands_read_files_too(tmp_path: Path) -> None:
    path = written(tmp_path / "convert.yaml", "logs: log.csv\nschema: s.json\nworkers: 2\n")
    assert read(path, config=ConvertConfig) == ConvertConfig(
        "log.csv", None, Path("s.json"), workers=2
    )
    path = written(
        tmp_path / "list.yaml", "checkpoint: runs/drpo\nuser: 'None'\nfeatures: [1, -2]\n"
    )
    wanted = RecommendConfig(Path("runs/drpo"), user="None", features=(1.0, -2.0))
    assert read(path, config=RecommendConfig) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", r"run\.yaml: no option 'stepz' \(did you mean 'steps'\?\); there are "),
        ("model: {dimm: 3}", r"no option 'dimm' of model \(did you mean 'dim'\?\)"),
        ("dimm: 3", r"no option 'dimm' \(did you mean 'dim'\?\)"),
        ("steps: many", 'run.yaml: steps: expected a whole number, got "many"'),
        ("steps: 1.5", "steps: expected a whole number, got 1.5"),
        ("steps: true", "steps: expected a whole number, got true"),
        ("json: 1", "json: expected true or false, got 1"),
        ("ks: 10", "ks: expected a list, each entry a whole number, got 10"),
        ("ks: [a]", "ks: expected a list, each entry a whole number"),
        ("model: 3", "model: expected options by their names, got 3"),
        ("model: {encoder: 3}", "model.encoder: expected pooling or gru or transformer or a text"),
        ("model: {pooling: max}", "model.pooling: expected mean or recency or attention"),
        ("test_start: 20220506", "test_start: expected a text or null, got 20220506; write it in"),
        ("steps: 1\nsteps: 2", "steps is set twice"),
        # YAML 1.1 reads these as 8, 90, 31 and 83.5.
        ("seeds: 010", 'seeds: expected a whole number, got "010"'),
        ("batch_size: 1:30", 'batch_size: expected a whole number, got "1:30"'),
        ("dim: 0x1f", 'dim: expected a whole number, got "0x1f"'),
        ("learning_rate: 1:23.5", 'learning_rate: expected a number, got "1:23.5"'),
        ("? [steps]\n: 3", r"no option \"\['steps'\]\""),
        (f"steps: {'1' * 5000}", "run.yaml: Exceeds the limit"),
        ("test_start: 2022-02-31", "run.yaml: day is out of range for month"),
        ("objectives: [bc, --steps=9]", "objectives: '--steps=9' would be read as an option"),
        (f"steps: [{BOMB}]", r"steps: expected a whole number, got \[\["),
        ("dim: 3\nmodel: {dim: 4}", "model.dim is set twice"),
        ("options: {}", "no option 'options'"),
        ("- steps", "expected options by their names, found list"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is not YAML: could not determine a constructor"),
        ("config: other.yaml", "no option 'config'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read(written(tmp_path / "run.yaml", text), *LOG)


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, said in {
        "run.toml": "expected a file named .yaml, .yml or .json",
        "none.json": "cannot read",
    }.items():
        assert main(["train", "--config", str(tmp_path / name)]) == 2
        told = capsys.readouterr().err
        assert said in told
        assert told.count("\n") == 1
    with pytest.raises(OptionError, match="is set twice"):
        read(written(tmp_path / "a.json", '{"steps": 1, "steps": 2}'), *LOG)
    with pytest.raises(OptionError, match="takes a file"):
        parse(TrainConfig, [*LOG, "--config"], prog="drpo")
    with pytest.raises(OptionError, match="given 2 times"):
        parse(TrainConfig, [*LOG, "--config", "a.json", "--config=b.json"], prog="drpo")
    path = written(tmp_path / "paper.json", {"targets": ["table1"]})
    with pytest.raises(OptionError, match="targets: is given on the command line"):
        parse(_config("reproduce"), ["--config", str(path)], prog="drpo")


def _config(command: str) -> type:
    module, name = COMMANDS[command].config.split(":")
    return getattr(__import__(module, fromlist=[name]), name)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_names_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(_config(command), ["--help"], prog=f"drpo {command}")
    assert "--config" in capsys.readouterr().out


def test_yaml_is_imported_where_a_file_is_read_alone() -> None:
    code = "import sys, torchrl_drpo.cli.options; print('yaml' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_without_a_file_options_are_as_they_were_given() -> None:
    assert with_file(TrainConfig, ["--no-json", "--dim", "3"]) == ["--no-json", "--dim", "3"]


@settings(deadline=None, max_examples=50)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "kappa": st.none() | st.floats(0.01, 1),
            "kappa_bounds": st.tuples(st.floats(0.01, 0.4), st.floats(0.5, 1)),
            "weighting": st.sampled_from(["linear", "kl"]),
            "normalize": st.booleans(),
        },
    ),
    st.none() | st.floats(0.01, 10),
)
def test_spelled_options_are_read_back(drpo: dict[str, Any], tau: float | None) -> None:
    options = {"drpo": drpo, "bc-tilt": {"tau": tau}}
    found = assigned(spelled(options), list(options))
    assert {"drpo": {}, **found} == options


def test_results_of_a_run_are_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    make_log().to_parquet(tmp_path / "data" / "log.parquet")
    (tmp_path / "data" / "topics.json").write_text(SCHEMA.to_json())
    logs = ("--logs", str(tmp_path / "data" / "log.parquet"))
    words = (
        *(*logs, "--schema", str(tmp_path / "data" / "topics.json"), "--output", "first"),
        *("--objectives", "drpo", "bc", "--set", "drpo.kappa=0.5", "drpo.kappa_bounds=0.1,0.9"),
        *("--steps", "20", "--batch-size", "128", "--dim", "8", "--ks", "5", "--encoder", "gru"),
        *("--no-bias", "--test-days", "2", "--labels", "liked", "--first-seed", "3"),
    )
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 0
    first = json.loads(Path("first/results.json").read_text())
    assert str(tmp_path) not in json.dumps(first["config"])
    again = ("--config", "first/results.json", *logs, "--output", "second")
    config = parse(TrainConfig, again, prog="drpo")
    expected = parse(TrainConfig, words, prog="drpo")
    assert config.settings() == expected.settings()
    assert main(["train", *again]) == 0
    second = json.loads(Path("second/results.json").read_text())
    assert second == first
    for name in ("drpo-3", "bc-3"):
        runs = [
            json.loads(Path(f"{run}/runs/{name}.json").read_text()) for run in ("first", "second")
        ]
        assert runs[0]["fingerprint"] == runs[1]["fingerprint"]
    capsys.readouterr()
