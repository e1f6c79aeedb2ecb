"""Every Arrow type has a hash, equal for equal values, other for others."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from torchrl_drpo.data import LogSchema, RecReplayBuffer, convert_log, validate_log
from torchrl_drpo.data.sources.hashing import hash_column, row_hashes

DAY = dt.datetime(2024, 5, 1)
#: Type -> two values that differ, as little as the type can tell.
PAIRS = {
    "bool": (pa.bool_(), [True, False]),
    "int8": (pa.int8(), [1, -1]),
    "uint64": (pa.uint64(), [2**64 - 1, 2**64 - 2]),
    "int64": (pa.int64(), [2**53 + 1, 2**53]),
    "float16": (pa.float16(), [np.float16(0.5), np.float16(0.25)]),
    "float": (pa.float32(), [0.5, -0.5]),
    "decimal": (pa.decimal128(38, 2), [Decimal("90071992547409.93"), Decimal("90071992547409.92")]),
    "decimal256": (pa.decimal256(60, 1), [Decimal(10**40), Decimal(10**40 + 1)]),
    "text": (pa.string(), ["a", "a\0"]),
    "large text": (pa.large_string(), ["é", "e"]),
    "text view": (pa.string_view(), ["a", "b"]),
    "bytes": (pa.binary(), [b"\xff\0", b"\xff"]),
    "bytes view": (pa.binary_view(), [b"\xff\0", b"\xff"]),
    "fixed bytes": (pa.binary(2), [b"\xff\0", b"\xff\1"]),
    "date": (pa.date32(), [DAY.date(), DAY.date() + dt.timedelta(1)]),
    "timestamp": (pa.timestamp("ns", "Asia/Tokyo"), [1, 2]),
    "time": (pa.time32("s"), [dt.time(1), dt.time(2)]),
    "fine time": (pa.time64("ns"), [1, 2]),
    "duration": (pa.duration("us"), [dt.timedelta(1), dt.timedelta(2)]),
    "interval": (pa.month_day_nano_interval(), [(1, 0, 0), (0, 1, 0)]),
    "list": (pa.list_(pa.int64()), [[1, 2], [2, 1]]),
    "list of lists": (pa.list_(pa.list_(pa.int8())), [[[1], [2]], [[1, 2]]]),
    "fixed list": (pa.list_(pa.int64(), 2), [[1, 2], [2, 1]]),
    "list view": (pa.list_view(pa.int64()), [[1], [1, 1]]),
    "struct": (pa.struct({"os": pa.string(), "v": pa.int8()}), [{"os": "x", "v": 1}, {"os": "x"}]),
    "map": (pa.map_(pa.string(), pa.int64()), [[("a", 1)], [("a", 2)]]),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
    "dictionary of numbers": (pa.dictionary(pa.int8(), pa.float64()), [0.5, 1.5]),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_equal_values_hash_alike_and_others_do_not(kind):
    dtype, (one, other) = PAIRS[kind]
    column = pa.array([one, other, None, one, None], dtype)
    found = hash_column(column).tolist()
    assert found[0] == found[3]
    assert found[2] == found[4]
    assert len({found[0], found[1], found[2]}) == 3
    for start in range(3):  # a slice is what it shows, whatever lies before it
        assert hash_column(column.slice(start, 2)).tolist() == found[start : start + 2]
    assert hash_column(pa.array([None, one], dtype)).tolist() == [found[2], found[0]]
    assert len(hash_column(pa.array([], dtype))) == 0


def test_other_types_do_not_stop_a_hash():
    tensor = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int8(), [2]), pa.array([[1, 2], [1, 3]], pa.list_(pa.int8(), 2))
    )
    runs = pa.RunEndEncodedArray.from_arrays([2, 3], pa.array(["a", "b"]))
    union = pa.UnionArray.from_dense(
        pa.array([0, 1, 0], pa.int8()),
        pa.array([0, 0, 1], pa.int32()),
        [pa.array([1, 2]), pa.array(["x"])],
    )
    assert len(set(hash_column(tensor).tolist())) == 2
    assert [len(set(hash_column(column).tolist())) for column in (runs, union)] == [2, 3]
    assert len(set(hash_column(pa.nulls(3)).tolist())) == 1


def test_a_number_is_a_number_whatever_its_width():
    types = [pa.int8(), pa.uint64(), pa.int64(), pa.float32(), pa.float64()]
    found = [hash_column(pa.array([0, 7, 1], kind)).tolist() for kind in types]
    assert all(one == found[0] for one in found)
    assert hash_column(pa.array([-0.0, 0.0])).tolist() == [found[0][0]] * 2


def test_the_order_of_columns_does_not_tell_rows_apart():
    one = pa.record_batch({"a": [1, 2], "b": ["x", "y"]})
    other = pa.record_batch({"b": ["x", "y"], "a": [1, 2]})
    assert row_hashes(one).tolist() == row_hashes(other).tolist()
    swapped = pa.record_batch({"a": [1, 1], "b": [2, 1]})
    assert len(set(row_hashes(swapped).tolist())) == 2


SCHEMA = LogSchema(user="u", item="i", time="t", quality="r")
ROWS = {"u": [1, 1, 2, 2], "i": [5, 5, 6, 6], "t": [1, 1, 2, 2], "r": [0.0, 0.0, 1.0, 1.0]}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_column_that_nobody_reads_stops_nothing(kind):
    dtype, (one, other) = PAIRS[kind]
    table = pa.table({**ROWS, "x": pa.array([one, other, None, None], dtype)})
    assert RecReplayBuffer.from_parquet(table, SCHEMA).report.duplicates == 1
    assert validate_log(table, SCHEMA).fault("duplicate rows").count == 1


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("filtered", lambda f, path: f[f["keep"]].to_parquet(path)),
        ("named index", lambda f, path: f.rename_axis("row").to_parquet(path, index=True)),
        ("two levels", lambda f, path: f.set_index(["k", "keep"], append=True).to_parquet(path)),
        ("csv", lambda f, path: f.to_csv(path)),
        ("csv, twice", lambda f, path: (f.to_csv(path), pd.read_csv(path).to_csv(path))),
    ],
)
def test_what_numbers_the_rows_is_no_part_of_them(tmp_path, name, write):
    frame = pd.DataFrame({**ROWS, "keep": True, "k": [1, 2, 3, 4]})
    frame = frame if name == "two levels" else frame.drop(columns="k")
    path = tmp_path / ("log.csv" if "csv" in name else "log.parquet")
    write(frame, path)
    assert convert_log(path, tmp_path / "out", SCHEMA).duplicates == 2
    assert validate_log(path, SCHEMA).fault("duplicate rows").count == 2


def test_an_index_that_the_schema_names_is_data(tmp_path):
    frame = pd.DataFrame({**ROWS, "tab": [1, 2, 1, 2]}).set_index("tab")
    frame.to_parquet(tmp_path / "log.parquet")
    schema = SCHEMA.replace(context=("tab",))
    assert convert_log(tmp_path / "log.parquet", tmp_path / "out", schema).duplicates == 0
