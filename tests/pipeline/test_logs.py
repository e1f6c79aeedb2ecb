"""``drpo simulate``, ``validate`` and ``convert``, as a user calls them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor as _Pool
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from torchrl_drpo import LogSchema, RecReplayBuffer, RecSimEnv
from torchrl_drpo.cli import main
from torchrl_drpo.data import convert_log, validate_log
from torchrl_drpo.data.conversion import executors
from torchrl_drpo.data.sources import LogError


@pytest.fixture
def simulated(tmp_path, capsys):
    path = tmp_path / "logs" / "recsim.parquet"
    assert main(["simulate", "--rows", "800", "--output", str(path)]) == 0
    capsys.readouterr()
    return path


def schema_of(path):
    return str(path.with_suffix(".schema.json"))


def test_a_simulated_log_validates_converts_and_opens(simulated, tmp_path, capsys):
    options = ["--logs", str(simulated), "--schema", schema_of(simulated), "--test-days", "2"]
    assert main(["validate", *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["rows"]) == (True, 800)
    root = tmp_path / "converted"
    assert main(["convert", *options, "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == {"train": 640, "test": 160}
    rows = RecReplayBuffer.open(root)[:]
    table = pq.read_table(simulated)
    assert sorted(rows["propensity"].tolist()) == pytest.approx(
        sorted(table["propensity"].to_pylist()), rel=1e-6
    )
    assert min(table["propensity"].to_pylist()) > 0
    assert max(table["propensity"].to_pylist()) <= 1


def test_workers_are_as_many_as_was_said(simulated, tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(
        executors, "ProcessPoolExecutor", lambda n, **_: asked.append(n) or _Pool(2)
    )
    options = ["--logs", str(simulated), "--schema", schema_of(simulated)]
    for root, workers in (("one", "1"), ("three", "3")):
        root = tmp_path / root
        assert main(["convert", *options, "--root", str(root), "--workers", workers]) == 0
    assert asked == [3]
    one, three = (RecReplayBuffer.open(tmp_path / root, verify=True) for root in ("one", "three"))
    assert (one[:] == three[:]).all()
    capsys.readouterr()
    assert main(["convert", *options, "--workers", "0"]) == 2
    assert "workers must be 1 or more, got 0" in capsys.readouterr().err


def test_a_faulty_log_is_reported_with_counts_and_refused(tmp_path, capsys):
    path = tmp_path / "log.parquet"
    clicks = [1.0, None, 0.0, float("nan")]
    columns = {"u": [1, 1, 2, 2], "i": [5, 6, 5, 7], "t": [1, 2, 3, 4], "click": clicks}
    pq.write_table(pa.table(columns), path)
    schema = tmp_path / "schema.json"
    schema.write_text(LogSchema(user="u", item="i", time="t", quality="click").to_json())
    options = ["--logs", str(path), "--schema", str(schema)]
    assert main(["validate", *options]) == 1
    assert "reward is not finite in click: 2" in capsys.readouterr().out
    assert main(["convert", *options, "--root", str(tmp_path / "c")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("drpo: ")
    assert "row 1" in error


@pytest.mark.parametrize("pattern", ["", "*.parquet"])
def test_a_folder_s_item_table_is_not_read_as_a_log(pattern, simulated, tmp_path):
    folder = simulated.parent
    beside = {path.name for path in folder.iterdir() if path.suffix == ".parquet"}
    assert beside == {simulated.name, simulated.with_suffix(".items.parquet").name}
    schema = LogSchema.from_json(Path(schema_of(simulated)).read_text())
    report = convert_log(folder / pattern, tmp_path / "store", schema)
    assert report.rows == 800
    assert validate_log(str(folder / pattern), schema).ok
    with pytest.raises(LogError, match="has no column"):  # it was named, so it is the log
        convert_log(simulated.with_suffix(".items.parquet"), tmp_path / "other", schema)


def test_bad_options_are_one_line(simulated, tmp_path, capsys):
    for options, message in (
        (["--logs", "absent.parquet", "--preset", "kuairand"], "no log file matches"),
        (["--logs", str(simulated), "--preset", "kuairand"], "has no column 'user_id'"),
        (["--logs", str(simulated), "--preset", "netflix"], "netflix"),
        (
            ["--logs", str(simulated), "--schema", str(tmp_path / "x.json")],
            "cannot read the schema",
        ),
    ):
        assert main(["convert", *options, "--root", str(tmp_path / "c")]) == 2
        error = capsys.readouterr().err.strip()
        assert message in error.splitlines()[-1]


def test_a_simulated_log_brings_states_and_item_vectors(simulated, tmp_path):
    """What the simulator drew is what a policy reads, by number and bit by bit."""
    env = RecSimEnv("table", seed=0)
    drawn = env.simulate_log(800, "extreme", seed=1, propensity=False)
    folder = simulated.parent.rename(tmp_path / "moved")  # the schema's paths are relative
    schema = LogSchema.from_json((folder / "recsim.schema.json").read_text())
    log = RecReplayBuffer.from_parquet(
        folder / "recsim.parquet", schema, root=tmp_path / "c", test_days=3
    )
    assert schema.features == tuple(f"state_{j}" for j in range(10))
    assert log.num_items == len(env.items)  # those that were never shown too
    assert torch.equal(log.column(("observation", "features")), drawn["observation"])
    numbers = torch.tensor(log.items.decode(range(log.num_items)))
    assert torch.equal(log.item_embeddings, env.items[numbers])
    assert torch.equal(numbers, torch.arange(len(env.items)))  # so a policy's actions are the env's
    assert torch.equal(log.column("action"), drawn["item"].flatten())
    assert log.split("train")[:5]["observation", "features"].shape == (5, 10)
    assert (log.report.unknown_items, log.report.rows) == (0, 800)


def test_the_simulator_s_item_table_is_a_plain_parquet_file(simulated):
    names = {path.name for path in simulated.parent.iterdir()}  # and no half-written file
    assert names == {"recsim.parquet", "recsim.items.parquet", "recsim.schema.json"}
    table = pq.read_table(simulated.with_suffix(".items.parquet"))
    assert table.schema.field("item").type == pa.int64()
    assert table.schema.field("vector").type == pa.list_(pa.float32())
    vectors = RecSimEnv("table", seed=0).items
    assert table["item"].to_pylist() == list(range(len(vectors)))
    assert torch.equal(torch.tensor(table["vector"].to_pylist()), vectors)


def test_a_converted_log_is_verified_to_the_last_byte(tmp_path: Path, capsys) -> None:
    log = tmp_path / "log.parquet"
    assert main(["simulate", "--output", str(log), "--rows", "300"]) == 0
    schema = ["--schema", str(tmp_path / "log.schema.json")]
    root = tmp_path / "converted"
    assert main(["convert", "--logs", str(log), *schema, "--root", str(root)]) == 0
    capsys.readouterr()
    assert main(["validate", "--store", str(root)]) == 0
    assert "every byte is what was written" in capsys.readouterr().out
    file = max(root.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 2] ^= 1
    file.write_bytes(bytes(changed))
    assert main(["validate", "--store", str(root), "--json"]) == 1
    assert file.name in capsys.readouterr().out
    assert main(["validate", "--logs", str(log), *schema, "--store", str(root)]) == 2
    assert main(["validate"]) == 2
    assert "or a converted one (--store FOLDER), and not both" in capsys.readouterr().err
