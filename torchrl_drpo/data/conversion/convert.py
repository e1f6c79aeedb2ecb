"""`convert_log`: any log into a memory-mapped TensorDict, by an external sort that can be killed.

Four stages, each journalled: *scan* numbers the ids; *partition* turns rows into records and
spreads them over files by user range; *sort* orders each file by (user, time), drops duplicates,
writes the columns and fits the quality signal on training rows; *quality* writes the rewards.
Memory is bounded by one batch, one partition and the catalogues. Everything happens in a
``.partial`` folder that becomes current in one step; a run that was killed goes on from its last
finished batch or partition and ends with the same bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..catalogue import Catalogue
from ..schema import LogSchema
from ..sources import BATCH_ROWS, LogError, LogSource
from ..store.columns import append, cut, write_rows_meta
from ..store.folder import FORMAT, VERSION, exclusive, publish, write_json
from ..store.report import ConversionReport
from ..store.store import LogStore
from .histories import write_initial_history
from .journal import Progress
from .layout import columns_of
from .records import Encoder
from .scan import Outline, find_test_start, scan_log
from .side_tables import item_codes, item_embeddings, side_table
from .sort import PartitionSorter

PARTITION_ROWS = 1 << 20


def convert_log(
    source: Any,
    root: Path | str,
    schema: LogSchema,
    *,
    test_days: int | None = None,
    test_start: str | None = None,
    bad_rows: str = "error",
    overwrite: bool = False,
    like: Path | str | None = None,
    batch_rows: int = BATCH_ROWS,
    partition_rows: int = PARTITION_ROWS,
    progress: Callable[[str, int, int], None] | None = None,
) -> ConversionReport:
    """Converts a log into ``root``; does nothing where the same conversion lies there already.

    Args:
        source: a file, folder, glob, fsspec URI or list of these, of Parquet or CSV; or a pandas
            or polars frame, an Arrow table, a flat TensorDict.
        root: folder of the result. A folder with another conversion is left as it is unless
            ``overwrite`` is given, and then until the new one is complete.
        schema: what the columns mean.
        test_days: the last so many days become the part ``"test"``, the others ``"train"``.
        test_start: or: the first day of the test part, ``"YYYY-MM-DD"``.
        bad_rows: ``"error"`` stops at the first faulty row; ``"drop"`` counts and leaves out.
        overwrite: replace a different conversion.
        like: folder of an earlier conversion (of last week's log, say) whose numbers of items,
            users and contexts are kept; new ids come behind them, so trained policies still fit.
        batch_rows: rows read at a time.
        partition_rows: rows sorted at a time; memory grows with it (and with the rows of the
            heaviest user), by about 1 kB a row in the worst case.
        progress: called as ``progress(stage, done, total)``.

    Returns:
        The report, also kept in the manifest.

    Raises:
        LogError: if a file, a column or a row is not as the schema says.
        FileExistsError: if ``root`` holds another conversion.
        OSError: if the disk is full; what was there stays, and a later run goes on.
    """
    root = Path(root)
    if bad_rows not in ("error", "drop"):
        raise ValueError(f"bad_rows must be 'error' or 'drop', got {bad_rows!r}")
    log = source
    if not isinstance(log, LogSource):
        log = LogSource(source, batch_rows, beside=schema.side_tables)
    earlier = LogStore(like) if like is not None else None
    options = {
        "test_days": test_days, "test_start": test_start, "bad_rows": bad_rows,
        "like": earlier.data.name if earlier is not None else None,
        "batch_rows": log.batch_rows, "partition_rows": partition_rows,
    }  # fmt: skip
    with exclusive(root):
        work = root / f"data-{_fingerprint(log, schema, options)}.partial"
        if (root / "manifest.json").is_file():
            current = LogStore(root)
            if current.data.name == work.name.removesuffix(".partial"):
                return current.report
            if not overwrite:
                raise FileExistsError(
                    f"{root} holds a conversion of another log, schema or split; choose another "
                    "root, or pass overwrite=True to replace it once the new one is complete"
                )
        try:
            known = earlier.catalogues() if earlier is not None else {}
            return _Conversion(log, schema, root, work, options, known, progress).run()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise OSError(
                error.errno,
                f"the disk is full while converting into {root}; free some space and run again: it "
                "goes on where it stopped, and what was there before is untouched",
            ) from error


def _fingerprint(log: LogSource, schema: LogSchema, options: dict[str, Any]) -> str:
    import pyarrow

    parts = [FORMAT, VERSION, pyarrow.__version__, log.fingerprint(), schema.to_json(), options]
    for table in (schema.items, schema.initial_history):
        side, _ = side_table(log, table)
        parts.append(side.fingerprint() if side is not None else None)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@dataclass
class _Conversion:
    log: LogSource
    schema: LogSchema
    root: Path
    work: Path
    options: dict[str, Any]
    known: dict[str, Catalogue]
    progress: Callable[[str, int, int], None] | None
    state: Progress = field(default_factory=Progress)

    def run(self) -> ConversionReport:
        journal = self.work / "journal.json"
        if journal.is_file():
            self.state = Progress(**json.loads(journal.read_text()))
        elif self.work.exists():
            shutil.rmtree(self.work)
        for folder in ("parts", "rows/next", "rows/observation", "index", "catalogues"):
            (self.work / folder).mkdir(parents=True, exist_ok=True)
        # The outline is small and quick to find again, and only its catalogues are kept.
        outline = scan_log(self.log, self.schema, self.known)
        self._tell("scan", 1, 1)
        bounds = self._bounds(outline)
        first_test_day = find_test_start(
            outline.last_day, self.options["test_days"], self.options["test_start"]
        )
        encoder = Encoder(
            self.schema, self.log, outline.catalogues, self.options["bad_rows"] == "drop",
            dict(self.state.faults),
        )  # fmt: skip
        self._partition(encoder, bounds, outline.rows)
        sorter = PartitionSorter(encoder, self.work, self.state, first_test_day)
        if self.schema.by_user:
            users = np.append(bounds, len(outline.user_rows))
        else:
            users = np.zeros(1 + -(-self.state.batches // self._batches_a_part), dtype=np.int64)
        count = len(users) - 1
        stages = (("sorted", sorter.sort, "rec"), ("scored", sorter.score, "sorted"))
        for stage, step, used in stages:
            for part in range(getattr(self.state, stage), count):
                step(part, int(users[part]), int(users[part + 1]))
                setattr(self.state, stage, part + 1)
                self._save()
                (self.work / "parts" / f"{part:05d}.{used}").unlink(missing_ok=True)
                self._tell(stage, part + 1, count)
        return self._finish(outline, encoder, first_test_day)

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)

    def _save(self) -> None:
        write_json(self.work / "journal.json", asdict(self.state))

    @property
    def _batches_a_part(self) -> int:
        return max(1, self.options["partition_rows"] // self.options["batch_rows"])

    def _bounds(self, outline: Outline) -> np.ndarray:
        """First user of each partition."""
        before = np.cumsum(outline.user_rows) - outline.user_rows
        fresh = np.flatnonzero(np.diff(before // self.options["partition_rows"], prepend=-1) > 0)
        return fresh.astype(np.int64)

    def _partition(self, encoder: Encoder, bounds: np.ndarray, rows: int) -> None:
        if self.state.partitioned:
            return
        parts = self.work / "parts"
        sizes = self.state.sizes or {}
        for file in parts.glob("*"):
            cut(file, sizes.get(file.name, 0))
        for batch in self.log.batches(None if encoder.hashed else self.schema.columns,
                                      self.state.batches):  # fmt: skip
            records, flat = encoder.encode(batch)
            if self.schema.by_user:
                part = np.searchsorted(bounds, records["user"], side="right") - 1
                order = np.argsort(part, kind="stable")
                ends = np.cumsum(np.bincount(part, minlength=len(bounds)))
                for number, chunk in enumerate(np.split(records[order], ends[:-1])):
                    self._append(f"{number:05d}.rec", chunk)
            else:
                self._append(f"{self.state.batches // self._batches_a_part:05d}.rec", records)
            if flat is not None:
                self._append("history", flat.astype(np.int32))
            self.state.batches += 1
            self.state.rows_read += batch.table.num_rows
            self.state.faults = dict(encoder.faults)
            self._save()
            self._tell("partition", self.state.rows_read, rows)
        self.state.partitioned = True
        self._save()

    def _append(self, name: str, array: np.ndarray) -> None:
        if len(array):
            append(self.work / "parts" / name, array)
            self.state.sizes[name] = self.state.sizes.get(name, 0) + array.nbytes

    def _finish(
        self, outline: Outline, encoder: Encoder, first_test_day: int | None
    ) -> ConversionReport:
        work, state, index = self.work, self.state, self.work / "index"
        if state.rows == 0:
            raise LogError(f"no row is left; dropped: {state.faults}")
        columns = columns_of(encoder)
        write_rows_meta(work / "rows", columns, state.rows)
        catalogues = outline.catalogues
        for name, catalogue in catalogues.items():
            catalogue.save(work / "catalogues" / name)
        if outline.item_table is not None:
            for name, find in (("codes", item_codes), ("embeddings", item_embeddings)):
                table = find(self.schema, outline.item_table, catalogues["items"])
                if table is not None:
                    table.tofile(index / f"item_{name}.bin")
        with_history = write_initial_history(self.schema, outline, work)
        (work / "schema.json").write_text(self.schema.to_json())
        report = ConversionReport(
            rows_read=state.rows_read, rows=state.rows, duplicates=state.duplicates,
            dropped=dict(state.faults), users=len(catalogues.get("users", ())),
            items=len(catalogues["items"]), items_logged=_items_logged(work, state.rows),
            unknown_items=outline.unknown_items, trajectories=state.trajectories,
            slates=state.slates, parts=dict(state.parts),
            first_test_day=None if first_test_day is None
            else str(np.datetime64(first_test_day, "D")),
            initial_history_users=with_history, missing_tables=outline.missing,
        )  # fmt: skip
        (work / "journal.json").unlink()  # from here on a killed run starts anew
        shutil.rmtree(work / "parts")
        files = {
            str(path.relative_to(work)): path.stat().st_size
            for path in sorted(work.rglob("*"))
            if path.is_file() and path.suffix != ".json"
        }
        manifest = {
            "format": FORMAT, "version": VERSION, "report": asdict(report), "files": files,
            "ticks_per_second": encoder.per_second, "item_codes": len(self.schema.items.codes)
            if self.schema.items else 0,
        }  # fmt: skip
        publish(self.root, work, manifest)
        return report


def _items_logged(work: Path, rows: int) -> int:
    action = np.memmap(work / "rows" / "action.memmap", dtype=np.int64, mode="r", shape=(rows,))
    seen = np.zeros(0, dtype=bool)
    for start in range(0, rows, 1 << 20):
        count = np.bincount(action[start : start + (1 << 20)], minlength=len(seen)) > 0
        count[: len(seen)] |= seen
        seen = count
    return int(seen.sum())
