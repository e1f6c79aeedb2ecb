"""Which part of a log (train, test, ...) a row belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..catalogue import Catalogue
from ..schema.split import NO_SPLIT, Split
from .split import first_day, first_instant, latest_of_users


@dataclass(frozen=True)
class Parts:
    """A split by day, by instant, by user, by a draw, by a column, or none.

    Args:
        names: of the parts, by number; empty without a split.
        split: what was asked for.
        first_day: days since 1970, None where days do not decide.
        first_instant: in ticks of the records' times, None where they do not decide.
    """

    names: tuple[str, ...] = ()
    split: Split = NO_SPLIT
    first_day: int | None = None
    first_instant: int | None = None

    @classmethod
    def of_log(
        cls,
        split: Split,
        splits: Catalogue | None,
        days: tuple[int, int] | None,
        times: tuple[np.ndarray, np.ndarray] | None,
    ) -> Parts:
        """What ``split`` asks for, else the log's own split column.

        Args:
            split: checked against the schema.
            splits: the names in the split column, None without one.
            days: the log's first and last day since 1970, None where it has none.
            times: some of the log's instants, ascending, and the rows at each; None without any.
        """
        if not split.asked:
            named = splits.decode(range(len(splits))) if splits is not None else []
            return cls(tuple(str(name) for name in named))
        instant = first_instant(split, *times) if split.by_time and times is not None else None
        return cls(("train", "test"), split, first_day(split, days), instant)

    def of(self, records: np.ndarray) -> np.ndarray:
        """Number of each record's part, int64 ``[n]``; only where there are parts.

        Records stand by user and time, whole users, where the log has both.
        """
        if self.first_day is not None:
            return (records["day"] >= self.first_day).astype(np.int64)
        if self.first_instant is not None:
            time = "time" if "time" in records.dtype.names else "day"
            return (records[time] >= self.first_instant).astype(np.int64)
        if self.split.draws:
            return records["drawn"].astype(np.int64)
        if self.split.asked:
            return latest_of_users(self.split, records["user"], records["time"]).astype(np.int64)
        return records["split"].astype(np.int64)

    def train(self, records: np.ndarray) -> np.ndarray:
        """The rows that a quality signal may be fitted on, bool ``[n]``."""
        if "train" not in self.names:
            return np.ones(len(records), dtype=bool)
        return self.of(records) == self.names.index("train")

    def first_day_of(self, per_second: int, by_day: bool) -> int | None:
        """The day that the held-out rows begin with, in days since 1970; None without one.

        Args:
            per_second: ticks of the records' times.
            by_day: whether the log has dates alone, which are its instants then.
        """
        if self.first_day is not None or self.first_instant is None:
            return self.first_day
        return self.first_instant if by_day else self.first_instant // (86_400 * per_second)

    def starts(self, per_second: int, by_day: bool) -> str | None:
        """The first day, or instant, that is held out, as ISO 8601 says it; None without one."""
        day = self.first_day_of(per_second, by_day)
        if day is None:
            return None
        if self.first_day is not None or by_day:
            return str(np.datetime64(day, "D"))
        assert self.first_instant is not None
        return str(np.datetime64(self.first_instant // per_second, "s"))
