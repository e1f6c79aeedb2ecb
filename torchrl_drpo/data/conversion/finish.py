"""What is known of a log as a whole: its report, item tables, histories from before, manifest."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..store.columns import write_array, write_rows_meta
from ..store.folder import digests, publish
from ..store.manifest import Array, Manifest
from ..store.report import ConversionReport
from .histories import HISTORY_FILE, write_initial_history
from .job import Job
from .journal import NOTES, WAY, Workspace
from .layout import label_file
from .request import Request
from .scan import Outline
from .side_tables import item_codes, item_embeddings
from .write import Before


@dataclass(frozen=True)
class Totals:
    """What all units counted.

    Args:
        outline: of the log.
        all: rows, trajectories, ... of the result.
        dropped: rows that were left out, by fault.
        duplicates: that were left out.
        sessions_cut: sessions that go on after another.
        tied_rows: that share user and time.
        cut_histories: rows whose history does not show the row before.
    """

    outline: Outline
    all: Before
    dropped: dict[str, int]
    duplicates: int
    sessions_cut: int
    tied_rows: int
    cut_histories: int


def finish(
    root: Path,
    work: Workspace,
    request: Request,
    job: Job,
    totals: Totals,
    brought: list[str],
) -> ConversionReport:
    """Writes what is known of the log as a whole, and publishes.

    Args:
        root: folder of the result.
        work: the work folder.
        request: what was asked for.
        job: the conversion.
        totals: what its units counted.
        brought: the files of items that rows brought along, in the log's order.
    """
    folder, rows, schema, names = work.folder, totals.all.rows, job.schema, job.parts.names
    arrays = _item_tables(folder, job, totals.outline)
    if schema.history:
        _join(folder, brought)
    history, with_history = write_initial_history(schema, totals.outline, folder)
    report = _report(job, totals, with_history)
    arrays |= history | _history_arrays(work, job, totals)
    arrays |= {
        name: Array(f"index/{name}.bin", "int64", (length,))
        for name, length in (
            ("user_offsets", int(job.bounds[-1]) if schema.by_user else None),
            ("trajectory_offsets", totals.all.trajectories if schema.by_user else None),
            ("slate_offsets", totals.all.slates if schema.slate else None),
            *((f"part-{k}", totals.all.parts[k]) for k in range(len(names))),
        )
        if length is not None
    }
    (folder / "schema.json").write_text(schema.to_json(), encoding="utf-8")
    columns = {column.key: column.array(rows) for column in job.columns}
    labels = {label_file(k): ("label", str(k)) for k in range(len(schema.labels))}
    spelled = {labels.get(a.file, key): a for key, a in columns.items()}
    write_rows_meta(folder / "rows", spelled, rows)
    manifest = Manifest(
        data=request.name,
        rows=rows,
        columns=columns,
        arrays=arrays,
        parts={name: f"part-{k}" for k, name in enumerate(names)},
        catalogues=job.places,
        files=digests(folder, without=(NOTES, WAY)),
        report=asdict(report),
        ticks_per_second=job.per_second,
        inputs=request.record(),
    )
    work.close()
    publish(root, folder, manifest)
    return report


def _report(job: Job, totals: Totals, with_history: int) -> ConversionReport:
    starts = job.parts.starts(job.per_second, job.schema.time is None)
    held_out = job.parts.split.describe(starts) if job.parts.split.asked else None
    if held_out is None and job.parts.names:
        held_out = f"as the column {job.schema.split!r} says"
    outline, found = totals.outline, totals.all
    return ConversionReport(
        rows_read=outline.rows, rows=found.rows, duplicates=totals.duplicates,
        dropped=totals.dropped, users=len(outline.catalogues.get("users", ())),
        items=len(outline.catalogues["items"]), items_logged=_items_logged(job.folder),
        unknown_items=outline.unknown_items, trajectories=found.trajectories,
        sessions_cut=totals.sessions_cut, slates=found.slates,
        parts=dict(zip(job.parts.names, found.parts, strict=True)),
        first_test_day=None if starts is None else starts[:10], held_out=held_out,
        missing_tables=outline.missing, tied_rows=totals.tied_rows,
        initial_history_users=with_history,
    )  # fmt: skip


def _items_logged(folder: Path) -> int:
    """How many items a kept row showed."""
    seen = np.zeros(0, dtype=bool)
    with (folder / "rows" / "action.memmap").open("rb") as actions:
        while len(block := np.fromfile(actions, dtype=np.int64, count=1 << 20)):
            count = np.bincount(block, minlength=len(seen)) > 0
            count[: len(seen)] |= seen
            seen = count
    return int(seen.sum())


def _join(folder: Path, names: list[str]) -> None:
    """The items that rows brought along, one split's after the other's."""
    with (folder / HISTORY_FILE).open("wb") as whole:
        for name in names:
            with (folder / name).open("rb") as part:
                shutil.copyfileobj(part, whole, 1 << 20)


def _history_arrays(work: Workspace, job: Job, totals: Totals) -> dict[str, Array]:
    """Where histories end, unless that is everywhere before the row itself."""
    every, rows = job.schema.history_rows == "all", (totals.all.rows,)
    if every and not totals.cut_histories:
        work.drop("index/history_ends.bin")
        return {}
    arrays = {"history_ends": Array("index/history_ends.bin", "int64", rows)}
    if not every:
        entering = (totals.all.history_rows,)
        arrays["history_before"] = Array("index/history_before.bin", "int64", rows)
        arrays["history_items"] = Array("index/history_items.bin", "int32", entering)
    return arrays


def _item_tables(folder: Path, job: Job, outline: Outline) -> dict[str, Array]:
    """Writes the items' codes and embeddings, where the item table has any."""
    arrays: dict[str, Array] = {}
    if outline.item_table is None:
        return arrays
    for name, find in (("item_codes", item_codes), ("item_embeddings", item_embeddings)):
        table = find(job.schema, outline.item_table, outline.catalogues["items"])
        if table is not None:
            arrays[name] = Array(f"index/{name}.bin", table.dtype.name, table.shape)
            with (folder / arrays[name].file).open("wb") as file:
                write_array(file, table)
    return arrays
