"""A small log whose truth is known: bait that nobody watches, and one topic a user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from torchrl_drpo.data import LogSchema, Percentile
from torchrl_drpo.pipeline.config.kinds import ModelConfig
from torchrl_drpo.pipeline.config.train import TrainConfig

ITEMS, BAIT, TOPICS, USERS, DAYS = 44, 8, 4, 120, 14
SCHEMA = LogSchema(
    user="user",
    item="video",
    time="time",
    quality=Percentile("play", by=("duration_bucket",), duration="duration"),
    context=("tab",),
    labels=("liked", "play"),
)


def topic(item: int) -> int:
    return item % TOPICS


def make_log(seed: int = 0) -> pd.DataFrame:
    """Seven rows in ten show bait that nobody watches; the others suit the user's one topic."""
    rng = np.random.default_rng(seed)
    rows = USERS * DAYS * 3
    user = np.repeat(np.arange(USERS), DAYS * 3)
    bait = rng.random(rows) < 0.7
    own = BAIT + TOPICS * rng.integers(0, (ITEMS - BAIT) // TOPICS, rows) + user % TOPICS
    item = np.where(bait, rng.integers(0, BAIT, rows), own)
    duration = rng.uniform(8, 60, rows)
    share = np.where(bait, rng.uniform(0, 0.3, rows), rng.uniform(0.6, 1.0, rows))
    return pd.DataFrame(
        {
            "user": 1000 + user,
            "video": [f"v{i}" for i in item],
            "time": np.tile(np.repeat(np.arange(DAYS) * 86_400, 3), USERS)
            + rng.integers(0, 8e4, rows),
            "tab": rng.integers(0, 3, rows),
            "duration": duration,
            "play": share * duration,
            "liked": ((share > 0.8) & (rng.random(rows) < 0.5)).astype(np.int8),
        }
    )


def config(log: Path, output: Path, **changes) -> TrainConfig:
    base = TrainConfig(
        logs=str(log / "log.parquet"),
        schema=log / "schema.json",
        output=output,
        history=6,
        objectives=("bc", "drpo", "positive-only"),
        steps=150,
        batch_size=128,
        learning_rate=1e-2,
        ks=(5,),
        model=ModelConfig(dim=16, hidden=(32,)),
    )
    return replace(base, **changes)
