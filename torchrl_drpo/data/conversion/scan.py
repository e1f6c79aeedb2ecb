"""The first pass over a log: catalogues of ids, rows of each user, the period it covers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..catalogue import Catalogue
from ..ids import Ids
from ..schema import LogSchema
from ..schema.checks import TIME_UNITS
from ..schema.split import NO_SPLIT, Split
from ..sources import Batch, LogError, LogSource
from ..sources.arrow import item_lists, to_time, unique_ids
from ..sources.kinds import column_kind
from ..sources.splits import InputSplit
from .days import row_days
from .executors import Map
from .ids import IdCounter
from .opening import agree_on_ids
from .roles import NO_DAY, check_kinds, id_columns, time_resolution
from .side_tables import listed_items, side_table
from .times import Instants

SPLIT_ROWS = 1 << 22


@dataclass
class Outline:
    """What the first pass found.

    Args:
        rows: rows of the log.
        catalogues: numbers of ids by the names of ``id_columns``.
        user_rows: int64 ``[users]``, rows of each user by his number (empty without users).
        listed_items: size of the item table (their numbers come first), zero without one.
        unknown_items: logged items that the item table lacks.
        days: first and last day of the log in days since 1970, None without times.
        times: some of its instants in ticks (days, without a time column), ascending, and how many
            rows each has; None where no share by time is asked for.
        item_table: the item table's source, None where there is none.
        history_table: the initial histories' source, None where there is none.
        missing: optional tables that were not there.
        splits: the log in splits.
        split_rows: rows of each.
        split_batches: batches of each.
    """

    rows: int
    catalogues: dict[str, Catalogue]
    user_rows: np.ndarray
    listed_items: int
    unknown_items: int
    days: tuple[int, int] | None
    times: tuple[np.ndarray, np.ndarray] | None
    item_table: LogSource | None
    history_table: LogSource | None
    missing: tuple[str, ...]
    splits: list[InputSplit]
    split_rows: list[int]
    split_batches: list[int]


@dataclass
class Found:
    """What a split holds.

    Args:
        rows: of it.
        batches: in which they come.
        ids: distinct ids, ascending, and their counts, by the names of ``id_columns``.
        days: first and last, since 1970; None without times.
        times: some of its instants, None where they were not wanted.
    """

    rows: int
    batches: int
    ids: dict[str, tuple[Ids, np.ndarray]]
    days: tuple[int, int] | None
    times: Instants | None


def scan_log(
    source: LogSource,
    schema: LogSchema,
    known: Mapping[str, Catalogue] | None = None,
    split: Split = NO_SPLIT,
    *,
    splits: list[InputSplit] | None = None,
    do: Map = map,
    progress: Callable[[int, int], None] | None = None,
) -> Outline:
    """Reads the id and time columns once.

    Args:
        source: the log.
        schema: what the columns mean.
        known: catalogues whose numbers are kept; new ids come behind them.
        split: what will be held out; instants are gathered where a share by time is.
        splits: the log's; about ``SPLIT_ROWS`` rows each by default.
        do: maps a function over the splits.
        progress: called as ``progress(splits done, splits)``.

    Raises:
        LogError: if columns are missing, of a wrong kind, or no row is there.
    """
    named = id_columns(schema)
    kinds = source.kinds(schema.columns, list(named.values()))
    check_kinds(schema, kinds)
    agree_on_ids(source, schema, known)
    per_second = time_resolution(schema, kinds)
    source.columns.text_types()  # found out once, not by every worker
    splits = splits or source.splits(SPLIT_ROWS)
    scan = partial(scan_split, source, schema, per_second, split.by_time)
    counters = {name: IdCounter() for name in named}
    times = Instants() if split.by_time and (schema.time or schema.date) else None
    scanned = []
    for found in do(scan, splits):
        scanned.append(_taken_in(found, source, counters, times))
        if progress is not None:
            progress(len(scanned), len(splits))
    rows = sum(found.rows for found in scanned)
    days = [day for found in scanned for day in found.days or ()]
    if rows == 0:
        raise LogError(f"the log has no rows: {', '.join(source.files) or 'an empty table'}")
    item_table, missing_items = side_table(source, schema.items)
    history_table, missing_history = side_table(source, schema.initial_history)
    known, empty = known or {}, Catalogue([])
    catalogues = {
        name: known.get(name, empty).extended(counter.merged()[0])
        for name, counter in counters.items()
        if name != "items"
    }
    listed = known.get("items", empty).extended(listed_items(schema, item_table))
    catalogues["items"] = listed.extended(counters["items"].merged()[0])
    unknown = len(catalogues["items"]) - len(listed) if item_table is not None else 0
    if history_table is not None:
        earlier = _items_of_histories(schema, history_table)
        catalogues["items"] = catalogues["items"].extended(earlier)
    user_rows = np.zeros(len(catalogues.get("users", ())), dtype=np.int64)
    if "users" in counters:
        ids, counts = counters["users"].merged()
        user_rows[catalogues["users"].encode_flat(ids)] = counts
    missing = tuple(name for name in (missing_items, missing_history) if name)
    return Outline(
        rows, catalogues, user_rows, len(listed) if item_table is not None else 0, unknown,
        (min(days), max(days)) if days else None, times and times.taken(),
        item_table, history_table, missing,
        splits, [found.rows for found in scanned], [found.batches for found in scanned],
    )  # fmt: skip


def _taken_in(
    found: Found, source: LogSource, counters: dict[str, IdCounter], times: Instants | None
) -> Found:
    """A split's counts without its ids and instants, which are added to those of all."""
    for name, (ids, counts) in found.ids.items():
        with _named(f"{source.name}, {name}"):
            counters[name].add(ids, counts)
    if times is not None and found.times is not None:
        times.merge(found.times)
    found.ids, found.times = {}, None  # held once
    return found


