"""Which rows of a log a :class:`~torchrl_drpo.data.schema.split.Split` holds out."""

from __future__ import annotations

import numpy as np

from ..schema import LogSchema
from ..schema.split import AUTO_DAYS, Split
from ..sources import LogError


def check_split(split: Split, schema: LogSchema) -> None:
    """Raises ``LogError`` where a log of this schema cannot be split so."""
    if split.inside is not None and not (split.asked or schema.split):
        raise LogError("validation rows are held out beside test rows; say which these are, too")
    if split.inside is not None and schema.split and split.inside.share is None:
        raise LogError(
            f"where the column {schema.split!r} says what is held out, validation rows are a share "
            "of the training rows: validation_share"
        )
    if not split.asked:
        return
    if schema.split and split.asked:
        raise LogError(
            f"the schema's split column {schema.split!r} says what is held out, and test_days, "
            "test_start and test_share say it too; leave one of the two out"
        )
    if split.draws:
        return
    if split.by == "user":
        if not schema.by_user:
            raise LogError("each user's latest rows need `user` and `time` in the schema")
    elif not (schema.time or schema.date):
        raise LogError(
            "a split by day needs a `time` or `date` column in the schema; without one, name a "
            "`split` column, or hold out rows at random: test_share=0.2, test_by='random'"
        )


def first_day(split: Split, days: tuple[int, int] | None) -> int | None:
    """First day held out, in days since 1970; None where days do not decide.

    Args:
        split: what is held out.
        days: the log's first and last, None where it has none.

    >>> [first_day(Split(days="auto"), (1, last)) for last in (1, 2, 3, 4, 5, 6, 30)]
    [1, 2, 3, 3, 4, 4, 28]
    """
    if split.start is not None:
        return int(np.datetime64(split.start, "D").astype(np.int64))
    if split.days is None:
        return None
    first, last = days or (0, 0)  # where no row has a day, none is kept
    auto = min(AUTO_DAYS, max(1, (last - first + 1) // 2))
    return last - (auto if split.days == "auto" else split.days) + 1


def first_instant(split: Split, times: np.ndarray, counts: np.ndarray) -> int:
    """The instant from which about ``share`` of the rows are.

    Args:
        split: says which share.
        times: instants, ascending, at least one.
        counts: rows at each of them.

    >>> first_instant(Split(share=0.25), np.arange(100), np.ones(100, dtype=int))
    75
    """
    assert split.share is not None
    upto = np.cumsum(counts)
    row = min(int((1 - split.share) * upto[-1] + 0.5), upto[-1] - 1)
    first = int(times[np.searchsorted(upto, row, side="right")])
    if first == times[0]:
        raise LogError(
            f"test_share={split.share} by time would hold out every row: so many share the "
            "log's first instant; hold out rows at random (test_by='random')"
        )
    return first


def drawn(split: Split, rows: np.ndarray) -> np.ndarray:
    """Which rows, by their numbers or hashes, are held out at random, bool ``[n]``."""
    assert split.share is not None
    mixed = _mixed(_mixed(rows.astype(np.uint64)) ^ np.uint64(split.seed % 2**64))
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53 < split.share


def latest_of_users(split: Split, user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Each user's latest rows, of rows by user and time, bool ``[n]``.

    An instant is never divided, and some row of every user stays out.
    """
    assert split.share is not None
    n = len(user)
    fresh = np.append(True, user[1:] != user[:-1])[:n]
    first = np.flatnonzero(fresh)
    counts = np.diff(np.append(first, n))
    wanted = np.minimum((split.share * counts + 0.5).astype(np.int64), counts - 1)
    instants = np.flatnonzero(fresh | np.append(True, time[1:] != time[:-1])[:n])
    instants = np.append(instants, n)
    begin = instants[np.searchsorted(instants, first + counts - wanted)]
    return np.arange(n) >= np.repeat(begin, counts)


def _mixed(words: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): neighbours become strangers."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
