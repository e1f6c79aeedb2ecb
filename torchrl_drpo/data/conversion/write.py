"""One sorted partition of a conversion: its columns, offsets and rewards, where they belong."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import EventValues, Percentile, ReturnToGo, RewardFormula
from ..schema.quality import USER
from ..sources import LogError
from .groups import again, begins, group_ids, tied
from .instants import history_ends
from .job import Job
from .journal import Attempt, Note
from .layout import REWARD
from .percentiles import FittedPercentile
from .quality import discounted_returns, midrank
from .sort import first_rows, last_rows, percentile_keys

#: The fitted percentiles, as ``FittedPercentile.arrays`` gives them, one after another.
QUALITY_FILE = "index/quality.npy"
_ARRAYS = 5


@dataclass(frozen=True)
class Before:
    """How much of everything the partitions before one hold.

    Args:
        rows: of the result; so all others.
        trajectories: begun.
        slates: begun.
        last_slate: the id of the last row's, None before any.
        history_items: that rows brought along.
        history_rows: that enter later histories.
        parts: rows of each part of the log.
    """

    rows: int = 0
    trajectories: int = 0
    slates: int = 0
    last_slate: int | None = None
    history_items: int = 0
    history_rows: int = 0
    parts: tuple[int, ...] = ()

    def after(self, told: dict[str, Any]) -> Before:
        """The same with one more partition, given what its sorting told."""
        goes_on = self.last_slate is not None and told.get("first") == self.last_slate
        parts = self.parts or (0,) * len(told["parts"])
        return Before(
            self.rows + told["rows"],
            self.trajectories + told["trajectories"],
            self.slates + told.get("slates", 0) - goes_on,
            told.get("last", self.last_slate),
            self.history_items + told.get("history_items", 0),
            self.history_rows + told.get("history_rows", 0),
            tuple(a + b for a, b in zip(parts, told["parts"], strict=True)),
        )


@dataclass(frozen=True)
class WriteTask:
    """A sorted partition to be written.

    Args:
        unit: its name.
        part: its number.
        file: where its records lie.
        before: where it begins.
    """

    unit: str
    part: int
    file: str
    before: Before


def write_part(job: Job, task: WriteTask) -> Note:
    """Writes a partition into the files of the result, and tells what only the report needs."""
    records = np.fromfile(job.folder / task.file, dtype=job.dtype)
    attempt, before, schema = Attempt(job.folder, task.unit), task.before, job.schema

    def index(name: str, first: int, rows: np.ndarray) -> None:
        attempt.place(f"index/{name}.bin", 8 * first, rows.astype(np.int64))

    told = {"sessions_cut": 0, "tied_rows": 0, "cut_histories": 0}
    last = last_rows(records, schema, job.per_second)
    values = {("next", "done"): last, ("next", "terminated"): _ended(job, records, last)}
    if schema.by_user:
        first, end = job.bounds[task.part : task.part + 2].tolist()
        counts = np.bincount(records["user"] - first, minlength=end - first)
        index("user_offsets", first, before.rows + np.cumsum(counts) - counts)
        fresh = first_rows(last)
        starts = np.flatnonzero(fresh)
        number = np.cumsum(fresh) - 1
        values["trajectory_id",] = before.trajectories + number
        values["step",] = np.arange(len(records)) - starts[number]
        index("trajectory_offsets", before.trajectories, before.rows + starts)
        told |= _histories(job, records, before, attempt)
    if schema.session:
        told["sessions_cut"] = len(again(group_ids(records, "session", schema)))
    if schema.slate:
        fresh = begins(group_ids(records, "slate", schema), before.last_slate)
        values["slate",] = before.slates + np.cumsum(fresh) - 1
        index("slate_offsets", before.slates, before.rows + np.flatnonzero(fresh))
    if schema.history:
        ends = before.history_items + np.cumsum(records["history"], dtype=np.int64)
        if before.rows == 0:
            index("initial_offsets", 0, np.zeros(1))
        index("initial_offsets", 1 + before.rows, ends)
    if job.parts.names:
        belongs, taken = job.parts.of(records), before.parts or (0,) * len(job.parts.names)
        for place, start in enumerate(taken):
            index(f"part-{place}", start, before.rows + np.flatnonzero(belongs == place))
    values[REWARD] = _rewards(job, records, last)
    for column in job.columns:
        value = values[column.key] if column.field is None else records[column.field]
        attempt.place(column.file, before.rows * column.width, value.astype(column.dtype))
    return attempt.finish(**told)


def _ended(job: Job, records: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Ends for good: as logged; else a session's end is one, the mere end of a log is not."""
    schema = job.schema
    if schema.terminal:
        return records["terminal"]
    if schema.by_user and not (schema.session or schema.session_gap):
        return np.zeros(len(records), dtype=bool)
    return last


def _histories(job: Job, records: np.ndarray, before: Before, attempt: Attempt) -> dict[str, int]:
    """Where each row's history ends; rows that do not enter histories are not counted."""
    ends = history_ends(records, job.schema, job.per_second)
    told = {
        "tied_rows": int(tied(records["user"], records["time"]).sum()),
        "cut_histories": int((ends < np.arange(len(records))).sum()),
    }
    place = 8 * before.rows
    if job.schema.history_rows == "all":
        attempt.place("index/history_ends.bin", place, (before.rows + ends).astype(np.int64))
        return told
    entered = before.history_rows + np.append(0, np.cumsum(records["enters"], dtype=np.int64))
    attempt.place("index/history_ends.bin", place, entered[ends])
    attempt.place("index/history_before.bin", place, entered[1:])
    items = records["item"][records["enters"]]
    attempt.place("index/history_items.bin", 4 * before.history_rows, items)
    return told


def _rewards(job: Job, records: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The quality of each row, float32 ``[n]``."""
    quality = job.schema.quality
    if isinstance(quality, RewardFormula | EventValues):
        reward = records["value"]
    elif isinstance(quality, ReturnToGo):
        train, ends = job.parts.train(records), last.copy()
        ends[:-1] |= train[:-1] != train[1:]  # a training row's return ends with the period
        reward = discounted_returns(records["value"], ends, quality.gamma)
    else:
        reward = _percentiles(job, records, quality)
    with np.errstate(over="ignore"):
        stored = reward.astype(np.float32)
    bad = ~np.isfinite(stored)
    if bad.any():
        raise LogError(
            f"{int(bad.sum())} rewards do not fit float32, the first is "
            f"{reward[np.flatnonzero(bad)[0]]}; scale the formula down"
        )
    return stored


def _percentiles(job: Job, records: np.ndarray, quality: Percentile) -> np.ndarray:
    keys, value = percentile_keys(records), records["value"]
    finest = None
    if USER in quality.by:
        group = np.unique(np.column_stack([records["user"], keys]), axis=0, return_inverse=True)
        number = group[1].ravel()
        train = job.parts.train(records)
        finest = midrank(number[train], value[train], number, value)
    return _fitted(job.folder, job.run, quality).transform(keys, value, finest)


@lru_cache(maxsize=1)
def _fitted(folder: Path, run: str, quality: Percentile) -> FittedPercentile:
    fitted = FittedPercentile(quality)
    with (folder / QUALITY_FILE).open("rb") as file:
        fitted.load([np.load(file, allow_pickle=False) for _ in range(_ARRAYS)])
    return fitted
