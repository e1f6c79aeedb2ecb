"""Where each row's history ends: before its own instant, and before its slate.

Rows of one instant have no order but the file's, and rows of one slate were shown together: what
stands before a row among them is no part of what was known when it was chosen. Where files are
sorted by item, it even gives the next item away.
"""

from __future__ import annotations

import numpy as np

from ..schema import LogSchema
from .groups import begins, group_ids


def history_ends(records: np.ndarray, schema: LogSchema, per_second: int) -> np.ndarray:
    """The first row of its user that each row's history must not show.

    Args:
        records: rows by user and time, whole users.
        schema: ``history_gap`` says what counts as one instant.
        per_second: ticks of the records' times.

    Returns:
        int64 ``[N]``, at most each row's own place. Rows of one slate share that of its first row.
    """
    ends = _first_of_instant(records["user"], records["time"], schema.history_gap * per_second)
    if schema.slate:
        ends = ends[_first_of_run(begins(group_ids(records, "slate", schema)))]
    return ends


def _first_of_run(fresh: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(np.where(fresh, np.arange(len(fresh)), 0))


def _first_of_instant(user: np.ndarray, time: np.ndarray, gap: float) -> np.ndarray:
    """Place of the first row of its user that lies no more than ``gap`` before each row."""
    fresh = np.ones(len(user), dtype=bool)
    fresh[1:] = user[1:] != user[:-1]
    if gap == 0:
        fresh[1:] |= time[1:] != time[:-1]
        return _first_of_run(fresh)
    # Each row asks how many rows stand before (its user, its time - gap); questions come first
    # where they equal a row.
    asked = time - np.int64(np.floor(gap))
    keys = (np.repeat([0, 1], len(user)), np.concatenate([asked, time]), np.tile(user, 2))
    order = np.lexsort(keys)
    before = np.cumsum(order >= len(user))
    ends = np.empty(2 * len(user), dtype=np.int64)
    ends[order] = before
    return ends[: len(user)]
