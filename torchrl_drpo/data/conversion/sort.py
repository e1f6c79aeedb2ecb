"""One partition of a conversion: sorted, freed of duplicates, cut into trajectories, scored."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..schema import Percentile, ReturnToGo, RewardFormula
from ..schema.quality import USER
from ..sources import LogError
from ..store.columns import append, cut
from .journal import Progress
from .layout import columns_of
from .percentiles import FittedPercentile
from .quality import discounted_returns, midrank
from .records import Encoder


@dataclass
class PartitionSorter:
    """Writes the columns of one partition after the other; a partition is redone if cut short.

    Args:
        encoder: knows the records' dtype.
        work: folder of the conversion.
        state: the conversion's progress; counts are added to it.
        first_test_day: days since 1970, None without a split by day.
    """

    encoder: Encoder
    work: Path
    state: Progress
    first_test_day: int | None

    def __post_init__(self) -> None:
        self.schema = self.encoder.schema
        self.columns = columns_of(self.encoder)
        names = self.encoder.catalogues.get("splits")
        self.part_names = [str(n) for n in names.decode(range(len(names)))] if names else []
        if self.first_test_day is not None:
            self.part_names = ["train", "test"]
        self._cut_back()

    def sort(self, part: int, first_user: int, end_user: int) -> None:
        """Orders one partition and appends its columns, except the reward."""
        path = self.work / "parts" / f"{part:05d}.rec"
        records = (
            np.fromfile(path, dtype=self.encoder.dtype)
            if path.is_file()
            else np.empty(0, dtype=self.encoder.dtype)
        )
        if self.schema.by_user:
            records = self._in_order(records)
            counts = np.bincount(records["user"] - first_user, minlength=end_user - first_user)
            starts = self.state.rows + np.cumsum(counts) - counts
            self._index("user_offsets", starts)
            self.state.users += len(starts)
        self._append_rows(records)
        self._append_parts(records)
        if isinstance(self.schema.quality, Percentile):
            self._fit(records, part)
        sorted_path = self.work / "parts" / f"{part:05d}.sorted"
        temporary = sorted_path.with_suffix(".tmp")
        records.tofile(temporary)
        os.replace(temporary, sorted_path)
        self.state.rows += len(records)

    def score(self, part: int, first_user: int, end_user: int) -> None:
        """Computes the quality of one sorted partition and appends it as the reward."""
        path = self.work / "parts" / f"{part:05d}.sorted"
        records = np.fromfile(path, dtype=self.encoder.dtype)
        quality = self.schema.quality
        if isinstance(quality, RewardFormula):
            reward = records["value"]
        elif isinstance(quality, ReturnToGo):
            last = self._last_rows(records)
            train = self._train(records)
            last[:-1] |= train[:-1] != train[1:]  # a training row's return ends with the period
            reward = discounted_returns(records["value"], last, quality.gamma)
        else:
            reward = self._percentiles(records, quality)
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(reward.astype(np.float32))
        if bad.any():
            raise LogError(
                f"{int(bad.sum())} rewards do not fit float32, the first is "
                f"{reward[np.flatnonzero(bad)[0]]}; scale the formula down"
            )
        append(self.work / "rows" / "next" / "reward.memmap", reward.astype(np.float32))
        self.state.scored_rows += len(records)

    def _in_order(self, records: np.ndarray) -> np.ndarray:
        """By user, time and position in the slate; ties keep the log's own order."""
        keys = (records["time"], records["user"])
        keys = (records["position"], *keys) if self.schema.slate and self.schema.position else keys
        records = records[np.lexsort(keys)]
        if not self.encoder.hashed:
            return records
        repeats = _repeats(records)
        if repeats.any() and self.schema.duplicates == "error":
            row = records[np.flatnonzero(repeats)[0]]
            user = self.encoder.catalogues["users"].decode([row["user"]])[0]
            item = self.encoder.catalogues["items"].decode([row["item"]])[0]
            raise LogError(
                f"exact duplicate rows, the first: user {user!r}, item {item!r}, time "
                f"{row['time']}; clean the log, or set duplicates='drop' in the schema"
            )
        self.state.duplicates += int(repeats.sum())
        return records[~repeats]

    def _last_rows(self, records: np.ndarray) -> np.ndarray:
        """Where trajectories end: at the user's end, a new session, a gap, a terminal row."""
        last = np.ones(len(records), dtype=bool)
        if not self.schema.by_user or len(records) == 0:
            return last
        last[:-1] = records["user"][1:] != records["user"][:-1]
        if self.schema.session:
            last[:-1] |= records["session"][1:] != records["session"][:-1]
        if self.schema.session_gap is not None:
            gap = self.schema.session_gap * self.encoder.per_second
            last[:-1] |= np.diff(records["time"]) > gap
        if self.schema.terminal:
            last |= records["terminal"]
        return last

    def _append_rows(self, records: np.ndarray) -> None:
        last = self._last_rows(records)
        values: dict[str, Any] = {"next.done": last, "next.terminated": self._ended(records, last)}
        if self.schema.by_user:
            first = np.append(True, last[:-1])[: len(last)]
            starts = np.flatnonzero(first)
            number = np.cumsum(first) - 1
            values["trajectory_id"] = self.state.trajectories + number
            values["step"] = np.arange(len(records)) - starts[number]
            self._index("trajectory_offsets", self.state.rows + starts)
            self.state.trajectories += len(starts)
        else:
            self.state.trajectories += len(records)
        if self.schema.slate:
            fresh = np.append(True, records["slate"][1:] != records["slate"][:-1])[: len(records)]
            if self.schema.user:
                fresh[1:] |= records["user"][1:] != records["user"][:-1]
            values["slate"] = self.state.slates + np.cumsum(fresh) - 1
            self._index("slate_offsets", self.state.rows + np.flatnonzero(fresh))
            self.state.slates += int(fresh.sum())
        if self.schema.history:
            ends = self.state.history_items + np.cumsum(records["history"], dtype=np.int64)
            self._index("initial_offsets", ends if self.state.rows else np.append(0, ends))
            self.state.history_items += int(records["history"].sum())
        fields = {"action": "item", "observation.context": "context"}
        fields |= {"observation.features": "features"}
        fields |= {name: f"label.{name}" for name in self.schema.labels}
        for key, (dtype, _) in self.columns.items():
            if key != "next.reward":
                column = values[key] if key in values else records[fields.get(key, key)]
                append(self._column_path(key), column.astype(dtype))

    def _ended(self, records: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Ends for good: as logged; else a session's end is one, the mere end of a log is not."""
        if self.schema.terminal:
            return records["terminal"]
        if self.schema.by_user and not (self.schema.session or self.schema.session_gap):
            return np.zeros(len(records), dtype=bool)
        return last

    def _train(self, records: np.ndarray) -> np.ndarray:
        """The rows that a quality signal may be fitted on."""
        if self.first_test_day is not None:
            return records["day"] < self.first_test_day
        if self.schema.split and "train" in self.part_names:
            return records["split"] == self.part_names.index("train")
        return np.ones(len(records), dtype=bool)

    def _append_parts(self, records: np.ndarray) -> None:
        if not self.part_names:
            return
        if self.first_test_day is not None:
            number = (records["day"] >= self.first_test_day).astype(np.int64)
        else:
            number = records["split"]
        for place, name in enumerate(self.part_names):
            rows = self.state.rows + np.flatnonzero(number == place)
            self._index(f"part_{name}", rows)
            self.state.parts[name] = self.state.parts.get(name, 0) + len(rows)

    def _fit(self, records: np.ndarray, part: int) -> None:
        fitted = self._load_fit(part)
        train = self._train(records)
        if train.any():
            fitted.update(_keys(records)[train], records["value"][train])
        fitted.save(self._fit_path(part + 1))
        for old in range(part):  # the previous one stays until the journal names this one
            self._fit_path(old).unlink(missing_ok=True)

    def _fit_path(self, part: int) -> Path:
        return self.work / "parts" / f"quality-{part:05d}.npy"

    def _load_fit(self, part: int) -> FittedPercentile:
        fitted = FittedPercentile(self.schema.quality)
        if part > 0:
            fitted.load(self._fit_path(part))
        return fitted

    def _percentiles(self, records: np.ndarray, quality: Percentile) -> np.ndarray:
        keys, value = _keys(records), records["value"]
        finest = None
        if USER in quality.by:
            group = np.unique(
                np.column_stack([records["user"], keys]), axis=0, return_inverse=True
            )[1].ravel()
            train = self._train(records)
            finest = midrank(group[train], value[train], group, value)
        fitted = self._load_fit(self.state.sorted)
        fitted.save(self.work / "index" / "quality.npy")
        return fitted.transform(keys, value, finest)

    def _column_path(self, key: str) -> Path:
        return (self.work / "rows").joinpath(*key.split(".")).with_suffix(".memmap")

    def _index(self, name: str, rows: np.ndarray) -> None:
        append(self.work / "index" / f"{name}.bin", rows.astype(np.int64))

    def _cut_back(self) -> None:
        """Drops what a killed run appended after its last journal entry."""
        state, index = self.state, self.work / "index"
        for key, (dtype, shape) in self.columns.items():
            rows = state.scored_rows if key == "next.reward" else state.rows
            size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
            cut(self._column_path(key), rows * size)
        if self.schema.by_user:
            cut(index / "trajectory_offsets.bin", 8 * state.trajectories)
            cut(index / "user_offsets.bin", 8 * state.users)
        if self.schema.slate:
            cut(index / "slate_offsets.bin", 8 * state.slates)
        if self.schema.history:
            cut(index / "initial_offsets.bin", 8 * (state.rows + (state.rows > 0)))
        for name in self.part_names:
            cut(index / f"part_{name}.bin", 8 * state.parts.get(name, 0))


def _keys(records: np.ndarray) -> np.ndarray:
    if "keys" not in records.dtype.names:
        return np.zeros((len(records), 0), dtype=np.int64)
    return records["keys"].astype(np.int64)


def _repeats(records: np.ndarray) -> np.ndarray:
    """True for every row that equals an earlier one of the same user and time."""
    same = np.zeros(len(records) + 1, dtype=bool)
    same[1:-1] = (records["time"][1:] == records["time"][:-1]) & (
        records["user"][1:] == records["user"][:-1]
    )
    tied = np.flatnonzero(same[1:] | same[:-1])  # rows that share user and time with a neighbour
    out = np.zeros(len(records), dtype=bool)
    chosen = records[tied]
    order = np.lexsort((chosen["hash"], chosen["time"], chosen["user"]))
    ordered = chosen[order]
    equal = np.ones(max(len(ordered) - 1, 0), dtype=bool)
    for name in ("user", "time", "hash", "item"):
        equal &= ordered[name][1:] == ordered[name][:-1]
    out[tied[order[1:][equal]]] = True
    return out
