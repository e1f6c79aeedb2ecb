"""Cells on a small log: which days train, which judge, and what is repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from torchrl_drpo.reproduction.kuairand import reward as critics
from torchrl_drpo.reproduction.kuairand.methods import method
from torchrl_drpo.reproduction.kuairand.reward import fit, open_reward
from torchrl_drpo.reproduction.kuairand.runs import BY_USER, ends, train
from torchrl_drpo.reproduction.kuairand.split import open_split

REWARD = {"steps": 5, "batch_size": 64, "dim": 4}
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
    given = {"name": "taper", "strength": 1.0, "seeds": [0, 1], "run": run, "reward": REWARD}
    return train(str(log), part, **given | {"precision": "bfloat16", "device": "cpu"} | over)


def _of(result: dict[str, Any], path: str = "taper", value: str = "1") -> dict[str, Any]:
    return result["paths"][path][value]


def test_tuning_never_sees_the_test_days(tmp_path: Path) -> None:
    one, other = _write_log(tmp_path / "a" / "log.parquet"), tmp_path / "b" / "log.parquet"
    _write_log(other, shift=7)
    assert _train(one, "tuning") == _train(other, "tuning")
    assert _of(_train(one, "test"))["metrics"] != _of(_train(other, "test"))["metrics"]


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
    assert _of(first)["metrics"][0] != _of(first)["metrics"][1]
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert first["precision"] == "bfloat16"


def test_metrics_without_groups_of_users_are_kept_of_the_test_days(tmp_path: Path) -> None:
    log = _write_log(tmp_path / "log.parquet")
    found, one = _of(_train(log, "test")), _of(_train(log, "test", seeds=[0]))
    other = _of(_train(log, "test", seeds=[1]))
    assert set(found["without"]) == set(BY_USER)
    hits = found["without"]["hr@50_best"]
    assert len(hits) == 30
    each = zip(one["without"]["hr@50_best"], other["without"]["hr@50_best"], strict=True)
    assert hits == pytest.approx([sum(pair) / 2 for pair in each])
    whole = np.mean([seed["hr@50_best"] for seed in found["metrics"]])
    assert np.mean(hits) == pytest.approx(whole, abs=0.02)
    assert _of(_train(log, "tuning"))["without"] == {}


@pytest.fixture
def fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of fits of this test's own."""
    folder = tmp_path / "fits"
    monkeypatch.setattr(critics, "fits_folder", lambda: folder)
    critics._opened.cache_clear()
    yield folder
    critics._opened.cache_clear()


def test_the_critic_is_fitted_once_and_found_by_other_processes(
    tmp_path: Path, fits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = str(_write_log(tmp_path / "log.parquet"))
    first = fit(log, "test", REWARD, "cpu")
    assert {"explained_variance", "explained_variance_of_state"} <= set(first)
    columns = open_reward(log, "test", REWARD, "cpu").columns
    critics._opened.cache_clear()  # as in another process
    open_split.cache_clear()
    monkeypatch.setattr(critics.RewardFit, "_fit", lambda *_: pytest.fail("fitted again"))
    again = open_reward(log, "test", REWARD, "cpu")
    assert again.facts == first
    assert (again.columns == columns).all()
    assert len(list(fits.iterdir())) == 1


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("name", ["BC", "drpo-q", "guided", "conditioned on quality"])
def test_what_follows_the_critic_is_trained_and_served(name: str, tmp_path: Path) -> None:
    log = _write_log(tmp_path / "log.parquet")
    chosen = method(name)
    strength = chosen.values[0]
    found = _train(log, "test", name=name, strength=strength, seeds=[0])
    paths = {path.name: [f"{v:g}" for v in path.values] for path in chosen.served}
    if chosen.plain:
        paths[name] = [f"{strength:g}"]
    assert {path: list(values) for path, values in found["paths"].items()} == paths
    for served in chosen.served:  # every place of the path is another policy
        metrics = [_of(found, served.name, f"{v:g}")["metrics"][0] for v in served.values]
        assert len({json.dumps(each) for each in metrics}) == len(metrics)


def test_a_folder_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(critics.tempfile, "gettempdir", lambda: str(tmp_path))
    own = critics.fits_folder()
    assert own.parent == tmp_path
    assert own.stat().st_mode & 0o077 == 0
    assert critics.fits_folder() == own
    own.rmdir()
    own.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    assert critics.fits_folder() != own


def test_ends_are_chance_and_counts(tmp_path: Path) -> None:
    log = _write_log(tmp_path / "log.parquet")
    found = ends(str(log))
    assert found["random"]["hr@10_best"] == pytest.approx(10 / 60)
    frame = pd.read_parquet(log).drop_duplicates()
    assert found["train_rows"] + found["test_rows"] == len(frame)
    assert found["hated_rows"] == frame["is_hate"][~frame["date"].isin(TEST_DAYS)].sum()
