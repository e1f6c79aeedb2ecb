"""What is held out of a log: its last days, a share of its rows, or what a column of it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..schema import LogSchema
from ..sources import LogError

#: How a share is taken: the latest rows of the log, the latest of each user, or any.
SHARES_BY = ("time", "user", "random")


@dataclass(frozen=True)
class Split:
    """How the part ``"test"`` is told from ``"train"``; nothing is held out by default.

    Args:
        days: the last so many days, at least 1; or
        start: the first day, ``"YYYY-MM-DD"``; or
        share: about this share of the rows, in (0, 1),
        by: taken from the log's latest rows (``"time"``, which is what ``None`` means: rows of one
            instant stay together), from each user's latest (``"user"``: one row at least stays in
            training), or drawn (``"random"``) with
        seed: which a row's number in the log is mixed with.

    Raises:
        ValueError: for two ways at once, or a value out of its range.
    """

    days: int | None = None
    start: str | None = None
    share: float | None = None
    by: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        given = {f"test_{name}": getattr(self, name) for name in ("days", "start", "share")}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            raise ValueError(f"give {' or '.join(given)}, not both {tuple(given.values())}")
        if self.days is not None and self.days < 1:
            raise ValueError(f"test_days must be at least 1, got {self.days}")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"test_share must lie in (0, 1), got {self.share}")
        if self.by is not None and self.share is None:
            raise ValueError(f"test_by={self.by!r} says how a share is taken; give test_share too")
        if self.by not in (None, *SHARES_BY):
            raise ValueError(f"test_by must be one of {', '.join(SHARES_BY)}, got {self.by!r}")
        if self.start is not None:
            self.first_day(None)

    @property
    def asked(self) -> bool:
        """Whether anything is to be held out."""
        return not (self.days is None and self.start is None and self.share is None)

    @property
    def draws(self) -> bool:
        """Whether rows are drawn."""
        return self.by == "random"

    def check(self, schema: LogSchema) -> None:
        """Raises ``LogError`` where a log of this schema cannot be split so."""
        if not self.asked:
            return
        if schema.split:
            raise LogError(
                f"the schema's split column {schema.split!r} says what is held out, and test_days, "
                "test_start and test_share say it too; leave one of the two out"
            )
        if self.draws:
            return
        if self.by == "user":
            if not schema.by_user:
                raise LogError("each user's latest rows need `user` and `time` in the schema")
        elif not (schema.time or schema.date):
            raise LogError(
                "a split by day needs a `time` or `date` column in the schema; without one, name a "
                "`split` column, or hold out rows at random: test_share=0.2, test_by='random'"
            )

    def first_day(self, last_day: int | None) -> int | None:
        """First day held out, in days since 1970; None where days do not decide."""
        if self.start is not None:
            try:
                return int(np.datetime64(self.start, "D").astype(np.int64))
            except ValueError:
                raise ValueError(f"test_start must be YYYY-MM-DD, got {self.start!r}") from None
        if self.days is None or last_day is None:
            return None
        return last_day - self.days + 1

    def first_instant(self, times: np.ndarray) -> int:
        """The instant from which about ``share`` of the rows are, of times in any order.

        >>> Split(share=0.25).first_instant(np.arange(100))
        75
        """
        ordered = np.sort(times)
        assert self.share is not None
        first = int(ordered[min(int((1 - self.share) * len(ordered) + 0.5), len(ordered) - 1)])
        if first == ordered[0]:
            raise LogError(
                f"test_share={self.share} by time would hold out every row: so many share the "
                "log's first instant; hold out rows at random (test_by='random')"
            )
        return first

    def drawn(self, rows: np.ndarray) -> np.ndarray:
        """Which rows, by their numbers in the log, are held out at random, bool ``[n]``."""
        assert self.share is not None
        mixed = _mixed(_mixed(rows.astype(np.uint64)) ^ np.uint64(self.seed % 2**64))
        return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53 < self.share

    def latest_of_users(self, user: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Each user's latest rows, of rows by user and time, bool ``[n]``.

        An instant is never divided, and some row of every user stays out.
        """
        assert self.share is not None
        n = len(user)
        fresh = np.append(True, user[1:] != user[:-1])[:n]
        first = np.flatnonzero(fresh)
        counts = np.diff(np.append(first, n))
        wanted = np.minimum((self.share * counts + 0.5).astype(np.int64), counts - 1)
        instants = np.flatnonzero(fresh | np.append(True, time[1:] != time[:-1])[:n])
        instants = np.append(instants, n)
        begin = instants[np.searchsorted(instants, first + counts - wanted)]
        return np.arange(n) >= np.repeat(begin, counts)

    def describe(self, first: str | None) -> str:
        """What is held out, for people; ``first`` is the first day or instant."""
        if self.share is None:
            return f"rows from {first} on"
        share = f"{100 * self.share:g}% of the"
        if self.by == "user":
            return f"the latest {share} rows of each user"
        if self.draws:
            return f"{share} rows, drawn with seed {self.seed}"
        return f"the latest {share} rows, from {first} on"


#: Nothing is held out.
NO_SPLIT = Split()


def _mixed(words: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): neighbours become strangers."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
