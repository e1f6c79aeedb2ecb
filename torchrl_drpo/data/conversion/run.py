"""The stages of a conversion, one after the other, each from where the journal left it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..catalogue import Catalogue
from ..schema import LogSchema
from ..schema.split import Split
from ..sources import LogError, LogSource
from ..store.columns import write_array, write_rows_meta
from ..store.folder import digests, publish
from ..store.manifest import Array, Manifest
from ..store.report import ConversionReport
from .histories import HISTORY_FILE, write_initial_history
from .journal import JOURNAL, Workspace
from .layout import columns_of, label_file
from .parts import Parts
from .records import Encoder
from .request import Request
from .scan import Outline, scan_log
from .score import Scorer
from .side_tables import item_codes, item_embeddings
from .sort import PartitionSorter, records_file


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
    """

    log: LogSource
    schema: LogSchema
    root: Path
    request: Request
    split: Split
    options: dict[str, Any]
    known: dict[str, Catalogue]
    progress: Callable[[str, int, int], None] | None
    work: Workspace = field(init=False)

    def run(self) -> ConversionReport:
        """Converts, and makes the result the current one of its folder."""
        self.work = Workspace(self.root / f"{self.request.name}.partial")
        # The outline is small and quick to find again, and only its catalogues are kept.
        outline = scan_log(self.log, self.schema, self.known, self.split)
        self._tell("scan", 1, 1)
        parts = Parts.of_log(
            self.split, outline.catalogues.get("splits"), outline.last_day, outline.times
        )
        encoder = Encoder(
            self.schema, self.log, outline.catalogues, self.options["bad_rows"] == "drop",
            dict(self.work.state.faults), split=self.split,
        )  # fmt: skip
        bounds = self._bounds(outline)
        self._partition(encoder, bounds, outline.rows)
        self._sort_and_score(encoder, parts, bounds, len(outline.user_rows))
        report = self._report(outline, parts, encoder.per_second)
        self.request.check_unchanged()
        return self._finish(outline, encoder, parts, report)

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)

    @property
    def _batches_a_part(self) -> int:
        return max(1, self.options["partition_rows"] // self.options["batch_rows"])

    def _bounds(self, outline: Outline) -> np.ndarray:
        """First user of each partition."""
        before = np.cumsum(outline.user_rows) - outline.user_rows
        fresh = np.flatnonzero(np.diff(before // self.options["partition_rows"], prepend=-1) > 0)
        return fresh.astype(np.int64)

    def _partition(self, encoder: Encoder, bounds: np.ndarray, rows: int) -> None:
        work, state = self.work, self.work.state
        if state.partitioned:
            return
        for batch in self.log.batches(None if encoder.hashed else self.schema.columns,
                                      state.batches):  # fmt: skip
            records, flat = encoder.encode(batch, state.rows_read)
            if self.schema.by_user:
                part = np.searchsorted(bounds, records["user"], side="right") - 1
                order = np.argsort(part, kind="stable")
                ends = np.cumsum(np.bincount(part, minlength=len(bounds)))
                for number, chunk in enumerate(np.split(records[order], ends[:-1])):
                    if len(chunk):
                        work.append(records_file(number), chunk)
            else:
                work.append(records_file(state.batches // self._batches_a_part), records)
            if flat is not None:
                work.append(HISTORY_FILE, flat.astype(np.int32))
            state.batches += 1
            state.rows_read += batch.table.num_rows
            state.faults = dict(encoder.faults)
            work.save()
            self._tell("partition", state.rows_read, rows)
        state.partitioned = True
        work.save()

    def _sort_and_score(
        self, encoder: Encoder, parts: Parts, bounds: np.ndarray, users: int
    ) -> None:
        work, state = self.work, self.work.state
        sorter = PartitionSorter(encoder, work, parts)
        scorer = Scorer(encoder, work, parts)
        if self.schema.by_user:
            first = np.append(bounds, users)
        else:
            first = np.zeros(1 + -(-state.batches // self._batches_a_part), dtype=np.int64)
        count = len(first) - 1
        for part in range(state.sorted, count):
            scorer.fit(part, sorter.sort(part, int(first[part]), int(first[part + 1])))
            state.sorted = part + 1
            work.save()
            self._tell("sorted", part + 1, count)
        for part in range(state.scored, count):
            scorer.score(part)
            state.scored = part + 1
            work.save()
            self._tell("scored", part + 1, count)
        if state.rows == 0:
            raise LogError(f"no row is left; dropped: {state.faults}")

    def _report(self, outline: Outline, parts: Parts, per_second: int) -> ConversionReport:
        state = self.work.state
        starts = parts.starts(per_second, self.schema.time is None)
        held_out = parts.split.describe(starts) if parts.split.asked else None
        if held_out is None and parts.names:
            held_out = f"as the column {self.schema.split!r} says"
        return ConversionReport(
            rows_read=state.rows_read, rows=state.rows, duplicates=state.duplicates,
            dropped=dict(state.faults), users=len(outline.catalogues.get("users", ())),
            items=len(outline.catalogues["items"]), items_logged=self._items_logged(),
            unknown_items=outline.unknown_items, trajectories=state.trajectories,
            sessions_cut=state.sessions_cut, slates=state.slates, parts=dict(state.parts),
            first_test_day=None if starts is None else starts[:10], held_out=held_out,
            missing_tables=outline.missing, tied_rows=state.tied_rows,
        )  # fmt: skip

    def _items_logged(self) -> int:
        """How many items a kept row showed."""
        file = self.work.folder / "rows" / "action.memmap"
        seen = np.zeros(0, dtype=bool)
        with file.open("rb") as actions:
            while len(block := np.fromfile(actions, dtype=np.int64, count=1 << 20)):
                count = np.bincount(block, minlength=len(seen)) > 0
                count[: len(seen)] |= seen
                seen = count
        return int(seen.sum())

    def _finish(
        self, outline: Outline, encoder: Encoder, parts: Parts, report: ConversionReport
    ) -> ConversionReport:
        """Writes what is known of the log as a whole, and publishes."""
        folder, state, catalogues = self.work.folder, self.work.state, outline.catalogues
        arrays = self._item_tables(outline)
        history, with_history = write_initial_history(self.schema, outline, self.work)
        report = report.replace(initial_history_users=with_history)
        arrays |= history | self._history_arrays()
        arrays |= {
            name: Array(f"index/{name}.bin", "int64", (length,))
            for name, length in (
                ("user_offsets", state.users if self.schema.by_user else None),
                ("trajectory_offsets", state.trajectories if self.schema.by_user else None),
                ("slate_offsets", state.slates if self.schema.slate else None),
                *((f"part-{k}", state.parts[name]) for k, name in enumerate(parts.names)),
            )
            if length is not None
        }
        places = _catalogue_places(self.schema, list(catalogues))
        for name, catalogue in catalogues.items():
            catalogue.save(folder / places[name])
        (folder / "schema.json").write_text(self.schema.to_json(), encoding="utf-8")
        columns = {column.key: column.array(state.rows) for column in columns_of(encoder)}
        labels = {label_file(k): ("label", str(k)) for k in range(len(self.schema.labels))}
        spelled = {labels.get(a.file, key): a for key, a in columns.items()}
        write_rows_meta(folder / "rows", spelled, state.rows)
        manifest = Manifest(
            data=self.request.name,
            rows=state.rows,
            columns=columns,
            arrays=arrays,
            parts={name: f"part-{k}" for k, name in enumerate(parts.names)},
            catalogues=places,
            files=digests(folder, without=(JOURNAL, "parts")),
            report=asdict(report),
            ticks_per_second=encoder.per_second,
            inputs=self.request.record(),
        )
        self.work.close()
        publish(self.root, folder, manifest)
        return report

    def _history_arrays(self) -> dict[str, Array]:
        """Where histories end, unless that is everywhere before the row itself."""
        state, every = self.work.state, self.schema.history_rows == "all"
        if every and not state.cut_histories:
            self.work.drop("index/history_ends.bin")
            self.work.save()
            return {}
        arrays = {"history_ends": Array("index/history_ends.bin", "int64", (state.rows,))}
        if not every:
            before, entering = (state.rows,), (state.history_rows,)
            arrays["history_before"] = Array("index/history_before.bin", "int64", before)
            arrays["history_items"] = Array("index/history_items.bin", "int32", entering)
        return arrays

    def _item_tables(self, outline: Outline) -> dict[str, Array]:
        """Writes the items' codes and embeddings, where the item table has any."""
        arrays: dict[str, Array] = {}
        if outline.item_table is None:
            return arrays
        for name, find in (("item_codes", item_codes), ("item_embeddings", item_embeddings)):
            table = find(self.schema, outline.item_table, outline.catalogues["items"])
            if table is not None:
                arrays[name] = Array(f"index/{name}.bin", table.dtype.name, table.shape)
                path = self.work.folder / arrays[name].file
                path.parent.mkdir(exist_ok=True)
                with path.open("wb") as file:
                    write_array(file, table)
        return arrays


def _catalogue_places(schema: LogSchema, names: list[str]) -> dict[str, str]:
    """Where each catalogue lies; contexts are numbered: their names are no files' names."""
    contexts = {f"context.{name}": f"context-{k}" for k, name in enumerate(schema.context)}
    return {name: f"catalogues/{contexts.get(name, name)}" for name in names}
