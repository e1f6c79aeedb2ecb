"""Columns of several files: one meaning, whichever file comes first and however it was written."""

from __future__ import annotations

import decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrl_drpo.data import (
    InitialHistory,
    ItemTable,
    LogError,
    LogSchema,
    RecReplayBuffer,
    convert_log,
    validate_log,
)

SCHEMA = LogSchema(user="u", item="i", time="t", quality="r")
ROWS = {"u": [1, 1, 2], "i": [10, 11, 10], "t": [5, 7, 6], "r": [0, 1, 2]}


def save(path: Path, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({**ROWS, **columns})
    if path.suffix == ".csv":
        table.to_pandas().to_csv(path, index=False)
    else:
        pq.write_table(table, path)
    return path


WRITTEN = [
    pa.array([0, 1, 2], pa.int8()),
    pa.array([0, 1, 2], pa.uint64()),
    pa.array([0.0, 1.0, 2.0], pa.float64()),
    pa.array([-0.0, 1.0, 2.0], pa.float32()),
    pa.array([decimal.Decimal(k) for k in range(3)], pa.decimal128(9, 3)),
    pa.array([False, True, None]).fill_null(True).cast(pa.int64()),
]


@pytest.mark.parametrize("second", range(len(WRITTEN)))
@pytest.mark.parametrize("first", range(len(WRITTEN)))
def test_equal_numbers_are_equal_in_every_type(tmp_path, first, second):
    """A row written again with other widths is a duplicate; pandas counts them by value."""
    save(tmp_path / "log" / "a.parquet", r=WRITTEN[first])
    save(tmp_path / "log" / "b.parquet", r=WRITTEN[second])
    frames = [pd.read_parquet(tmp_path / "log" / f"{name}.parquet") for name in "ab"]
    distinct = len(pd.concat([f.astype({"r": float}) for f in frames]).drop_duplicates())
    report = convert_log(tmp_path / "log", tmp_path / "out", SCHEMA)
    assert (report.rows, report.duplicates) == (distinct, 6 - distinct)
    fault = validate_log(tmp_path / "log", SCHEMA).fault("duplicate rows")
    assert fault.count == 6 - distinct


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_fractions_of_a_second_count_in_whichever_file_they_are(tmp_path, names):
    times = [1.9, 1.1, 1.8, 1.2]
    save(tmp_path / f"{names[0]}.parquet")
    fine = {"u": [9] * 4, "i": [20, 21, 22, 23], "t": times, "r": [0.5] * 4}
    pq.write_table(pa.table(fine), tmp_path / f"{names[1]}.parquet")
    log = RecReplayBuffer.from_parquet(tmp_path / "*.parquet", SCHEMA)
    rows = log[:][log[:]["user"] == log.users.find(9)]
    in_order = [item for _, item in sorted(zip(times, fine["i"], strict=True))]
    assert log.items.decode(rows["action"]) == in_order
    assert rows["time"].tolist() == [round(time * 1e6) for time in sorted(times)]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("column", ["u", "r", "t"])
def test_a_file_that_leaves_a_column_empty_says_nothing_about_its_type(tmp_path, column, first):
    names = "ab" if first else "ba"
    save(tmp_path / f"{names[0]}.parquet", **{column: pa.nulls(3)})
    save(tmp_path / f"{names[1]}.parquet", extra=pa.nulls(3))
    report = convert_log(tmp_path / "*.parquet", tmp_path / "out", SCHEMA, bad_rows="drop")
    assert (report.rows, sum(report.dropped.values())) == (3, 3)
    with pytest.raises(LogError, match=f"column '{column}' holds nothing in .*; fill it or"):
        convert_log(tmp_path / f"{names[0]}.parquet", tmp_path / "other", SCHEMA)


TEXT = pa.array(["1", "1", "2"])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("column", ["u", "i", "r", "t"])
def test_numbers_and_texts_do_not_meet(tmp_path, column, reverse):
    names = ["a", "b"][:: -1 if reverse else 1]
    save(tmp_path / f"{names[0]}.parquet")
    save(tmp_path / f"{names[1]}.parquet", **{column: TEXT})
    with pytest.raises(
        LogError, match=rf"'{column}' is (integer|string|time) in .* but (?!\1)\w+ in"
    ):
        convert_log(tmp_path / "*.parquet", tmp_path / "out", SCHEMA)


def test_errors_of_arrow_get_a_file_and_a_column(tmp_path):
    table = pa.table(ROWS)
    twice = pa.Table.from_arrays([*table.columns, table["u"]], names=[*ROWS, "u"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(LogError, match=r"twice.parquet has 2 columns named 'u'; rename them"):
        convert_log(tmp_path / "twice.parquet", tmp_path / "out", SCHEMA)
    unused = pa.Table.from_arrays([*table.columns, table["u"], table["t"]], [*ROWS, "x", "x"])
    pq.write_table(unused, tmp_path / "unused.parquet")
    assert convert_log(tmp_path / "unused.parquet", tmp_path / "out", SCHEMA).rows == 3
    save(tmp_path / "large.parquet", u=pa.array([1, 2**63, 3], pa.uint64()))
    with pytest.raises(LogError, match=r"large.parquet: u is 9223372036854775808, expected an id"):
        convert_log(tmp_path / "large.parquet", tmp_path / "other", SCHEMA)


@pytest.mark.parametrize(
    "empty",
    [
        pa.array(["a", "", None]),
        pa.array(["a", "", None]).dictionary_encode(),
        pa.array(["a", "", None], pa.large_string()),
        pa.array(["a", "", None]).cast(pa.string_view()),
    ],
)
@pytest.mark.parametrize("column", ["u", "i", "s"])
def test_an_empty_id_is_a_missing_id_in_every_format(empty, column):
    table = pa.table({**ROWS, "s": [1, 2, 3], column: empty})
    schema = SCHEMA.replace(session="s")
    log = RecReplayBuffer.from_parquet(table, schema, bad_rows="drop")
    assert (len(log), log.report.dropped) == (1, {f"missing id in {column}": 2})
    assert validate_log(table, schema).fault("missing id").count == 2


@pytest.mark.parametrize("changes", [
    {"user": "usr"}, {"session": "s"}, {"slate": "s"}, {"context": ("tb",)}, {"labels": ("clik",)},
    {"features": ("ag",)}, {"propensity": "p"}, {"quality": "clik + 1"}, {"date": "dat"},
])  # fmt: skip
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_are_looked_for_before_anything_is_converted(tmp_path, changes, suffix):
    wide = {"user": [1] * 3, "sess": [1] * 3, "tab": [1] * 3, "click": [1] * 3, "age": [1] * 3,
            "prop": [1] * 3, "date": [20220501] * 3}  # fmt: skip
    save(tmp_path / f"a{suffix}", **wide)
    missing = next(iter(SCHEMA.replace(**changes).columns - ROWS.keys() - wide.keys()))
    with pytest.raises(LogError, match=f"has no column '{missing}'"):
        convert_log(tmp_path / f"a{suffix}", tmp_path / "out", SCHEMA.replace(**changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"items": ItemTable("side.csv", "itm")}, r"side.csv has no column 'itm' .*'item'"),
        ({"items": ItemTable("side.csv", "item", codes=("cod",))}, "'cod' .did you mean 'code'"),
        ({"items": ItemTable("side.csv", "item", embedding="vec")}, "no column 'vec'"),
        ({"initial_history": InitialHistory("side.csv", "usr", "item")}, "no column 'usr'"),
        ({"initial_history": InitialHistory("side.csv", "user", "itms")}, "no column 'itms'"),
    ],
)
def test_so_are_those_of_the_tables_beside_it(tmp_path, declared, message):
    save(tmp_path / "log.parquet")
    save(tmp_path / "side.csv", item=[10, 11, 12], user=[1, 2, 3], code=[0, 1, 2])
    with pytest.raises(LogError, match=message):
        convert_log(tmp_path / "log.parquet", tmp_path / "out", SCHEMA.replace(**declared))
    assert not (tmp_path / "out").exists()
    assert validate_log(tmp_path / "log.parquet", SCHEMA.replace(**declared)).fault("unreadable")


@pytest.mark.parametrize("side", ["items.csv", "items.parquet"])
@pytest.mark.parametrize("log", ["log.csv", "log.parquet"])
@pytest.mark.parametrize(
    ("logged", "listed"),
    [("10 11 10", "010 11 12"), ("010 11 010", "10 11 12"), ("10 11 10", "10 11 12")],
)
def test_an_item_table_and_its_log_name_items_alike(tmp_path, log, side, logged, listed):
    """Text in one is text in the other, where a CSV file leaves that open."""
    logged, listed = logged.split(), listed.split()

    def written(path: str, ids: list[str]) -> list:
        integers = all(str(int(text)) == text for text in ids)
        return list(map(int, ids)) if integers and path.endswith("parquet") else ids

    save(tmp_path / log, i=written(log, logged))
    save(tmp_path / side, id=written(side, listed), code=[7, 8, 9])
    schema = SCHEMA.replace(items=ItemTable(side, "id", codes=("code",)))
    is_text = any(text[0] == "0" for text in [*logged, *listed])
    fixed = [path for path in (log, side) if path.endswith("parquet")]
    kinds = {type(written(path, logged if path == log else listed)[0]) for path in fixed}
    if is_text and int in kinds:
        with pytest.raises(LogError, match=r"items are named in two ways: .* integer ids"):
            convert_log(tmp_path / log, tmp_path / "out", schema)
        return
    report = convert_log(tmp_path / log, tmp_path / "out", schema)
    distinct = {*logged, *listed} if is_text else {*map(int, logged), *map(int, listed)}
    assert report.items == len(distinct)
    opened = RecReplayBuffer.open(tmp_path / "out")
    codes = dict(zip(opened.items.decode(range(report.items)), opened.item_codes[:, 0].tolist(),
                     strict=True))  # fmt: skip
    as_kept = str if is_text else int
    assert codes == {as_kept(i): -1 for i in logged} | dict(zip(map(as_kept, listed), [7, 8, 9],
                                                                strict=True))  # fmt: skip


def test_users_with_a_past_and_earlier_logs_decide_likewise(tmp_path):
    save(tmp_path / "week.csv", u=["01", "1", "2"])
    first = convert_log(tmp_path / "week.csv", tmp_path / "first", SCHEMA)
    assert first.users == 3
    save(tmp_path / "next.csv", u=["1", "1", "2"])  # alone, these would be integers
    convert_log(tmp_path / "next.csv", tmp_path / "second", SCHEMA, like=tmp_path / "first")
    assert RecReplayBuffer.open(tmp_path / "second").users.decode(range(3)) == ["01", "1", "2"]
    past = pa.table({"who": ["1", "9"], "did": [["10"], ["11", "12"]]})
    pq.write_table(past, tmp_path / "past.parquet")
    schema = SCHEMA.replace(initial_history=InitialHistory("past.parquet", "who", "did"))
    report = convert_log(tmp_path / "next.csv", tmp_path / "third", schema)
    assert (report.initial_history_users, report.items) == (1, 3)
    save(tmp_path / "fixed.parquet")
    with pytest.raises(
        LogError, match=r"'u' of .* holds integer ids, 'who' of .* holds string ids"
    ):
        convert_log(tmp_path / "fixed.parquet", tmp_path / "fourth", schema)
    whole = pa.table({"who": [1.0, 9.0], "did": [[10], [11]]})
    pq.write_table(whole, tmp_path / "past.parquet")
    report = convert_log(tmp_path / "fixed.parquet", tmp_path / "fifth", schema)
    assert report.initial_history_users == 1
    fractions = pa.table({"who": [1.0, 9.5], "did": [[10], [11]]})
    pq.write_table(fractions, tmp_path / "past.parquet")
    with pytest.raises(
        LogError, match=r"past.parquet, row 1: the id who is 9.5, which is no whole"
    ):
        convert_log(tmp_path / "fixed.parquet", tmp_path / "fourth", schema)


def test_an_item_table_without_an_id_in_a_row_is_refused(tmp_path):
    save(tmp_path / "log.parquet")
    for ids in (pa.array([0, None, 10]), pa.array([10.5, 11, 12])):
        save(tmp_path / "side.parquet", id=ids, code=[5, 6, 7])
        schema = SCHEMA.replace(items=ItemTable("side.parquet", "id", codes=("code",)))
        with pytest.raises(LogError, match=r"has no id|row 0: the id id is 10.5, which"):
            convert_log(tmp_path / "log.parquet", tmp_path / "out", schema)


def test_times_that_no_integer_holds_are_missing():
    for times in ([1e300, 1.0, 2.0], [np.inf, 1.0, 2.0], [np.nan, 1.0, 2.0]):
        table = pa.table({**ROWS, "t": times})
        log = RecReplayBuffer.from_parquet(table, SCHEMA, bad_rows="drop")
        assert log.report.dropped == {"missing time in t": 1}


GAPS = [1.0, None, 2.0]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(GAPS, pa.float64()),
        pa.array(GAPS, pa.float32()),
        pa.array([1.0, float("nan"), 2.0]),
        pa.array([decimal.Decimal(1), None, decimal.Decimal(2)], pa.decimal128(9, 1)),
    ],
)
@pytest.mark.parametrize("column", ["u", "i"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_integers_with_gaps_are_integers_and_the_gaps_are_counted(tmp_path, ids, column, suffix):
    """As pandas writes them: in Parquet as floats, in CSV as 1.0, 2.0."""
    log = save(tmp_path / f"log{suffix}", **{column: ids})
    found = RecReplayBuffer.from_parquet(log, SCHEMA, bad_rows="drop")
    assert found.report.dropped == {f"missing id in {column}": 1}
    names = found.users if column == "u" else found.items
    assert names.decode(range(2)) == [1, 2]
    assert validate_log(log, SCHEMA).fault("missing id").count == 1


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (pa.array([1.0, 2.5, 3.0]), r"row 1: the id i is 2.5, which is no whole number; write ids"),
        (pa.array([1.0, 2.0, 2.0**53]), "row 2: .* at or beyond 9007199254740992, where floats of"),
        (pa.array([1.0, 2.0**24, 1.0], pa.float32()), "row 1: .* at or beyond 16777216"),
    ],
)
def test_floats_that_may_have_lost_an_id_are_refused(ids, message):
    """2**24 and 2**24 + 1 are one float32: whose row it was is not known any more."""
    table = pa.table({**ROWS, "i": ids})
    with pytest.raises(LogError, match=message):
        RecReplayBuffer.from_parquet(table, SCHEMA)