def _items_of_histories(schema: LogSchema, table: LogSource) -> Ids:
    """Items of what users did before the log begins, ascending."""
    seen = IdCounter()
    for batch in table.batches([schema.initial_history.items]):
        flat, _ = item_lists(batch.table.column(0), schema.initial_history.padding)
        seen.add(*unique_ids(flat))
    return seen.merged()[0]


def _count(counter: IdCounter, batch: Batch, column: str, padding: Any = None) -> None:
    """Counts the ids of a column, or of its lists."""
    values = batch.table.column(column)
    flat = item_lists(values, padding)[0] if column_kind(values.type) == "list" else values
    with _named(f"{batch.file}, column {column!r}"):
        counter.add(*unique_ids(flat))


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Says where the ids are that cannot be numbered together."""
    try:
        yield
    except ValueError as error:
        raise LogError(f"{where}: {error}") from None


def scan_split(
    source: LogSource, schema: LogSchema, per_second: int, by_time: bool, split: InputSplit
) -> Found:
    """Counts the ids and rows of a split, and its instants where they are wanted."""
    named = id_columns(schema)
    counters = {name: IdCounter() for name in named}
    columns = list(dict.fromkeys([*named.values(), schema.time, schema.date, schema.history]))
    times = Instants() if by_time and (schema.time or schema.date) else None
    found = Found(0, 0, {}, None, times)
    for batch in source.batches([name for name in columns if name is not None], split):
        found.batches += 1
        found.rows += batch.table.num_rows
        for name, column in named.items():
            _count(counters[name], batch, column)
        if schema.history:
            _count(counters["items"], batch, schema.history, schema.history_padding)
        if times is not None:
            times.add(*np.unique(_instants(batch.table, schema, per_second), return_counts=True))
        if schema.time or schema.date:
            found.days = _spanned(row_days(batch.table, schema, per_second), found.days)
    found.ids = {name: counter.merged() for name, counter in counters.items()}
    return found


def _instants(table: Any, schema: LogSchema, per_second: int) -> np.ndarray:
    """What orders a log's rows: their times, else their days."""
    if schema.time:
        return to_time(table.column(schema.time), per_second, TIME_UNITS[schema.time_unit])[0]
    return row_days(table, schema, per_second)


def _spanned(days: np.ndarray, known: tuple[int, int] | None) -> tuple[int, int] | None:
    """First and last of days, and of those that are known; rows without one do not count."""
    days = days[days != NO_DAY]
    if len(days) == 0:
        return known
    first, last = int(days.min()), int(days.max())
    return (first, last) if known is None else (min(first, known[0]), max(last, known[1]))
