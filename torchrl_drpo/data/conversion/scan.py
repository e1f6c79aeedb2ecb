"""The first pass over a log: catalogues of ids, rows of each user, the period it covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .arrow import list_parts, to_int, to_time, unique_ids
from .catalogue import Catalogue
from .records import SECONDS_A_DAY, check_kinds, day_number, id_columns, time_resolution
from .schema import TIME_UNITS, InitialHistory, ItemTable, LogSchema
from .sources import LogError, LogSource, column_kind


@dataclass
class IdCounter:
    """Distinct ids with their counts, gathered batch by batch in bounded memory."""

    pending: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    waiting: int = 0

    def add(self, ids: np.ndarray, counts: np.ndarray) -> None:
        """Counts some distinct ids; merges once as much waits as is known."""
        if len(ids):
            self.pending.append((ids, counts))
            self.waiting += len(ids)
        if len(self.pending) > 1 and self.waiting > max(1 << 21, 2 * len(self.pending[0][0])):
            self.merged()

    def merged(self) -> tuple[np.ndarray, np.ndarray]:
        """All ids ascending, and their counts."""
        if not self.pending:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        ids, place = np.unique(np.concatenate([p[0] for p in self.pending]), return_inverse=True)
        counts = np.zeros(len(ids), dtype=np.int64)
        np.add.at(counts, place, np.concatenate([p[1] for p in self.pending]))
        self.pending, self.waiting = [(ids, counts)], 0
        return self.pending[0]


@dataclass
class Outline:
    """What the first pass found.

    Args:
        rows: rows of the log.
        catalogues: numbers of ids by the names of ``id_columns``.
        user_rows: int64 ``[users]``, rows of each user by his number (empty without users).
        listed_items: size of the item table (their numbers come first), zero without one.
        unknown_items: logged items that the item table lacks.
        last_day: last day of the log in days since 1970, None without times.
        item_table: the item table's source, None where there is none.
        history_table: the initial histories' source, None where there is none.
        missing: optional tables that were not there.
    """

    rows: int
    catalogues: dict[str, Catalogue]
    user_rows: np.ndarray
    listed_items: int
    unknown_items: int
    last_day: int | None
    item_table: LogSource | None
    history_table: LogSource | None
    missing: tuple[str, ...]


def scan_log(
    source: LogSource, schema: LogSchema, known: Mapping[str, Catalogue] | None = None
) -> Outline:
    """Reads the id and time columns once.

    Args:
        source: the log.
        schema: what the columns mean.
        known: catalogues whose numbers are kept; new ids come behind them.

    Raises:
        LogError: if columns are missing, of a wrong kind, or no row is there.
    """
    named = id_columns(schema)
    kinds = source.kinds(schema.columns, list(named.values()))
    check_kinds(schema, kinds)
    per_second = time_resolution(schema, kinds)
    counters = {name: IdCounter() for name in named}
    columns = list(dict.fromkeys([*named.values(), schema.time, schema.date, schema.history]))
    columns = [name for name in columns if name is not None]
    rows, last_day = 0, None
    for batch in source.batches(columns):
        rows += batch.table.num_rows
        for name, column in named.items():
            counters[name].add(*unique_ids(batch.table.column(column)))
        if schema.history:
            flat, _ = list_parts(batch.table.column(schema.history))
            counters["items"].add(*unique_ids(flat))
        day = _last_day(batch.table, schema, per_second)
        if day is not None:
            last_day = day if last_day is None else max(last_day, day)
    if rows == 0:
        raise LogError(f"the log has no rows: {', '.join(source.files) or 'an empty table'}")
    item_table, missing_items = side_table(source, schema.items)
    history_table, missing_history = side_table(source, schema.initial_history)
    known = known or {}
    empty = Catalogue([])
    catalogues = {
        name: known.get(name, empty).extended(counter.merged()[0])
        for name, counter in counters.items()
        if name != "items"
    }
    logged = counters["items"].merged()[0]
    listed_ids = _listed_items(schema, item_table)
    listed = known.get("items", empty).extended(listed_ids)
    catalogues["items"] = listed.extended(logged)
    unknown = len(catalogues["items"]) - len(listed) if item_table is not None else 0
    if history_table is not None:
        seen = IdCounter()
        for batch in history_table.batches([schema.initial_history.items]):
            seen.add(*unique_ids(list_parts(batch.table.column(0))[0]))
        catalogues["items"] = catalogues["items"].extended(seen.merged()[0])
    user_rows = np.zeros(len(catalogues.get("users", ())), dtype=np.int64)
    if "users" in counters:
        ids, counts = counters["users"].merged()
        user_rows[catalogues["users"].encode_array(ids)] = counts
    missing = tuple(name for name in (missing_items, missing_history) if name)
    return Outline(
        rows, catalogues, user_rows, len(listed) if item_table is not None else 0, unknown,
        last_day, item_table, history_table, missing,
    )  # fmt: skip


def _last_day(table: Any, schema: LogSchema, per_second: int) -> int | None:
    if schema.date:
        column = table.column(schema.date)
        if column_kind(column.type) == "time":
            return int(to_time(column, 1)[0].max() // SECONDS_A_DAY)
        return int(day_number(to_int(column)[0]).max())
    if schema.time:
        unit = TIME_UNITS[schema.time_unit]
        last = int(to_time(table.column(schema.time), per_second, unit)[0].max())
        local = last + int(schema.utc_offset_hours * 3600 * per_second)
        return local // (SECONDS_A_DAY * per_second)
    return None


def find_test_start(last_day: int | None, days: int | None, start: str | None) -> int | None:
    """First day of the test part in days since 1970, None where no split was asked for.

    Args:
        last_day: the log's last day, None where it has no times.
        days: the last so many days; or
        start: ``"YYYY-MM-DD"``.

    Raises:
        ValueError: if both are given, ``days`` is below 1, or ``start`` is no date.
        LogError: if the log has no times.
    """
    if days is None and start is None:
        return None
    if days is not None and start is not None:
        raise ValueError(f"give test_days or test_start, not both ({days}, {start!r})")
    if last_day is None:
        raise LogError("a split by day needs a `time` or `date` column in the schema")
    if start is not None:
        try:
            return int(np.datetime64(start, "D").astype(np.int64))
        except ValueError:
            raise ValueError(f"test_start must be YYYY-MM-DD, got {start!r}") from None
    if days < 1:
        raise ValueError(f"test_days must be at least 1, got {days}")
    return last_day - days + 1


def side_table(
    source: LogSource, table: ItemTable | InitialHistory | None
) -> tuple[LogSource | None, str | None]:
    """Opens a side table beside the log: (its source, None) or (None, its path if not there)."""
    if table is None:
        return None, None
    absolute = table.path.startswith("/") or "://" in table.path or source.folder is None
    path = table.path if absolute else f"{source.folder}/{table.path}"
    try:
        return LogSource(path), None
    except FileNotFoundError:
        if table.required:
            raise
        return None, table.path


def _listed_items(schema: LogSchema, item_table: LogSource | None) -> np.ndarray:
    """The item table's ids, ascending: numbered first, they do not depend on the log."""
    if item_table is None or schema.items is None:
        return np.empty(0, dtype=np.int64)
    column = schema.items.id
    item_table.kinds([column, *schema.items.codes])
    listed = IdCounter()
    for batch in item_table.batches([column]):
        listed.add(*unique_ids(batch.table.column(0)))
    ids, counts = listed.merged()
    if np.any(counts > 1):
        raise LogError(f"item table {item_table.files[0]}: id {ids[counts > 1][0]} repeats")
    return ids


