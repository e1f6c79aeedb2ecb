"""A small log whose even items are worth watching."""

from __future__ import annotations

import numpy as np
import pandas as pd

from torchrl_drpo import LogSchema

USERS, ITEMS, DAYS, DAY = 30, 12, 6, 86_400
SCHEMA = LogSchema(
    user="user", item="item", time="time", quality="watched", context=("tab",), duplicates="keep"
)


def make_log(*, noise_only: bool = False) -> pd.DataFrame:
    """Five rows a user and day; the even items are watched to the end, the odd ones are not."""
    rng = np.random.default_rng(0)
    rows = USERS * DAYS * 5
    item = rng.integers(0, ITEMS, rows)
    worth = np.where(noise_only, 0.5, 0.8 - 0.6 * (item % 2))
    return pd.DataFrame(
        {
            "user": np.repeat(np.arange(USERS), DAYS * 5),
            "item": item,
            "time": np.tile(np.repeat(np.arange(DAYS) * DAY, 5), USERS)
            + rng.integers(0, DAY, rows),
            "tab": rng.integers(0, 2, rows),
            "watched": worth + 0.2 * rng.standard_normal(rows),
        }
    )
