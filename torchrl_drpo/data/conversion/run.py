"""The stages of a conversion, one after the other, each of units that any worker may do."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..catalogue import Catalogue
from ..schema import LogSchema, Percentile
from ..schema.split import Split
from ..sources import LogError, LogSource
from ..store.report import ConversionReport
from .executors import Map
from .finish import Totals, finish
from .job import Job, catalogue_places, records_file
from .journal import Attempt, Note, Workspace
from .layout import columns_of
from .parts import Parts
from .percentiles import FittedPercentile
from .read import FLAT_FILE, SplitTask, read_split
from .records import Encoder
from .request import Request
from .scan import Outline, scan_log
from .sort import FIT_FILE, SORTED_FILE, SortTask, fitted_part, sort_part
from .write import QUALITY_FILE, Before, WriteTask, write_part

_QUALITY = "quality"


@dataclass
class Conversion:
    """One run of a conversion, the first or one that goes on.

    Args:
        log: the log.
        schema: what its columns mean.
        root: folder of the result.
        request: what was asked for.
        split: what is held out.
        options: as for ``convert_log``.
        known: catalogues whose numbers are kept.
        progress: told how far it is.
        split_rows: rows of a unit that is read.
        do: maps a function over units.
    """

    log: LogSource
    schema: LogSchema
    root: Path
    request: Request
    split: Split
    options: dict[str, Any]
    known: dict[str, Catalogue]
    progress: Callable[[str, int, int], None] | None
    split_rows: int
    do: Map
    work: Workspace = field(init=False)

    def run(self) -> ConversionReport:
        """Converts, and makes the result the current one of its folder."""
        self.work = Workspace((self.root / f"{self.request.name}.partial").absolute())
        # The outline is small and quick to find again, and only its catalogues are kept.
        outline = scan_log(
            self.log, self.schema, self.known, self.split,
            splits=self.log.splits(self.split_rows), do=self._do_with_log,
            progress=partial(self._tell, "scan"),
        )  # fmt: skip
        job = self._job(outline)
        read, ordered = self._read_and_sort(job, outline)
        before = [Before()]
        for note in ordered:
            before.append(before[-1].after(note.told))
        faults = _added(note.told["faults"] for note in read)
        if before[-1].rows == 0:
            raise LogError(f"no row is left; dropped: {faults}")
        written = self._fit(job, ordered) + self._write(job, ordered, before)
        self.work.keep_only(written)
        told = _added(note.told for note in written)
        duplicates = sum(note.told["duplicates"] for note in ordered)
        totals = Totals(outline, before[-1], faults, duplicates, **told)
        flat = [note.named(f"/{FLAT_FILE}") for note in read]
        self.request.check_unchanged()
        return finish(self.root, self.work, self.request, job, totals, [f for f in flat if f])

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)

    def _do_with_log(self, function: Callable[..., Any], units: Sequence[Any]) -> Iterable[Any]:
        """Maps what reads the log: a table in memory is not sent around."""
        return self.do(function, units) if self.log.frame is None else map(function, units)

    def _job(self, outline: Outline) -> Job:
        """What the units know; the catalogues lie where they will stay."""
        catalogues, folder = outline.catalogues, self.work.folder
        parts = Parts.of_log(self.split, catalogues.get("splits"), outline.days, outline.times)
        encoder = Encoder(self.schema, self.log, catalogues, split=self.split)
        columns, places = columns_of(encoder), catalogue_places(self.schema, list(catalogues))
        for name in ("index", *(column.file.rpartition("/")[0] for column in columns)):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, catalogue in catalogues.items():
            catalogue.save(folder / places[name])
        batches = max(1, self.options["partition_rows"] // self.options["batch_rows"])
        if self.schema.by_user:
            bounds = _bounds(outline.user_rows, self.options["partition_rows"])
        else:
            bounds = np.zeros(1 + -(-sum(outline.split_batches) // batches), dtype=np.int64)
        return Job(
            folder, self.schema, encoder.dtype, encoder.per_second, columns, parts, bounds,
            batches, places, uuid.uuid4().hex, catalogues,
        )  # fmt: skip

    def _read_and_sort(self, job: Job, outline: Outline) -> tuple[list[Note], list[Note]]:
        """Every split read and every partition sorted, as far as they are not there already."""
        count = len(job.bounds) - 1
        fitted = self.work.note(_QUALITY) is not None
        ordered: list[Note | None] = []
        for part in range(count):
            done = self.work.note(_written(part)) is not None
            needed = (SORTED_FILE * (not done), FIT_FILE * (not fitted))
            ordered.append(self.work.note(_sorted(part), partial(_has_any, needed)))
        files = (FLAT_FILE, *(records_file(p) for p in range(count) if ordered[p] is None))
        names = [f"read-{self.split_rows}-{n:05d}" for n in range(len(outline.splits))]
        read = [self.work.note(name, partial(_has_any, files)) for name in names]
        self._read(job, outline, names, read)
        tasks = []
        for part in range(count):
            if ordered[part] is None:
                found = (note.named(f"/{records_file(part)}") for note in read if note)
                tasks.append(SortTask(_sorted(part), tuple(name for name in found if name)))
        todo = [part for part in range(count) if ordered[part] is None]
        for part, task, note in zip(
            todo, tasks, self.do(partial(sort_part, job), tasks), strict=True
        ):
            ordered[part] = note
            self.work.drop(*task.files)
            self._tell("sorted", count - len(todo) + todo.index(part) + 1, count)
        return [note for note in read if note], [note for note in ordered if note]

    def _read(self, job: Job, outline: Outline, names: list[str], read: list[Note | None]) -> None:
        rows = np.cumsum([0, *outline.split_rows]).tolist()
        batches = np.cumsum([0, *outline.split_batches]).tolist()
        todo = [number for number, note in enumerate(read) if note is None]
        tasks = [
            SplitTask(names[n], outline.splits[n], outline.split_rows[n], rows[n], batches[n])
            for n in todo
        ]
        drop = self.options["bad_rows"] == "drop"
        one = partial(read_split, self.log, job, self.split, drop)
        for number, note in zip(todo, self._do_with_log(one, tasks), strict=True):
            read[number] = note
            self._tell("partition", rows[number + 1], rows[-1])

    def _fit(self, job: Job, ordered: list[Note]) -> list[Note]:
        """Adds up what the partitions' training rows gave, in the partitions' order."""
        if not isinstance(self.schema.quality, Percentile):
            return []
        done = self.work.note(_QUALITY)
        if done is None:
            whole = FittedPercentile(self.schema.quality)
            for note in ordered:
                whole.merge(fitted_part(job, note))
            content = io.BytesIO()
            for array in whole.arrays():
                np.save(content, array, allow_pickle=False)
            attempt = Attempt(job.folder, _QUALITY)
            attempt.place(QUALITY_FILE, 0, np.frombuffer(content.getbuffer(), dtype=np.uint8))
            done = attempt.finish()
        for note in ordered:
            self.work.drop(*(name for name, *_ in note.files if FIT_FILE in name))
        return [done]

    def _write(self, job: Job, ordered: list[Note], before: list[Before]) -> list[Note]:
        """Every partition written where it belongs, as far as that is not done already."""
        written = [self.work.note(_written(part)) for part in range(len(ordered))]
        todo = [part for part, note in enumerate(written) if note is None]
        files = [str(note.named(f"/{SORTED_FILE}")) for note in ordered]
        tasks = [WriteTask(_written(part), part, files[part], before[part]) for part in todo]
        for part, note in zip(todo, self.do(partial(write_part, job), tasks), strict=True):
            written[part] = note
            self.work.drop(files[part])
            self._tell("scored", part + 1, len(ordered))
        return [note for note in written if note]


def _bounds(user_rows: np.ndarray, rows: int) -> np.ndarray:
    """First user of each partition, and at the end how many users there are."""
    before = np.cumsum(user_rows) - user_rows
    fresh = np.flatnonzero(np.diff(before // rows, prepend=-1) > 0).astype(np.int64)
    return np.append(fresh, len(user_rows))


def _sorted(part: int) -> str:
    return f"sorted-{part:05d}"


def _written(part: int) -> str:
    return f"written-{part:05d}"


def _has_any(ends: Sequence[str], name: str) -> bool:
    """Whether a file's own name begins with one of these."""
    return any(end and name.rpartition("/")[2].startswith(end) for end in ends)


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Sums by name, names in the order in which they first come."""
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total
