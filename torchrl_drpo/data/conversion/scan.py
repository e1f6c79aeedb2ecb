"""The first pass over a log: catalogues of ids, rows of each user, the period it covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..catalogue import Catalogue
from ..schema import LogSchema
from ..schema.checks import TIME_UNITS
from ..schema.split import NO_SPLIT, Split
from ..sources import Batch, LogError, LogSource
from ..sources.arrow import item_lists, to_time, unique_ids
from ..sources.kinds import column_kind
from ..words import mix
from .days import row_days
from .ids import IdCounter
from .opening import agree_on_ids
from .roles import check_kinds, id_columns, time_resolution
from .side_tables import listed_items, side_table


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
        times: some of its instants in ticks (days, without a time column), ascending, and how many
            rows each has; None where no share by time is asked for.
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
    times: tuple[np.ndarray, np.ndarray] | None
    item_table: LogSource | None
    history_table: LogSource | None
    missing: tuple[str, ...]


def scan_log(
    source: LogSource,
    schema: LogSchema,
    known: Mapping[str, Catalogue] | None = None,
    split: Split = NO_SPLIT,
) -> Outline:
    """Reads the id and time columns once.

    Args:
        source: the log.
        schema: what the columns mean.
        known: catalogues whose numbers are kept; new ids come behind them.
        split: what will be held out; instants are gathered where a share by time is.

    Raises:
        LogError: if columns are missing, of a wrong kind, or no row is there.
    """
    named = id_columns(schema)
    kinds = source.kinds(schema.columns, list(named.values()))
    check_kinds(schema, kinds)
    agree_on_ids(source, schema, known)
    per_second = time_resolution(schema, kinds)
    counters = {name: IdCounter() for name in named}
    columns = list(dict.fromkeys([*named.values(), schema.time, schema.date, schema.history]))
    columns = [name for name in columns if name is not None]
    rows, last_day = 0, None
    times = _Instants() if split.by_time and (schema.time or schema.date) else None
    for batch in source.batches(columns):
        if times is not None:
            times.add(_instants(batch.table, schema, per_second))
        rows += batch.table.num_rows
        for name, column in named.items():
            _count(counters[name], batch, column)
        if schema.history:
            _count(counters["items"], batch, schema.history, schema.history_padding)
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
    listed_ids = listed_items(schema, item_table)
    listed = known.get("items", empty).extended(listed_ids)
    catalogues["items"] = listed.extended(logged)
    unknown = len(catalogues["items"]) - len(listed) if item_table is not None else 0
    if history_table is not None:
        seen = IdCounter()
        for batch in history_table.batches([schema.initial_history.items]):
            flat, _ = item_lists(batch.table.column(0), schema.initial_history.padding)
            seen.add(*unique_ids(flat))
        catalogues["items"] = catalogues["items"].extended(seen.merged()[0])
    user_rows = np.zeros(len(catalogues.get("users", ())), dtype=np.int64)
    if "users" in counters:
        ids, counts = counters["users"].merged()
        user_rows[catalogues["users"].encode_flat(ids)] = counts
    missing = tuple(name for name in (missing_items, missing_history) if name)
    return Outline(
        rows, catalogues, user_rows, len(listed) if item_table is not None else 0, unknown,
        last_day, times and times.taken(), item_table, history_table, missing,
    )  # fmt: skip


def _count(counter: IdCounter, batch: Batch, column: str, padding: Any = None) -> None:
    """Counts the ids of a column, or of its lists."""
    values = batch.table.column(column)
    flat = item_lists(values, padding)[0] if column_kind(values.type) == "list" else values
    try:
        counter.add(*unique_ids(flat))
    except ValueError as error:
        raise LogError(f"{batch.file}, column {column!r}: {error}") from None


class _Instants:
    """Instants of a stream with their rows: all, or those whose hashes lie below a bound.

    Which of them is left out depends on no order of the rows, and no instant is divided.
    """

    most = 1 << 17

    def __init__(self) -> None:
        self._shift = 0  # hashes of so many leading zero bits are kept
        self._counter = IdCounter()

    def add(self, values: np.ndarray) -> None:
        """Takes in the instants of some rows."""
        self._counter.add(*np.unique(values[self._kept(values)], return_counts=True))
        if self._counter.waiting > self.most:
            self.taken()

    def taken(self) -> tuple[np.ndarray, np.ndarray]:
        """Instants ascending, and their rows."""
        times, counts = self._counter.merged()
        while len(times) > self.most:
            self._shift += 1
            kept = self._kept(times)
            times, counts = times[kept], counts[kept]
        self._counter = IdCounter([(times, counts)] if len(times) else [])
        return times, counts

    def _kept(self, values: np.ndarray) -> np.ndarray:
        hashes = mix(values.astype(np.int64).view(np.uint64) + np.uint64(1))
        return hashes < np.uint64((1 << (64 - self._shift)) - 1)


def _instants(table: Any, schema: LogSchema, per_second: int) -> np.ndarray:
    """What orders a log's rows: their times, else their days."""
    if schema.time:
        return to_time(table.column(schema.time), per_second, TIME_UNITS[schema.time_unit])[0]
    return row_days(table, schema, per_second)


def _last_day(table: Any, schema: LogSchema, per_second: int) -> int | None:
    return int(row_days(table, schema, per_second).max()) if schema.date or schema.time else None
