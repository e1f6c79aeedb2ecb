"""Sessions and slates within a user's rows: put together where times leave it open, told if cut."""

from __future__ import annotations

import numpy as np

from ..schema import LogSchema
from ..sources import LogError
from .job import Job

_OF_USER, _OF_SESSION = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


def in_order(records: np.ndarray, schema: LogSchema) -> np.ndarray:
    """Records by user and time; at one instant by session, by slate and by place in the slate.

    Rows of one instant have no order of their own, so those of one group stand together: first
    what goes on from before, last what goes on afterwards, else in the log's order.
    """
    records = records[np.lexsort((records["time"], records["user"]))]
    keys = [records["time"], records["user"]]
    for name in ("session", "slate"):
        if getattr(schema, name):
            keys = [*_tie_keys(group_ids(records, name, schema), records["time"]), *keys]
    if schema.slate and schema.position:
        keys = [records["position"], *keys]
    return records[np.lexsort(keys)] if len(keys) > 2 else records


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
