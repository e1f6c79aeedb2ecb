"""A small random log with everything that a log can have, and its brute-force reading."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import torchrl_drpo.data.replay  # noqa: F401 (registers the prefix "rec" before tests import TorchRL's)

DAY = 86_400


def random_log(rows: int = 400, seed: int = 0, users: int = 23, items: int = 40) -> pd.DataFrame:
    """Rows in time order over six days, with ties in time and a few exact duplicates."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "user": rng.integers(100, 100 + users, rows),
            "item": rng.integers(0, items, rows) * 7,
            "time": np.sort(rng.integers(0, 6 * DAY, rows) // 600 * 600),
            "click": rng.integers(0, 2, rows).astype(np.int8),
            "play": rng.exponential(20.0, rows).round(1),
            "duration": rng.choice([5.0, 12.0, 60.0, 300.0], rows),
            "tab": rng.integers(0, 4, rows),
            "propensity": rng.uniform(0.01, 1.0, rows),
        }
    )
    frame["age"] = 18 + frame["user"] % 50
    frame["mood"] = np.sin(np.arange(rows))
    frame["fresh"] = frame["time"] % 1200 == 0
    extra = frame.iloc[rng.integers(0, rows, rows // 20)]
    return pd.concat([frame, extra]).sort_values("time", kind="stable").reset_index(drop=True)


def other_number(rng: random.Random, data: object) -> None:
    """Another number, name or length somewhere in JSON data."""
    places: list[tuple[object, object]] = []

    def walk(node: object) -> None:
        entries = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in entries:
            places.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(data)
    node, key = rng.choice(places)
    value = node[key]
    others = [0, -1, 2**70, 1e300, None, "x", "../x", [], {}, True, [value]]
    if isinstance(value, int):
        others += [value + 1, value - 1, 2 * value, -value] * 3
    if isinstance(value, str):
        others += [value[:-1], value + "x", value.upper()]
    node[key] = rng.choice(others)


@pytest.fixture
def frame() -> pd.DataFrame:
    return random_log()


@pytest.fixture
def parquet(tmp_path: Path, frame: pd.DataFrame) -> Path:
    """The log in three Parquet files of several row groups."""
    folder = tmp_path / "log"
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(frame)), 3)):
        frame.iloc[part].to_parquet(folder / f"part-{number}.parquet", row_group_size=50)
    return folder
