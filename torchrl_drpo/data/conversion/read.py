"""The second pass over a log: the rows of a split as records, spread over partitions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..schema.split import Split
from ..sources import LogError, LogSource
from ..sources.splits import InputSplit
from .job import Job, records_file
from .journal import Attempt, Note
from .records import Encoder

#: Where a split leaves the items of histories that rows brought along.
FLAT_FILE = "history.bin"


@dataclass(frozen=True)
class SplitTask:
    """A split to be read.

    Args:
        unit: its name.
        split: where it lies.
        rows: how many rows it has.
        first_row: how many rows of the log stand before it.
        first_batch: how many batches.
    """

    unit: str
    split: InputSplit
    rows: int
    first_row: int
    first_batch: int


def read_split(
    log: LogSource, job: Job, held_out: Split, drop_bad_rows: bool, task: SplitTask
) -> Note:
    """Leaves a split's records in a file a partition, and tells of its faults.

    Args:
        log: the log.
        job: the conversion.
        held_out: says whether rows are drawn.
        drop_bad_rows: as for :class:`~.records.Encoder`.
        task: what to read.

    Raises:
        LogError: on a faulty row, or where the log is not what it was when it was counted.
    """
    encoder = Encoder(job.schema, log, job.catalogues, drop_bad_rows, split=held_out)
    attempt = Attempt(job.folder, task.unit)
    row, number, items = task.first_row, task.first_batch, 0
    for batch in log.batches(None if encoder.hashed else job.schema.columns, task.split):
        records, flat = encoder.encode(batch, row)
        for part, chunk in _by_part(job, records, number):
            attempt.append(records_file(part), chunk)
        if flat is not None and len(flat):
            attempt.append(FLAT_FILE, flat.astype(np.int32))
            items += len(flat)
        row, number = row + batch.table.num_rows, number + 1
    if row != task.first_row + task.rows:
        raise LogError(f"{log.name} changed while it was converted; convert it again")
    return attempt.finish(faults=encoder.faults, items=items)


def _by_part(job: Job, records: np.ndarray, batch: int) -> list[tuple[int, np.ndarray]]:
    """Records by partition, those without any left out."""
    if not job.schema.by_user:
        return [(batch // job.batches_a_part, records)]
    part = np.searchsorted(job.bounds[:-1], records["user"], side="right") - 1
    order = np.argsort(part, kind="stable")
    ends = np.cumsum(np.bincount(part, minlength=len(job.bounds) - 1))
    chunks = enumerate(np.split(records.take(order), ends[:-1]))
    return [(number, chunk) for number, chunk in chunks if len(chunk)]