TIMES = ["11/10/2019 1:14:46 PM", "11/11/2019 12:00:00 AM", "1/2/2020 11:59:59 PM"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", "frame"])
def test_times_as_the_schema_says_that_they_are_written(tmp_path, suffix):
    frame = pd.DataFrame({**ROWS, "t": TIMES})
    path = tmp_path / f"log{suffix}"
    if suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif suffix != "frame":
        save(path, t=TIMES)
    log = frame if suffix == "frame" else path
    with pytest.raises(LogError, match=r"row 0: .*'11/10/2019 1:14:46 PM'.*time_format='%m/%d/%Y"):
        RecReplayBuffer.from_parquet(log, SCHEMA)
    form = "%m/%d/%Y %I:%M:%S %p"
    found = RecReplayBuffer.from_parquet(log, SCHEMA.replace(time_format=form))
    seconds = sorted(pd.Timestamp(pd.to_datetime(t, format=form)).timestamp() for t in TIMES)
    assert sorted(t / 1e6 for t in found[:]["time"].tolist()) == seconds
    with pytest.raises(LogError, match=r"row 0: .* not of the form .*'%d.%m.%Y'; it would fit '%m"):
        RecReplayBuffer.from_parquet(log, SCHEMA.replace(time_format="%d.%m.%Y"))


@pytest.mark.parametrize("zone", ["", "Z", "+02:00"])
def test_texts_in_iso_8601_are_times_in_every_format(zone):
    written = [f"2024-05-01T10:00:0{k}{zone}" for k in (2, 0, 1)]
    found = RecReplayBuffer.from_parquet(pa.table({**ROWS, "t": written}), SCHEMA)
    expected = sorted(int(pd.Timestamp(text).timestamp() * 1e6) for text in written)
    assert sorted(found[:]["time"].tolist()) == expected
    written[1] = "yesterday"
    with pytest.raises(LogError, match="row 1: the time is 'yesterday'; times are numbers"):
        RecReplayBuffer.from_parquet(pa.table({**ROWS, "t": written}), SCHEMA)
