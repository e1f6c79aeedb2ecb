"""One pass over a log's rows: order, ranges, items, duplicates, plausible times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..conversion.groups import advice as slate_advice
from ..conversion.groups import group_ids, tied
from ..conversion.parts import Parts
from ..conversion.records import Encoder, Show
from ..conversion.roles import id_columns
from ..conversion.scan import Outline
from ..schema import LogSchema, Percentile
from ..schema.quality import DURATION_BUCKET
from ..schema.times import implausible_times
from ..sources import Batch, LogSource
from ..sources.arrow import to_float
from .leakage import Finding, leaking_features, telling_features
from .report import Fault
from .spans import Spans, latest_before

FEATURE_ROWS = 1 << 16
#: How tools write that there is nothing; of an id they may be the name of somebody.
NOTHING = ("NULL", "null", "None", "NaN", "nan", "NA", "N/A", "n/a", "#N/A", "\\N", "undefined")


class Checks:
    """One pass over the rows, with what must be remembered from batch to batch."""

    def __init__(
        self, schema: LogSchema, log: LogSource, outline: Outline, max_examples: int
    ) -> None:
        self.schema, self.log, self.outline = schema, log, outline
        self.max_examples = max_examples
        self.faults: dict[tuple[str, str | None], Fault] = {}
        self.rows = 0
        self.encoder = Encoder(schema, log, outline.catalogues, True, observer=self._observe)
        self.hashes: list[np.ndarray] = []
        self.instants: list[tuple[np.ndarray, ...]] = []  # user, time and hash of each row
        self.places: list[tuple[int, str, int]] = []  # first row overall, file, first row there
        users = len(outline.catalogues.get("users", ())) or 1
        self.last_time = np.full(users, np.iinfo(np.int64).min)
        self.item_days: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.some_rows: list[tuple[np.ndarray, np.ndarray]] = []  # features, what is judged
        self.quality_range = (np.inf, -np.inf)
        self.spans = {name: Spans() for name in ("session", "slate") if getattr(schema, name)}
        self.zero = outline.catalogues["items"].find(0) if self._has_lists else -1

    def add(
        self,
        kind: str,
        severity: str,
        count: int,
        advice: str,
        examples: list[dict[str, Any]] | None = None,
        column: str | None = None,
    ) -> None:
        """Counts a fault, of each column apart, and keeps its first examples."""
        if count:
            new = Fault(kind, severity, advice=advice, column=column)
            fault = self.faults.setdefault((kind, column), new)
            fault.count += count
            fault.examples += (examples or [])[: self.max_examples - len(fault.examples)]

    def read(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Looks at every row; ``progress`` is told how many are done, and of how many."""
        whole = self.schema.duplicates != "keep"
        self.encoder.hashed = False  # rows are hashed here, the faulty ones too
        for batch in self.log.batches(None if whole else self.schema.columns):
            self.places.append((self.rows, batch.file, batch.first_row))
            records, _ = self.encoder.encode(batch)
            if whole:
                self.hashes.append(self.encoder.row_hashes(batch.table))
            self._check_order(batch, records)
            self._check_ranges(batch)
            self._check_items(batch, records)
            if len(records):
                low, high = self.quality_range
                value = records["value"]
                self.quality_range = (min(low, value.min()), max(high, value.max()))
            self._note_groups(records)
            if self.schema.by_user and not self.schema.slate:
                hashes = self.hashes[-1][self.encoder.kept] if whole else np.arange(len(records))
                self.instants.append((records["user"].copy(), records["time"].copy(), hashes))
            if self.schema.features:
                every = -(-self.outline.rows // FEATURE_ROWS)
                some = (self.rows + self.encoder.kept) % every == 0
                self.some_rows.append((records["features"][some], records["value"][some]))
            self.rows += batch.table.num_rows
            if progress is not None:
                progress(self.rows, self.outline.rows)

    def finish(self, parts: Parts) -> None:
        """Looks at the log as a whole."""
        self._check_duplicates()
        self._check_instants()
        self._check_plausible_times()
        low, high = self.quality_range
        if low == high and self.rows > 1:
            advice = f"the quality of every row is {low:g}, which tells no row from another; an "
            advice += "objective that compares rows learns nothing from it"
            self.add("constant quality", "warning", self.rows, advice)
        self._check_groups()
        self._check_names()
        table = self.schema.items
        missing = self.outline.missing
        advice = f"{' and '.join(missing)} not beside the log; left out"
        self.add("missing table", "warning", len(missing), advice)
        if table is not None and self.outline.item_table is not None and table.features:
            first_day = parts.first_day_of(self.encoder.per_second, self.schema.time is None)
            found = leaking_features(self.schema, self.outline, self.item_days, first_day)
            self._add_findings(found)
        if self.some_rows:
            features, value = (np.concatenate(part) for part in zip(*self.some_rows, strict=True))
            self._add_findings(telling_features(self.schema, features, value))

    def _add_findings(self, found: list[Finding]) -> None:
        for severity, kind, advice, examples in found:
            self.add(kind, severity, len(examples), advice, examples)

    def _observe(
        self,
        batch: Batch,
        kind: str,
        column: str | None,
        bad: np.ndarray,
        show: Show,
        advice: str,
    ) -> None:
        rows = np.flatnonzero(bad)
        examples = [self._place(batch, row, show(int(row))) for row in rows[: self.max_examples]]
        advice += "; --bad-rows drop (in Python bad_rows='drop') leaves such rows out"
        self.add(kind, "error", len(rows), advice, examples, column)

    def _place(self, batch: Batch, row: int, value: Any) -> dict[str, Any]:
        return {"file": batch.file, "row": int(batch.first_row + row), "value": value}

    def _check_order(self, batch: Batch, records: np.ndarray) -> None:
        """Rows that come before an earlier row of the same user (or of the log, without users)."""
        if not self.schema.time or len(records) == 0:
            return
        user = records["user"] if self.schema.user else np.zeros(len(records), dtype=np.int64)
        order = np.argsort(user, kind="stable")
        time, owner = records["time"][order], user[order]
        before = np.maximum(latest_before(owner, time), self.last_time[owner])
        late = np.flatnonzero(time < before)
        examples = [
            self._place(
                batch,
                self.encoder.kept[order[k]],
                f"time {self._when(time[k])} after {self._when(before[k])}",
            )
            for k in late[: self.max_examples]
        ]
        advice = "rows should come in time order; a conversion sorts them"
        self.add("out of time order", "warning", len(late), advice, examples)
        np.maximum.at(self.last_time, owner, time)

    def _when(self, ticks: int) -> str:
        """A time as the log has it, if numbers are its times; else as ISO 8601 writes it."""
        if self.encoder.kinds[self.schema.time] in ("integer", "float"):
            return str(ticks)
        unit = {1: "s", 1_000: "ms", 1_000_000: "us", 1_000_000_000: "ns"}[self.encoder.per_second]
        text = str(np.datetime64(int(ticks), unit))
        return text.rstrip("0").rstrip(".") if "." in text else text

    def _check_ranges(self, batch: Batch) -> None:
        quality = self.schema.quality
        if isinstance(quality, Percentile) and DURATION_BUCKET in quality.by:
            names = [name for name in quality.columns if name in (quality.duration or "")]
            for name in names:
                value = to_float(batch.table.column(name))
                rows = np.flatnonzero(value <= 0)
                examples = [
                    self._place(batch, row, f"{name} {value[row]}")
                    for row in rows[: self.max_examples]
                ]
                advice = "durations should be above 0; these rows share a bucket of their own"
                self.add("duration not positive", "warning", len(rows), advice, examples, name)
        if self.schema.position:
            value = to_float(batch.table.column(self.schema.position))
            rows = np.flatnonzero(value < 0)
            examples = [self._place(batch, row, value[row]) for row in rows[: self.max_examples]]
            advice, column = "positions start at 0", self.schema.position
            self.add("negative position", "warning", len(rows), advice, examples, column)

    def _check_items(self, batch: Batch, records: np.ndarray) -> None:
        if self.zero >= 0 and np.any(records["item"] == self.zero):
            self.zero = -1  # a row shows it: an item like any other
        if self.outline.listed_items:
            rows = np.flatnonzero(records["item"] >= self.outline.listed_items)
            first = records["item"][rows[: self.max_examples]]
            raw = self.outline.catalogues["items"].decode(first)
            examples = [
                self._place(batch, self.encoder.kept[row], item)
                for row, item in zip(rows, raw, strict=False)
            ]
            advice = "the item table lacks these items; they join the catalogue behind it"
            self.add("items not in the item table", "warning", len(rows), advice, examples)
        if "day" in records.dtype.names and self.schema.items and self.schema.items.features:
            pairs = np.stack([records["item"], records["day"]], axis=1)
            unique, counts = np.unique(pairs, axis=0, return_counts=True)
            self.item_days.append((unique[:, 0], unique[:, 1], counts))

    def _note_groups(self, records: np.ndarray) -> None:
        rows = self.rows + self.encoder.kept
        by_user = self.schema.by_user
        owner = records["user"] if by_user else np.zeros(len(records), dtype=np.int64)
        for name, spans in self.spans.items():
            instant = records["time"] if by_user else rows
            spans.add(owner, group_ids(records, name, self.schema), instant, rows)

    def _check_groups(self) -> None:
        kinds = {
            "slate": ("error", slate_advice(self.schema)),
            "session": ("warning", "a session that others interrupt is cut into trajectories"),
        }
        for name, spans in self.spans.items():
            rows = spans.interrupted()
            examples = [self._at(int(row)) for row in rows[: self.max_examples]]
            severity, advice = kinds[name]
            self.add(f"interleaved {name}s", severity, len(rows), advice, examples)

    @property
    def _has_lists(self) -> bool:
        return bool(self.schema.history or self.outline.history_table is not None)

    def _check_names(self) -> None:
        """Ids that are probably none: what tools write for nothing, what lists are padded with."""
        columns = id_columns(self.schema)
        for name, catalogue in self.outline.catalogues.items():
            found = [] if catalogue.is_integer else [w for w in NOTHING if catalogue.find(w) >= 0]
            advice = "these texts are ids like any other; write nothing where nothing is known"
            examples = [{"ids": name, "value": word} for word in found]
            kind, column = "ids that read as missing", columns.get(name)
            self.add(kind, "warning", len(found), advice, examples, column)
        if self.zero >= self.outline.listed_items:
            advice = (
                "lists of items hold 0, but no row and no item table does; where it is their "
                "padding, say so: history_padding=0, or padding=0 of the initial history"
            )
            self.add("item 0 is in histories alone", "warning", 1, advice)

    def _check_duplicates(self) -> None:
        if not self.hashes:
            return
        hashes = np.concatenate(self.hashes)
        ordered = np.sort(hashes)
        repeated = ordered[1:][ordered[1:] == ordered[:-1]]
        rows = np.flatnonzero(np.isin(hashes, repeated))
        _, first = np.unique(hashes[rows], return_index=True)
        later = np.setdiff1d(rows, rows[first])[: self.max_examples]
        examples = [self._at(int(row)) for row in later]
        severity = "error" if self.schema.duplicates == "error" else "warning"
        advice = "exact duplicates of an earlier row; a conversion keeps the first"
        self.add("duplicate rows", severity, len(repeated), advice, examples)

    def _check_instants(self) -> None:
        """Rows whose order only the file knows; those of a slate are meant to share their time."""
        if not self.instants:
            return
        user, time, hashes = (np.concatenate(part) for part in zip(*self.instants, strict=True))
        if self.hashes:  # a conversion drops exact duplicates, which is said elsewhere
            kept = np.unique(hashes, return_index=True)[1]
            user, time = user[kept], time[kept]
        order = np.lexsort((time, user))
        count = int(tied(user[order], time[order]).sum())
        advice = (
            f"{count / max(len(user), 1):.0%} of the rows share user and time with another; none "
            "of them stands in the other's history, for nothing says which came first"
        )
        self.add("rows of one user and time", "warning", count, advice)

    def _at(self, row: int) -> dict[str, Any]:
        first, file, there = next(p for p in reversed(self.places) if p[0] <= row)
        return {"file": file, "row": there + row - first}

    def _check_plausible_times(self) -> None:
        if not self.schema.time or self.rows == 0:
            return
        seen = self.last_time[self.last_time > np.iinfo(np.int64).min] / self.encoder.per_second
        if not len(seen):
            return
        said = implausible_times(float(seen.min()), float(seen.max()), self.schema.time_unit)
        if said is not None:
            self.add("implausible times", "warning", self.rows, said)
