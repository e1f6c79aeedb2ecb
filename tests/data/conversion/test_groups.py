"""Slates and sessions: rows of one instant are put together; where one is cut, that is told."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl_drpo.data import LogError, LogSchema, RecReplayBuffer, convert_log, validate_log
from torchrl_drpo.data.conversion.groups import again, group_ids, in_order
from torchrl_drpo.data.validation.spans import Spans

SCHEMA = LogSchema(user="u", item="i", time="t", quality="r", duplicates="keep")
SLATES = SCHEMA.replace(slate="s")
ROW = st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 3))  # user, time, group


def whole(order: list[int], groups: list[int]) -> bool:
    """Whether each group stands in one piece."""
    runs = [group for group, _ in itertools.groupby(groups[k] for k in order)]
    return len(runs) == len(set(runs))


def can_be_ordered(rows: list[tuple[int, int, int]]) -> bool:
    """By trying every order of the rows of one instant."""
    for user in {user for user, _, _ in rows}:
        mine = [(time, group) for who, time, group in rows if who == user]
        instants = [
            sorted(set(itertools.permutations(g for t, g in mine if t == time)))
            for time in sorted({time for time, _ in mine})
        ]
        tries = (list(itertools.chain(*each)) for each in itertools.product(*instants))
        if not any(whole(list(range(len(groups))), groups) for groups in tries):
            return False
    return True


@settings(deadline=None, max_examples=300)
@given(rows=st.lists(ROW, min_size=1, max_size=9))
def test_groups_stay_whole_where_times_allow_it(rows):
    dtype = [("user", "i4"), ("time", "i8"), ("slate", "u8"), ("session", "u8"), ("log", "i8")]
    records = np.array([(u, t, g, g, k) for k, (u, t, g) in enumerate(rows)], dtype=dtype)
    for name in ("slate", "session"):
        schema = SCHEMA.replace(**{name: "s"})
        ordered = in_order(records, schema)
        # by user and time, and in the log's own order within a slate; else in no order of the log
        assert (ordered == ordered[np.lexsort((ordered["time"], ordered["user"]))]).all()
        same = ["user", "time", name]
        for one, other in itertools.pairwise(ordered):
            assert name != "slate" or (one[same] != other[same]) or one["log"] < other["log"]
        again_ordered = in_order(records[::-1], schema)
        content = ["user", "time", name] if name == "slate" else list(records.dtype.names)
        assert (ordered[content] == again_ordered[content]).all()
        ids = group_ids(ordered, name, schema)
        spans = Spans()
        for piece in np.array_split(records, 2):  # validation sees batches, in the log's order
            spans.add(piece["user"], group_ids(piece, name, schema), piece["time"], piece["log"])
        possible = can_be_ordered(rows)
        assert (len(again(ids)) == 0) == possible == (len(spans.interrupted()) == 0)


def table(**columns) -> pa.Table:
    rows = len(next(iter(columns.values())))
    return pa.table({"u": [1] * rows, "i": list(range(rows)), "t": list(range(rows)),
                     "r": [0.0] * rows, **columns})  # fmt: skip


@pytest.mark.parametrize("position", [None, "p"])
def test_carousels_of_one_page_are_slates(position):
    """Logged alternately at one instant; each in the order of its places."""
    log = table(s=["A", "B", "A", "B"], t=[5] * 4, p=[1, 1, 0, 0])
    schema = SLATES.replace(position=position)
    buffer = RecReplayBuffer.from_parquet(log, schema)
    assert buffer[:]["slate"].tolist() == [0, 0, 1, 1]
    found = buffer.items.decode(buffer[:]["action"])
    slates = [[2, 0], [3, 1]] if position else [[0, 2], [1, 3]]
    assert sorted([found[:2], found[2:]]) == slates
    assert validate_log(log, schema).ok


def test_interleaved_slates_are_refused_and_counted():
    log = table(s=["A", "B", "A", "B", "C"])
    with pytest.raises(
        LogError, match=r"interleaved slates: 2 times .* item 2, user 1, time 2; give"
    ):
        RecReplayBuffer.from_parquet(log, SLATES)
    fault = validate_log(log, SLATES).fault("interleaved slates")
    assert (fault.severity, fault.count) == ("error", 1)  # B begins within A
    assert fault.examples == [{"file": "the table", "row": 1}]
    by_session = SLATES.replace(session="e")  # an id that begins anew with every session
    numbered = table(s=[0, 1, 0, 1], e=["x", "x", "y", "y"])
    assert RecReplayBuffer.from_parquet(numbered, by_session).report.slates == 4
    assert validate_log(numbered, by_session).ok


def test_so_are_those_of_a_log_without_times():
    log = table(s=["A", "B", "A", "B"]).drop_columns(["u", "t"])
    schema = SLATES.replace(user=None, time=None)
    with pytest.raises(LogError, match=r"first at item 2; write the rows of a slate one after"):
        RecReplayBuffer.from_parquet(log, schema)
    assert validate_log(log, schema).fault("interleaved slates").count == 1
    together = log.set_column(2, "s", pa.array(["B", "B", "A", "A"]))
    assert RecReplayBuffer.from_parquet(together, schema)[:]["slate"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("has_user", [True, False])
def test_a_slate_is_whole_where_one_partition_meets_the_next(tmp_path, has_user):
    sizes = [3, 5, 1, 4, 7]
    slates = [name for name, size in zip("ABCDE", sizes, strict=True) for _ in range(size)]
    log = table(s=slates).drop_columns(["t"] if has_user else ["u", "t"])
    pq.write_table(log, tmp_path / "log.parquet")
    schema = SLATES.replace(user="u" if has_user else None, time=None)
    expected = np.repeat(np.arange(5), sizes).tolist()
    for rows in (2, 3, 4, 100):
        root = tmp_path / str(rows)
        report = convert_log(
            tmp_path / "log.parquet", root, schema, batch_rows=rows, partition_rows=rows
        )
        assert report.slates == 5
        assert RecReplayBuffer.open(root)[:]["slate"].tolist() == expected


def test_sessions_that_others_interrupt_are_counted():
    log = table(s=["x", "y", "x", "y", "z"])
    schema = SCHEMA.replace(session="s")
    buffer = RecReplayBuffer.from_parquet(log, schema)
    assert (buffer.report.sessions_cut, buffer.report.trajectories) == (2, 5)
    fault = validate_log(log, schema).fault("interleaved sessions")
    assert (fault.severity, fault.count) == ("warning", 1)
    at_once = log.set_column(2, "t", pa.array([1, 1, 1, 1, 2]))
    buffer = RecReplayBuffer.from_parquet(at_once, schema)
    assert (buffer.report.sessions_cut, buffer.report.trajectories) == (0, 3)


@pytest.mark.parametrize("role", ["session", "slate"])
@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["A", None, None, "B"]),
        pa.array([7, None, None, 8]),
        pa.array([7.0, np.nan, None, 8.0]),
        pa.array(["A", "", None, "B"]),
        pa.array(["A", None, None, "B"]).dictionary_encode(),
    ],
)
def test_a_missing_id_is_no_group(ids, role):
    schema = SCHEMA.replace(**{role: "s"})
    with pytest.raises(LogError, match="row 1: missing id: s is null"):
        RecReplayBuffer.from_parquet(table(s=ids), schema)
    kept = RecReplayBuffer.from_parquet(table(s=ids), schema, bad_rows="drop")
    assert (len(kept), kept.report.dropped) == (2, {"missing id in s": 2})
    assert validate_log(table(s=ids), schema).fault("missing id").count == 2


def test_names_that_are_probably_none_are_told():
    frame = pd.DataFrame({"u": ["ann", "NULL"], "i": ["a", "nan"], "t": [1, 2], "r": [1.0, 1.0]})
    report, kind = validate_log(frame, SCHEMA), "ids that read as missing"
    assert {fault.column for fault in report.faults if fault.kind == kind} == {"u", "i"}
    assert report.fault(kind, "u").examples == [{"ids": "users", "value": "NULL"}]
    assert report.fault(kind, "i").examples == [{"ids": "items", "value": "nan"}]
    lists = pd.DataFrame({"i": [5, 6], "r": [1.0, 0.0], "h": [[0, 6], [0, 0]]})
    schema = LogSchema(item="i", quality="r", history="h", duplicates="keep")
    assert (
        "history_padding=0"
        in validate_log(lists, schema).fault("item 0 is in histories alone").advice
    )
    assert validate_log(lists, schema.replace(history_padding=0)).faults == []
    shown = lists.assign(i=[5, 0])  # an item like any other
    assert validate_log(shown, schema).faults == []
