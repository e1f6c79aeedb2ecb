"""A user's rows in order: where times leave it open, sessions and slates are put together."""

from __future__ import annotations

import numpy as np

from ..schema import LogSchema
from ..sources import LogError
from ..words import mix
from .job import Job

_OF_USER, _OF_SESSION = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def in_order(records: np.ndarray, schema: LogSchema) -> np.ndarray:
    """Records by user and time; at one instant by session, by slate and by place in the slate.

    Rows of one instant have no order of their own, so those of one group stand together: first
    what goes on from before, last what goes on afterwards, else as their content has it. The order
    of the log's rows counts in one case: within a slate whose places no column tells.
    """
    records = records.take(_by_instant(records, schema))  # ten times as fast as an index
    keys = [records["time"], records["user"]]
    for name in ("session", "slate"):
        if getattr(schema, name):
            keys = [*_tie_keys(group_ids(records, name, schema), records["time"]), *keys]
    if schema.slate and schema.position:
        keys = [records["position"], *keys]
    return records.take(np.lexsort(keys)) if len(keys) > 2 else records


def _by_instant(records: np.ndarray, schema: LogSchema) -> np.ndarray:
    """Order of rows by user and time, those of one instant by a hash of what they hold.

    Not by their items: a sequence of them would tell a model that the next number is greater.
    """
    order = np.lexsort((records["time"], records["user"]))
    user, time = records["user"][order], records["time"][order]
    there = np.flatnonzero(tied(user, time))
    if len(there) == 0:
        return order
    rows = order[there]
    if schema.slate and not schema.position:
        content = group_ids(records.take(rows), "slate", schema)  # as logged, within a slate
    elif "hash" in records.dtype.names:
        content = records["hash"][rows]
    elif 4 * len(rows) < len(records):
        content = _content(records.take(rows))
    else:  # whole records are dearer to gather than their hashes
        content = _content(records)[rows]
    instant = np.cumsum(~_as_before(user[there], time[there]), dtype=np.uint64)
    order[there] = rows[_within(np.append(np.uint64(0), instant), content)]
    return order


def _within(instant: np.ndarray, content: np.ndarray) -> np.ndarray:
    """A stable order by two uint64 keys, of which the first ascends: in one word, if it holds."""
    bits = np.uint64(max(int(instant[-1]).bit_length(), 1))
    key = (instant << (np.uint64(64) - bits)) | (content >> bits)
    order = np.argsort(key, kind="stable")
    key, content_there = key[order], content[order]
    cut_off = (key[1:] == key[:-1]) & (content_there[1:] != content_there[:-1])
    return np.lexsort((content, instant)) if cut_off.any() else order


def _content(records: np.ndarray) -> np.ndarray:
    """A uint64 hash of what records of one user and instant may differ in."""
    total = np.zeros(len(records), dtype=np.uint64)
    for name in records.dtype.names:
        if name in ("user", "time"):
            continue
        column = np.ascontiguousarray(records[name]).reshape(len(records), -1)
        for value in column.view(f"u{column.itemsize}").T:
            total ^= total >> np.uint64(32)
            total *= _OF_USER
            total += value
    return mix(total)


def tied(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Which rows share user and time with another, bool ``[N]``, of rows by user and time.

    >>> tied(np.array([0, 0, 0, 1]), np.array([5, 5, 6, 6])).tolist()
    [True, True, False, False]
    """
    same = _as_before(user, time)
    out = np.zeros(len(user), dtype=bool)
    out[1:] |= same
    out[:-1] |= same
    return out


def _as_before(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    return (user[1:] == user[:-1]) & (time[1:] == time[:-1])


def _tie_keys(ids: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's keys among those of its instant, the lesser one first, as ``lexsort`` takes them.

    The place of its group's first row, and whether the group goes on after the row's instant.
    """
    order = np.lexsort((time, ids))
    fresh = begins(ids[order])
    group = np.cumsum(fresh) - 1
    first = np.flatnonzero(fresh)
    last = np.append(first[1:], len(order))[: len(first)] - 1
    place, goes_on = np.empty(len(order), np.int64), np.empty(len(order), bool)
    place[order] = order[first][group]
    goes_on[order] = time[order[last]][group] > time[order]
    return place, goes_on


def group_ids(records: np.ndarray, name: str, schema: LogSchema) -> np.ndarray:
    """uint64 of each row's session or slate: a session's of its user, a slate's of both."""
    ids = records[name].copy()
    if name == "slate" and schema.session:
        ids ^= records["session"] * _OF_SESSION
    if schema.user:
        ids ^= records["user"].astype(np.uint64) * _OF_USER
    return ids


def begins(ids: np.ndarray, before: int | None = None) -> np.ndarray:
    """Where a run of rows of one group begins, bool ``[N]``; ``before`` is the row's before it."""
    fresh = np.ones(len(ids), dtype=bool)
    fresh[1:] = ids[1:] != ids[:-1]
    fresh[:1] = before is None or ids[:1] != before
    return fresh


def again(ids: np.ndarray) -> np.ndarray:
    """Rows at which a group begins that began before, ascending.

    >>> again(np.array([5, 7, 7, 5, 8, 7]))
    array([3, 5])
    """
    rows = np.flatnonzero(begins(ids))
    order = np.argsort(ids[rows], kind="stable")
    same = ids[rows[order[1:]]] == ids[rows[order[:-1]]]
    return np.sort(rows[order[1:][same]])


def check_slates(records: np.ndarray, ids: np.ndarray, job: Job) -> None:
    """Raises ``LogError`` where rows of one slate are interrupted by others: it would be cut."""
    schema, cut = job.schema, again(ids)
    if len(cut) == 0:
        return
    row = records[cut[0]]
    named = {"item": job.catalogues["items"].decode([row["item"]])[0]}
    if schema.user:
        named["user"] = job.catalogues["users"].decode([row["user"]])[0]
    if schema.time:
        named["time"] = int(row["time"])
    raise LogError(
        f"interleaved slates: {len(cut)} times a slate goes on after rows of another, first at "
        f"{', '.join(f'{name} {value!r}' for name, value in named.items())}; {advice(schema)}"
    )


def advice(schema: LogSchema) -> str:
    """What to do about interleaved slates."""
    if schema.by_user:
        return "give all rows of a slate one time, or leave `slate` out of the schema"
    return "write the rows of a slate one after another, or leave `slate` out of the schema"
