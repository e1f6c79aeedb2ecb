"""Which part of a log (train, test, ...) a row belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..catalogue import Catalogue
from ..schema.split import NO_SPLIT, Split
from ..sources import LogError
from .split import first_day, first_instant, latest_of_users

#: The part that settings are chosen on.
VALIDATION = "validation"


@dataclass(frozen=True)
class Parts:
    """A split by day, by instant, by user, by a draw, by a column, or none.

    Args:
        names: of the parts, by number; empty without a split.
        split: what was asked for.
        first_day: days since 1970, None where days do not decide.
        first_instant: in ticks of the records' times, None where they do not decide.
        inside: of the rows in training, which stay there and which become the last part.
        draw: the records' field that says which were drawn.
    """

    names: tuple[str, ...] = ()
    split: Split = NO_SPLIT
    first_day: int | None = None
    first_instant: int | None = None
    inside: Parts | None = None
    draw: str = "drawn"

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
            return cls(tuple(str(name) for name in named))._with_inside(split, days, times)
        instant = first_instant(split, *times) if split.by_time and times is not None else None
        found = cls(("train", "test"), split, first_day(split, days), instant)
        return found._with_inside(split, days, times)

    def _with_inside(
        self,
        split: Split,
        days: tuple[int, int] | None,
        times: tuple[np.ndarray, np.ndarray] | None,
    ) -> Parts:
        """The same parts, and one of validation where ``split`` asks for it."""
        if split.inside is None:
            return self
        if VALIDATION in self.names or "train" not in self.names:
            raise LogError(
                f"rows in training cannot become {VALIDATION!r}: the log's parts are "
                f"{', '.join(self.names) or 'none'}"
            )
        if days is not None and self.first_day is not None:
            days = days[0], self.first_day - 1
        instant = None
        if split.inside.by_time and times is not None and self.first_instant is not None:
            before = times[0] < self.first_instant
            instant = first_instant(split.inside, times[0][before], times[1][before])
        inside = Parts(
            ("train", VALIDATION),
            split.inside,
            first_day(split.inside, days),
            instant,
            draw="drawn_inside",
        )
        return replace(self, names=(*self.names, VALIDATION), inside=inside)

    def of(self, records: np.ndarray) -> np.ndarray:
        """Number of each record's part, int64 ``[n]``; only where there are parts.

        Records stand by user and time, whole users, where the log has both.
        """
        part = self._of_all(records)
        if self.inside is None:
            return part
        train = np.flatnonzero(part == self.names.index("train"))
        held_out = self.inside.of(records[train]) == 1
        part[train[held_out]] = len(self.names) - 1
        return part

    def _of_all(self, records: np.ndarray) -> np.ndarray:
        """As if there were none inside another."""
        if self.first_day is not None:
            return (records["day"] >= self.first_day).astype(np.int64)
        if self.first_instant is not None:
            time = "time" if "time" in records.dtype.names else "day"
            return (records[time] >= self.first_instant).astype(np.int64)
        if self.split.draws:
            return records[self.draw].astype(np.int64)
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
