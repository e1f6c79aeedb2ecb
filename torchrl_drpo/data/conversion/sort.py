"""One partition of a conversion: in order, freed of duplicates, counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..schema import LogSchema, Percentile
from ..sources import LogError
from .groups import begins, check_slates, group_ids, in_order, tied
from .job import Job
from .journal import Attempt, Note
from .percentiles import FittedPercentile

SORTED_FILE, FIT_FILE = "sorted", "fit-"


@dataclass(frozen=True)
class SortTask:
    """A partition to be sorted.

    Args:
        unit: its name.
        files: where splits left its records, in the log's order.
    """

    unit: str
    files: tuple[str, ...]


def sort_part(job: Job, task: SortTask) -> Note:
    """Leaves a partition's records in order, and tells how much of everything there is.

    Where the quality is a percentile, also the distribution of its training rows.
    """
    records = _read(job, task.files)
    told = {"duplicates": 0}
    if job.schema.by_user:
        before = len(records)
        records = _in_order(job, records)
        told["duplicates"] = before - len(records)
    told["rows"] = len(records)
    told["trajectories"] = int(first_rows(last_rows(records, job.schema, job.per_second)).sum())
    if job.schema.slate:
        ids = group_ids(records, "slate", job.schema)
        check_slates(records, ids, job)
        told["slates"] = int(begins(ids).sum())
        told |= {"first": int(ids[0]), "last": int(ids[-1])} if len(ids) else {}
    if job.schema.history:
        told["history_items"] = int(records["history"].sum(dtype=np.int64))
    if job.schema.history_rows != "all":
        told["history_rows"] = int(records["enters"].sum())
    counts = []
    if job.parts.names:
        counts = np.bincount(job.parts.of(records), minlength=len(job.parts.names)).tolist()
    attempt = Attempt(job.folder, task.unit)
    attempt.append(SORTED_FILE, records)
    if isinstance(job.schema.quality, Percentile):
        train = job.parts.train(records)
        fitted = FittedPercentile(job.schema.quality)
        fitted.max_cells = len(records) + 1  # nothing is rounded here
        fitted.update(percentile_keys(records)[train], records["value"][train])
        keys, cells, low, _, count = fitted.arrays()  # cells of one value: low is high
        for number, array in enumerate((keys, cells, low, count)):
            attempt.append(f"{FIT_FILE}{number}", array)
    return attempt.finish(**told, parts=counts)


def fitted_part(job: Job, note: Note) -> FittedPercentile:
    """The distribution of a sorted partition's training rows."""
    assert isinstance(job.schema.quality, Percentile)
    fitted = FittedPercentile(job.schema.quality)
    width = len(job.schema.quality.shared_by) + 1
    keys, cells, low, count = (
        np.fromfile(job.folder / str(note.named(f"/{FIT_FILE}{number}")), dtype=dtype)
        for number, dtype in enumerate(("i8", "i8", "f8", "i8"))
    )
    fitted.load([keys.reshape(-1, width), cells, low, low, count])
    return fitted


def _read(job: Job, files: tuple[str, ...]) -> np.ndarray:
    """The records of some files, one after another."""
    sizes = [(job.folder / name).stat().st_size // job.dtype.itemsize for name in files]
    records = np.empty(sum(sizes), dtype=job.dtype)
    first = 0
    for name, size in zip(files, sizes, strict=True):
        with (job.folder / name).open("rb") as file:
            found = file.readinto(records[first : first + size].view(np.uint8))
        if found != size * job.dtype.itemsize:
            raise OSError(f"{job.folder / name} was cut while it was read; convert again")
        first += size
    return records


def _in_order(job: Job, records: np.ndarray) -> np.ndarray:
    """By user and time, ties by what they hold; free of exact duplicates."""
    records = in_order(records, job.schema)
    if not job.hashed:
        return records
    repeats = _repeats(records, bool(job.schema.session or job.schema.slate))
    if repeats.any() and job.schema.duplicates == "error":
        row = records[np.flatnonzero(repeats)[0]]
        user = job.catalogues["users"].decode([row["user"]])[0]
        item = job.catalogues["items"].decode([row["item"]])[0]
        raise LogError(
            f"exact duplicate rows, the first: user {user!r}, item {item!r}, time "
            f"{row['time']}; clean the log, or set duplicates='drop' in the schema"
        )
    return records.take(np.flatnonzero(~repeats)) if repeats.any() else records


def last_rows(records: np.ndarray, schema: LogSchema, per_second: int) -> np.ndarray:
    """Where trajectories end: at the user's end, a new session, a gap, a terminal row."""
    last = np.ones(len(records), dtype=bool)
    if not schema.by_user or len(records) == 0:
        return last
    last[:-1] = records["user"][1:] != records["user"][:-1]
    if schema.session:
        last[:-1] |= records["session"][1:] != records["session"][:-1]
    if schema.session_gap is not None:
        last[:-1] |= np.diff(records["time"]) > schema.session_gap * per_second
    if schema.terminal:
        last |= records["terminal"]
    return last


def first_rows(last: np.ndarray) -> np.ndarray:
    """Where trajectories begin, given where they end, bool ``[n]``."""
    return np.append(True, last[:-1])[: len(last)]


def percentile_keys(records: np.ndarray) -> np.ndarray:
    """What groups are shared by, int64 ``[n, keys]``."""
    if "keys" not in (records.dtype.names or ()):
        return np.zeros((len(records), 0), dtype=np.int64)
    return records["keys"].astype(np.int64)


def _repeats(records: np.ndarray, regrouped: bool) -> np.ndarray:
    """True for every row that equals an earlier one of the same user and time.

    Equals stand side by side in order, unless sessions or slates were put together since.
    """
    rows = np.flatnonzero(tied(records["user"], records["time"]))
    out = np.zeros(len(records), dtype=bool)
    if regrouped:
        keys = (records[name][rows] for name in ("hash", "time", "user"))
        rows = rows[np.lexsort(tuple(keys))]
    equal = np.ones(max(len(rows) - 1, 0), dtype=bool)
    for name in ("user", "time", "hash", "item"):
        value = records[name][rows]
        equal &= value[1:] == value[:-1]
    out[rows[1:][equal]] = True
    return out
