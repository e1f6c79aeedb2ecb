"""Cells on a small log: which days train, which judge, and what is repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from torchrl_drpo.reproduction.kuairand.runs import ends, open_split, train

TEST_DAYS = {20220507, 20220508, 20220509}


def _write_log(path: Path, shift: int = 0) -> Path:
    """Ten days of a small log; ``shift`` changes what happens on the last three."""
    rng = np.random.default_rng(4)
    rows = 900
    day = rng.integers(0, 10, rows)
    start = pd.Timestamp("2022-04-30", tz="Asia/Shanghai")
    time = start + pd.to_timedelta(day, "D") + pd.to_timedelta(rng.integers(0, 86_400, rows), "s")
    late = day >= 7
    frame = pd.DataFrame(
        {
            "user_id": rng.integers(0, 40, rows),
            "video_id": (rng.integers(0, 60, rows) + shift * late) % 60,
            "date": [int(t.strftime("%Y%m%d")) for t in time],
            "time_ms": [t.value // 10**6 for t in time],
            "play_time_ms": rng.integers(0, 60_000, rows) + 1_000 * shift * late,
            "duration_ms": rng.integers(5_000, 60_000, rows),
            "tab": rng.integers(0, 3, rows),
            **{name: rng.integers(0, 2, rows) for name in ("is_click", "long_view", "is_like")},
            "is_hate": (rng.random(rows) < 0.05).astype(int),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path)
    pd.DataFrame({"video_id": range(60)}).to_parquet(path.with_name("video_features.parquet"))
    return path


def _train(log: Path, part: str, **over: Any) -> dict[str, Any]:
    run = {"steps": 5, "batch_size": 64, "learning_rate": 5e-3}
    given = {"name": "taper", "strength": 1.0, "seeds": [0, 1], "run": run}
    return train(str(log), part, **given | {"precision": "bfloat16", "device": "cpu"} | over)


def test_tuning_never_sees_the_test_days(tmp_path: Path) -> None:
    one, other = _write_log(tmp_path / "a" / "log.parquet"), tmp_path / "b" / "log.parquet"
    _write_log(other, shift=7)
    assert _train(one, "tuning") == _train(other, "tuning")
    assert _train(one, "test")["metrics"] != _train(other, "test")["metrics"]


def test_the_parts_are_the_days_that_they_say(tmp_path: Path) -> None:
    log = _write_log(tmp_path / "log.parquet")
    date = pd.read_parquet(log).drop_duplicates()["date"]
    test = open_split(str(log), "test")
    tuning = open_split(str(log), "tuning")
    assert len(test.rows) == date.isin(TEST_DAYS).sum()
    assert len(tuning.rows) == date.isin({20220504, 20220505, 20220506}).sum()
    assert len(tuning.data.train_items()) == (date < 20220504).sum()
    assert test.data.num_items == tuning.data.num_items == 60  # by the item table
    with pytest.raises(ValueError, match="'test' or 'tuning'"):
        open_split(str(log), "train")


def test_runs_are_reproducible_and_seeds_differ(tmp_path: Path) -> None:
    log = _write_log(tmp_path / "log.parquet")
    torch.manual_seed(99)
    first = _train(log, "test")
    torch.manual_seed(1)
    assert _train(log, "test") == first
    assert first["metrics"][0] != first["metrics"][1]
    assert json.loads(json.dumps(first)) == first


def test_ends_are_chance_and_counts(tmp_path: Path) -> None:
    log = _write_log(tmp_path / "log.parquet")
    found = ends(str(log))
    assert found["random"]["hr@10_best"] == pytest.approx(10 / 60)
    frame = pd.read_parquet(log).drop_duplicates()
    assert found["train_rows"] + found["test_rows"] == len(frame)
    assert found["hated_rows"] == frame["is_hate"][~frame["date"].isin(TEST_DAYS)].sum()
