"""From Arrow batches to fixed-width records: ids numbered, formulas evaluated, faults found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..catalogue import Catalogue
from ..schema import EventValues, LogSchema, Percentile, RewardFormula
from ..schema.checks import TIME_UNITS
from ..schema.formula import Formula
from ..schema.quality import DURATION_BUCKET
from ..schema.split import NO_SPLIT, Split
from ..sources import Batch, LogError, LogSource
from ..sources.arrow import item_lists, string_codes, to_float, to_int, to_time
from ..sources.hashing import hash_column, row_hashes
from ..sources.kinds import column_kind
from ..store.report import fault_name
from .days import row_days
from .feedback import Fault, Show, entering, event_values, feedback
from .labels import label_dtype, label_values
from .quality import duration_bucket
from .roles import NO_DAY, check_kinds, id_columns, time_resolution
from .split import drawn

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class Encoder:
    """Turns batches of one log into records of one dtype.

    Args:
        schema: what the columns mean.
        source: the log; its column kinds are checked here.
        catalogues: numbers of ids, by the names of :func:`id_columns`.
        drop_bad_rows: count and leave out rows with a fault, instead of raising.
        split: says whether rows are drawn.
        observer: told of every fault first, as ``observer(batch, kind, column, bad rows, show,
            advice)``.

    Attributes:
        faults: rows with each fault, by its name; a row with several counts in each.
        kept: which rows of the last batch became records, int64.
    """

    schema: LogSchema
    source: LogSource
    catalogues: dict[str, Catalogue]
    drop_bad_rows: bool = False
    faults: dict[str, int] = field(default_factory=dict)
    observer: Callable[[Batch, str, str | None, np.ndarray, Show, str], None] | None = None
    split: Split = NO_SPLIT

    def __post_init__(self) -> None:
        self.kinds = self.source.kinds(self.schema.columns, list(id_columns(self.schema).values()))
        check_kinds(self.schema, self.kinds)
        self.per_second = time_resolution(self.schema, self.kinds)
        self.hashed = self.schema.duplicates != "keep"
        self.dtype = np.dtype(self._fields())
        self.kept = np.empty(0, dtype=np.int64)

    def _fields(self) -> list[tuple[str, str] | tuple[str, str, tuple[int, ...]]]:
        schema, quality = self.schema, self.schema.quality
        optional = [
            ("user", "i4", schema.user), ("item", "i4", True), ("time", "i8", schema.time),
            ("day", "i4", schema.time or schema.date), ("hash", "u8", self.hashed),
            ("value", "f8", True), ("session", "u8", schema.session), ("slate", "u8", schema.slate),
            ("position", "i4", schema.position), ("propensity", "f4", schema.propensity),
            ("log_propensity", "f4", schema.propensity),
            ("policy", "i4", schema.policy), ("terminal", "?", schema.terminal),
            ("split", "i4", schema.split), ("history", "i4", schema.history),
            ("enters", "?", schema.history_rows != "all"), ("drawn", "?", self.split.draws),
            ("drawn_inside", "?", self.split.inside is not None and self.split.inside.draws),
        ]  # fmt: skip
        fields: list = [(name, kind) for name, kind, wanted in optional if wanted]
        if schema.context:
            fields.append(("context", "i4", (len(schema.context),)))
        if schema.features:
            fields.append(("features", "f4", (len(schema.features),)))
        if isinstance(quality, Percentile) and quality.shared_by:
            fields.append(("keys", "i4", (len(quality.shared_by),)))
        return [*fields, *((f"label.{name}", self.label_dtype(name)) for name in schema.labels)]

    def label_dtype(self, name: str) -> str:
        """The numpy dtype that holds a label of every file."""
        return label_dtype(self.source.types(name))

    def encode(self, batch: Batch, first: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
        """Records of a batch, and the item numbers of its ``history`` lists, one after another.

        Args:
            batch: rows of the log.
            first: number of the first of them in the log; where rows are stored as logged, they
                are drawn by it.

        Raises:
            LogError: on the first faulty row (unless bad rows are dropped): which file, row and
                value, what was expected.
        """
        table, schema = batch.table, self.schema
        records = np.zeros(table.num_rows, dtype=self.dtype)
        keep = np.ones(table.num_rows, dtype=bool)
        fault = self._fault_recorder(batch, keep)
        for name, number in self._numbers(table, fault):
            records[name] = number
        if schema.context:
            for place, column in enumerate(schema.context):
                records["context"][:, place] = self._ids(f"context.{column}", column, table, fault)
        if schema.features:
            records["features"] = _features(schema.features, table, fault)
        self._times(table, records, fault)
        self._quality(table, records, fault)
        if schema.history_rows != "all":
            records["enters"] = entering(table, schema, records["value"], fault)
        for name in ("session", "slate"):
            if getattr(schema, name):
                records[name] = _group(getattr(schema, name), table, fault)
        if self.hashed:
            records["hash"] = self.row_hashes(table)
        for name, split in (("drawn", self.split), ("drawn_inside", self.split.inside)):
            if split is not None and split.draws:
                records[name] = drawn(split, self._drawn_by(table, records, first))
        flat = self._history(table, records, keep) if schema.history else None
        self.kept = np.flatnonzero(keep)
        return records if keep.all() else records[keep], flat

    def row_hashes(self, table: pa.RecordBatch) -> np.ndarray:
        """What tells rows apart: all columns but those that only number them, uint64 ``[n]``."""
        numbering = self.source.index_columns - set(self.schema.columns)
        names = table.schema.names
        kept = [place for place, name in enumerate(names) if name not in numbering]
        return row_hashes(table.select(kept) if len(kept) < len(names) else table)

    def _drawn_by(self, table: pa.RecordBatch, records: np.ndarray, first: int) -> np.ndarray:
        """What a draw mixes with its seed: a row's content, or its number where the log has one."""
        if not self.schema.by_user:
            return np.arange(first, first + len(records))
        return records["hash"] if self.hashed else self.row_hashes(table)

    def _fault_recorder(self, batch: Batch, keep: np.ndarray) -> Fault:
        told: dict[str, np.ndarray] = {}  # by a fault's name, the rows it was told of

        def record(kind: str, column: str | None, bad: np.ndarray, show: Show, advice: str) -> None:
            name = fault_name(kind, column)
            earlier = told.get(name)
            if earlier is not None:  # the column has two roles; a row with the fault counts once
                bad = bad & ~earlier
            if not bad.any():
                return
            told[name] = bad if earlier is None else bad | earlier
            if self.observer is not None:
                self.observer(batch, kind, column, bad, show, advice)
            row = int(np.flatnonzero(bad)[0])
            if not self.drop_bad_rows:
                raise LogError(
                    f"{batch.file}, row {batch.first_row + row}: {kind}: {show(row)}; {advice} "
                    f"({int(bad.sum())} such rows in this batch; to leave them out: --bad-rows "
                    "drop, in Python bad_rows='drop')"
                )
            self.faults[name] = self.faults.get(name, 0) + int(bad.sum())
            keep[bad] = False

        return record

    def _numbers(self, table: pa.RecordBatch, fault: Fault) -> list[tuple[str, np.ndarray]]:
        schema = self.schema
        out = [("item", self._ids("items", schema.item, table, fault))]
        for field_, name, column in (
            ("user", "users", schema.user), ("policy", "policies", schema.policy),
            ("split", "splits", schema.split),
        ):  # fmt: skip
            if column:
                out.append((field_, self._ids(name, column, table, fault)))
        if schema.position:
            out.append(("position", _whole(schema.position, table, fault)))
        if schema.terminal:
            out.append(("terminal", _whole(schema.terminal, table, fault) != 0))
        if schema.propensity:
            value, log_value = self._propensity(schema.propensity, table, fault)
            out += [("propensity", value), ("log_propensity", log_value)]
        out += [(f"label.{name}", self._label(name, table, fault)) for name in schema.labels]
        return out

    def _propensity(
        self, column: str, table: pa.RecordBatch, fault: Fault
    ) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and their logarithms; the latter as logged, where logarithms were."""
        value = to_float(table.column(column))
        advice = "expected a probability in (0, 1]"
        if self.schema.log_propensity:
            bad = ~((value <= 0) & np.isfinite(value))
            advice = "expected its natural logarithm, finite and at most 0"
            logarithm = np.where(bad, 0.0, value)
            probability = np.exp(logarithm)
        else:
            bad = ~((value > 0) & (value <= 1))
            probability = np.where(bad, 1.0, value)
            logarithm = np.log(probability)
        fault("propensity outside (0, 1]", column, bad, lambda row: str(value[row]), advice)
        return probability, logarithm

    def _label(self, name: str, table: pa.RecordBatch, fault: Fault) -> np.ndarray:
        values, missing, altered = label_values(table.column(name), self.dtype[f"label.{name}"])
        fault("missing label", name, missing, lambda _: name, "fill it, or drop the label")
        shown = lambda row: f"{name} {table.column(name)[row]}"  # noqa: E731
        advice = f"the files' types meet in {values.dtype}, which cannot hold it; write one type"
        fault("label would change", name, altered, shown, advice)
        return values

    def _ids(self, name: str, column: str, table: pa.RecordBatch, fault: Fault) -> np.ndarray:
        data = table.column(column)
        if column_kind(data.type) == "string":
            words, codes, null = string_codes(data)
            number = self.catalogues[name].encode_flat(words, "missing")[codes]
        else:
            raw, null = to_int(data)
            number = self.catalogues[name].encode_flat(raw, "missing")
            bad = (raw < 0) & ~null & (name == "items")
            advice = "item ids are 0 or above; map a marker such as -1 to a real id, or drop it"
            fault("negative item id", column, bad, lambda row: str(raw[row]), advice)
        fault("missing id", column, null, lambda _: f"{column} is null", "every row needs one")
        unknown = (number < 0) & ~null
        shown = lambda row: f"{column} {data[row]}"  # noqa: E731
        fault("unknown id", column, unknown, shown, "not in the catalogue")
        return np.maximum(number, 0)

    def _times(self, table: pa.RecordBatch, records: np.ndarray, fault: Fault) -> None:
        schema = self.schema
        if schema.time:
            unit = TIME_UNITS[schema.time_unit]
            value, null = to_time(table.column(schema.time), self.per_second, unit)
            shown = lambda _: f"{schema.time} is null"  # noqa: E731
            fault("missing time", schema.time, null, shown, "every row needs one")
            records["time"] = value
        if schema.time or schema.date:
            day = row_days(table, schema, self.per_second)
            records["day"] = day
        if schema.date:
            column = table.column(schema.date)
            shown = lambda row: f"{schema.date} {column[row]}"  # noqa: E731
            fault("no date", schema.date, day == NO_DAY, shown, "expected YYYYMMDD or YYYY-MM-DD")

    def _quality(self, table: pa.RecordBatch, records: np.ndarray, fault: Fault) -> None:
        quality = self.schema.quality
        if isinstance(quality, EventValues):
            records["value"] = event_values(table.column(quality.column), quality, fault)
            return
        values = feedback(table, quality, fault)
        text = quality.formula if isinstance(quality, RewardFormula) else None
        text = text or (quality.value if isinstance(quality, Percentile) else quality.reward)
        value = np.broadcast_to(Formula(text)(values), (table.num_rows,))
        numbers = [v for v in values.values() if isinstance(v, np.ndarray)]
        known = np.all([np.isfinite(v) for v in numbers], axis=0) if numbers else True
        fault(
            "reward is not finite", None, ~np.isfinite(value) & known,
            lambda row: f"{text} gives {value[row]}",
            "guard the formula, as in log(max(x, 1))",
        )  # fmt: skip
        records["value"] = np.where(np.isfinite(value), value, 0.0)
        if isinstance(quality, Percentile):
            for place, key in enumerate(quality.shared_by):
                if key == DURATION_BUCKET:
                    duration = np.broadcast_to(Formula(quality.duration)(values), value.shape)
                    fault(
                        "duration is not finite", None, ~np.isfinite(duration) & known,
                        lambda row, d=duration: str(d[row]), "guard the formula",
                    )  # fmt: skip
                    number = duration_bucket(
                        np.where(np.isfinite(duration), duration, 0.0), quality.base
                    )
                else:
                    number = records["context"][:, self.schema.context.index(key)]
                records["keys"][:, place] = number

    def _history(self, table: pa.RecordBatch, records: np.ndarray, keep: np.ndarray) -> np.ndarray:
        flat, lengths = item_lists(table.column(self.schema.history), self.schema.history_padding)
        items = known_numbers(flat, self.catalogues["items"])
        records["history"] = lengths
        return items[np.repeat(keep, lengths)]


def known_numbers(ids: pa.Array, catalogue: Catalogue) -> np.ndarray:
    """Numbers of raw ids, -1 for nulls and strangers."""
    if column_kind(ids.type) == "string":
        words, codes, null = string_codes(ids)
        number = catalogue.encode_flat(words, "missing")[codes]
    else:
        raw, null = to_int(ids)
        number = catalogue.encode_flat(raw, "missing")
    return np.where(null, -1, number)


def _features(names: tuple[str, ...], table: pa.RecordBatch, fault: Fault) -> np.ndarray:
    """float32 ``[N, F]``; zero where a number is a fault."""
    value = np.stack([to_float(table.column(name)) for name in names], axis=1)
    with np.errstate(over="ignore"):
        features = value.astype(np.float32)
    bad = ~np.isfinite(features)
    advice = "fill it, clip it to what float32 holds, or leave the feature out"
    for name, wrong, its in zip(names, bad.T, value.T, strict=True):
        shown = lambda row, name=name, its=its: f"{name} is {its[row]}"  # noqa: E731
        fault("feature is not finite", name, wrong, shown, advice)
    return np.where(bad, np.float32(0), features)


def _group(column: str, table: pa.RecordBatch, fault: Fault) -> np.ndarray:
    """uint64 ``[N]``, equal for rows of one session or slate; a missing id is no group."""
    values = table.column(column)
    missing = np.asarray(values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False))
    fault("missing id", column, missing, lambda _: f"{column} is null", "every row needs one")
    return hash_column(values)


def _whole(column: str, table: pa.RecordBatch, fault: Fault) -> np.ndarray:
    value = to_float(table.column(column))
    missing = np.isnan(value)
    fault("missing value", column, missing, lambda _: f"{column} is null", "every row needs one")
    broken = ~missing & (np.floor(value) != value)
    shown = lambda row: f"{column} is {value[row]}"  # noqa: E731
    fault("not a whole number", column, broken, shown, "expected an integer")
    return np.where(np.isfinite(value), value, 0.0).astype(np.int64)
