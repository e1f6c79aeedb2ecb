"""A small log of clicks whose logging policy and whose truth are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from torchrl_drpo.data import LogSchema
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.train import TrainConfig

ITEMS, USERS, DAYS = 8, 200, 10
SCHEMA = LogSchema(
    user="user",
    item="item",
    time="time",
    quality="click",
    context=("tab",),
    propensity="propensity",
    duplicates="keep",
)
#: Chance of a click, by tab and item: what is good in one tab is poor in the other.
LIKES = np.stack([np.linspace(0.1, 0.9, ITEMS), np.linspace(0.9, 0.1, ITEMS)])


def make_log(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = USERS * DAYS * 3
    tab = rng.integers(0, 2, rows)
    shown = np.array([4, 3, 2, 2, 1, 1, 1, 2]) / 16
    item = rng.choice(ITEMS, rows, p=shown)
    return pd.DataFrame(
        {
            "user": np.repeat(np.arange(USERS), DAYS * 3),
            "item": item,
            "time": np.tile(np.repeat(np.arange(DAYS) * 86_400, 3) + np.arange(DAYS * 3), USERS),
            "tab": tab,
            "click": (rng.random(rows) < LIKES[tab, item]).astype(int),
            "propensity": shown[item],
        }
    )


def settings(
    folder: Path, log: pd.DataFrame, schema: LogSchema = SCHEMA, **changes: Any
) -> TrainConfig:
    """Of a short training on a log that is written into the folder with its schema."""
    log.to_parquet(folder / "log.parquet", index=False)
    (folder / "schema.json").write_text(schema.to_json())
    usual = {"objectives": ("bc",), "history": 2, "steps": 40, "batch_size": 256}
    usual |= {"learning_rate": 1e-2, "ks": (3,), "model": ModelConfig(dim=8, hidden=(16,))}
    return TrainConfig(
        logs=str(folder / "log.parquet"),
        schema=folder / "schema.json",
        output=folder / "run",
        **usual | changes,
    )
