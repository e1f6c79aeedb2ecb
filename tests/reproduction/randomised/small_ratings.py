"""A small file of ratings: users like some kinds of items, and mostly rate what they like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

USERS, ITEMS, CHOSEN, SHOWN = 60, 20, 8, 6


def frame(seed: int = 0) -> pd.DataFrame:
    """Ratings of both kinds, in no order; a pair may be in both."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(USERS, 3)) @ rng.normal(size=(3, ITEMS)) + rng.normal(size=ITEMS)
    rating = np.clip(np.round(3 + taste), 1, 5).astype(int)
    parts = []
    for kind, count, pull in (("self_selected", CHOSEN, 1.0), ("random", SHOWN, 0.0)):
        key = pull * taste + rng.gumbel(size=taste.shape)
        item = np.argsort(-key, axis=1)[:, :count]
        user = np.repeat(np.arange(USERS), count)
        parts.append(
            pd.DataFrame(
                {
                    "user": user,
                    "item": item.ravel(),
                    "rating": rating[user, item.ravel()],
                    "exposure": kind,
                }
            )
        )
    return pd.concat(parts).sample(frac=1, random_state=seed, ignore_index=True)


def write(path: Path, rows: pd.DataFrame | None = None) -> Path:
    """Writes them as the ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = frame() if rows is None else rows
    rows.to_csv(path, index=False) if path.suffix == ".csv" else rows.to_parquet(path)
    return path