def item_codes(schema: LogSchema, table: LogSource, items: Catalogue) -> np.ndarray | None:
    """Semantic-ID codes int64 ``[V, T]`` by item number, -1 for items that the table lacks."""
    names = schema.items.codes
    if not names:
        return None
    codes = np.full((len(items), len(names)), -1, dtype=np.int64)
    for batch in table.batches([schema.items.id, *names]):
        number = item_numbers(batch.table.column(schema.items.id), items)
        columns = [to_int(batch.table.column(name)) for name in names]
        if any(null.any() for _, null in columns):
            raise LogError(f"{batch.file}: an item lacks one of its codes {names}")
        codes[number] = np.stack([values for values, _ in columns], axis=1)
    return codes


def item_embeddings(schema: LogSchema, table: LogSource, items: Catalogue) -> np.ndarray | None:
    """Embeddings float32 ``[V, D]`` by item number, zero for items that the table lacks."""
    if not schema.items.embedding:
        return None
    out: np.ndarray | None = None
    for batch in table.batches([schema.items.id, schema.items.embedding]):
        vectors = batch.table.column(schema.items.embedding)
        kind = getattr(vectors.type, "value_type", None)  # of lists only
        if kind is None or column_kind(kind) not in ("float", "integer"):
            raise LogError(
                f"{batch.file}: the embedding {schema.items.embedding!r} is of type "
                f"{vectors.type}, expected lists of numbers; write it as such, in Parquet"
            )
        flat, lengths = list_parts(vectors)
        if out is None:
            out = np.zeros((len(items), int(lengths[0])), dtype=np.float32)
        wrong = np.flatnonzero((lengths != out.shape[1]) | (lengths == 0))
        if len(wrong):
            found = lengths[wrong[0]]
            raise LogError(
                f"{batch.file}, row {batch.first_row + int(wrong[0])}: "
                + (
                    f"embedding of {found} numbers, expected {out.shape[1]} as in the first row"
                    if found
                    else "an empty embedding; leave items without a vector out of the table"
                )
            )
        number = item_numbers(batch.table.column(schema.items.id), items)
        numbers = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, out.shape[1])
        with np.errstate(over="ignore"):  # infinite: whoever uses the vectors says whose they are
            out[number] = numbers
    return out


def item_numbers(column: Any, items: Catalogue) -> np.ndarray:
    """Item numbers of a column of raw ids; raises ``KeyError`` on a stranger."""
    if column_kind(column.type) == "string":
        return items.encode(column.to_pylist()).numpy()
    return items.encode_array(to_int(column)[0])
