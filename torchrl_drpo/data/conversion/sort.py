"""One partition of a conversion: in order, freed of duplicates, cut into trajectories, stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..sources import LogError
from .groups import again, begins, check_slates, group_ids, in_order, tied
from .instants import history_ends
from .journal import Workspace
from .layout import REWARD, columns_of
from .parts import Parts
from .records import Encoder


@dataclass
class PartitionSorter:
    """Writes the columns of one partition after the other, except the reward.

    Args:
        encoder: knows the records' dtype.
        work: the conversion's files; counts are added to its state.
        parts: which part of the log a row belongs to.
    """

    encoder: Encoder
    work: Workspace
    parts: Parts

    def __post_init__(self) -> None:
        self.schema = self.encoder.schema
        self.columns = [c for c in columns_of(self.encoder) if c.key != REWARD]

    def sort(self, part: int, first_user: int, end_user: int) -> np.ndarray:
        """Orders one partition, appends its columns and returns its records."""
        state = self.work.state
        records = self.work.read(records_file(part), self.encoder.dtype)
        if self.schema.by_user:
            records = self._in_order(records)
            counts = np.bincount(records["user"] - first_user, minlength=end_user - first_user)
            self._index("user_offsets", state.rows + np.cumsum(counts) - counts)
            state.users += len(counts)
        self._append_rows(records)
        for place, name in enumerate(self.parts.names):
            rows = state.rows + np.flatnonzero(self.parts.of(records) == place)
            self._index(f"part-{place}", rows)
            state.parts[name] = state.parts.get(name, 0) + len(rows)
        self.work.append(sorted_file(part), records)
        self.work.drop(records_file(part))
        state.rows += len(records)
        return records

    def _in_order(self, records: np.ndarray) -> np.ndarray:
        """By user and time, ties by what they hold; free of exact duplicates."""
        records = in_order(records, self.schema)
        if not self.encoder.hashed:
            return records
        repeats = _repeats(records, bool(self.schema.session or self.schema.slate))
        if repeats.any() and self.schema.duplicates == "error":
            row = records[np.flatnonzero(repeats)[0]]
            user = self.encoder.catalogues["users"].decode([row["user"]])[0]
            item = self.encoder.catalogues["items"].decode([row["item"]])[0]
            raise LogError(
                f"exact duplicate rows, the first: user {user!r}, item {item!r}, time "
                f"{row['time']}; clean the log, or set duplicates='drop' in the schema"
            )
        self.work.state.duplicates += int(repeats.sum())
        return records[~repeats]

    def _append_rows(self, records: np.ndarray) -> None:
        state = self.work.state
        last = last_rows(records, self.encoder)
        values = {("next", "done"): last, ("next", "terminated"): self._ended(records, last)}
        if self.schema.by_user:
            first = np.append(True, last[:-1])[: len(last)]
            starts = np.flatnonzero(first)
            number = np.cumsum(first) - 1
            values["trajectory_id",] = state.trajectories + number
            values["step",] = np.arange(len(records)) - starts[number]
            self._index("trajectory_offsets", state.rows + starts)
            state.trajectories += len(starts)
        else:
            state.trajectories += len(records)
        if self.schema.session:
            state.sessions_cut += len(again(group_ids(records, "session", self.schema)))
        if self.schema.slate:
            ids = group_ids(records, "slate", self.schema)
            check_slates(records, ids, self.encoder)
            fresh = begins(ids, state.last_slate)
            state.last_slate = int(ids[-1]) if len(ids) else state.last_slate
            values["slate",] = state.slates + np.cumsum(fresh) - 1
            self._index("slate_offsets", state.rows + np.flatnonzero(fresh))
            state.slates += int(fresh.sum())
        if self.schema.by_user:
            self._histories(records)
        if self.schema.history:
            ends = state.history_items + np.cumsum(records["history"], dtype=np.int64)
            if not self.work.has("index/initial_offsets.bin"):
                self._index("initial_offsets", np.zeros(1))
            self._index("initial_offsets", ends)
            state.history_items += int(records["history"].sum())
        for column in self.columns:
            value = values[column.key] if column.field is None else records[column.field]
            self.work.append(column.file, value.astype(column.dtype))

    def _histories(self, records: np.ndarray) -> None:
        """Where each row's history ends; rows that do not enter histories are not counted."""
        state = self.work.state
        ends = history_ends(records, self.schema, self.encoder.per_second)
        state.tied_rows += int(tied(records["user"], records["time"]).sum())
        state.cut_histories += int((ends < np.arange(len(records))).sum())
        if self.schema.history_rows == "all":
            self._index("history_ends", state.rows + ends)
            return
        entered = np.append(0, np.cumsum(records["enters"]))
        self._index("history_ends", state.history_rows + entered[ends])
        self._index("history_before", state.history_rows + entered[1:])
        self.work.append("index/history_items.bin", records["item"][records["enters"]])
        state.history_rows += int(entered[-1])

    def _ended(self, records: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Ends for good: as logged; else a session's end is one, the mere end of a log is not."""
        if self.schema.terminal:
            return records["terminal"]
        if self.schema.by_user and not (self.schema.session or self.schema.session_gap):
            return np.zeros(len(records), dtype=bool)
        return last

    def _index(self, name: str, rows: np.ndarray) -> None:
        self.work.append(f"index/{name}.bin", rows.astype(np.int64))


def records_file(part: int) -> str:
    """Where a partition's records lie before they are sorted."""
    return f"parts/{part:05d}.rec"


def sorted_file(part: int) -> str:
    """Where they lie afterwards, until their quality is known."""
    return f"parts/{part:05d}.sorted"


def last_rows(records: np.ndarray, encoder: Encoder) -> np.ndarray:
    """Where trajectories end: at the user's end, a new session, a gap, a terminal row."""
    schema = encoder.schema
    last = np.ones(len(records), dtype=bool)
    if not schema.by_user or len(records) == 0:
        return last
    last[:-1] = records["user"][1:] != records["user"][:-1]
    if schema.session:
        last[:-1] |= records["session"][1:] != records["session"][:-1]
    if schema.session_gap is not None:
        last[:-1] |= np.diff(records["time"]) > schema.session_gap * encoder.per_second
    if schema.terminal:
        last |= records["terminal"]
    return last


def _repeats(records: np.ndarray, regrouped: bool) -> np.ndarray:
    """True for every row that equals an earlier one of the same user and time.

    Equals stand side by side in order, unless sessions or slates were put together since.
    """
    rows = np.flatnonzero(tied(records["user"], records["time"]))
    out = np.zeros(len(records), dtype=bool)
    if regrouped:
        keys = (records[name][rows] for name in ("hash", "time", "user"))
        rows = rows[np.lexsort(tuple(keys))]
    equal = np.ones(max(len(rows) - 1, 0), dtype=bool)
    for name in ("user", "time", "hash", "item"):
        value = records[name][rows]
        equal &= value[1:] == value[:-1]
    out[rows[1:][equal]] = True
    return out
