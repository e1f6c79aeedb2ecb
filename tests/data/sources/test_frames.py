"""Frames are known by what they offer, whatever their class and module are called."""

from __future__ import annotations

import gc
import tempfile

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo.data import LogError, LogSchema, RecReplayBuffer
from torchrl_drpo.data.sources import LogSource

SCHEMA = LogSchema(user="u", item="i", time="t", quality="r")
ROWS = {"u": [1, 1, 2], "i": [10, 11, 10], "t": [5, 7, 6], "r": [0, 1, 2]}
FRAME = pd.DataFrame(ROWS)


class Own(pd.DataFrame):
    """Of another module than pandas, as geopandas' frames are."""


class Stream:
    """What another library offers: Arrow's stream of batches alone (duckdb, datasets, ...)."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


class Interchange:
    """A frame of the older protocol alone."""

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True):
        return pa.table(ROWS).__dataframe__(nan_as_null, allow_copy)


class pandas:  # noqa: N801 (its name says nothing)
    """Not a frame."""


FRAMES = {
    "pandas": lambda path: FRAME,
    "a subclass": lambda path: Own(ROWS),
    "filtered, with an index of its own": lambda path: pd.concat([FRAME, FRAME])[3:],
    "its index has a name": lambda path: FRAME.set_index(pd.Index([7, 8, 9], name="r2")),
    "pandas over Arrow": lambda path: FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "polars": lambda path: pl.DataFrame(ROWS),
    "polars, lazy": lambda path: pl.DataFrame(ROWS).lazy(),
    "Arrow table": lambda path: pa.table(ROWS),
    "Arrow batch": lambda path: pa.RecordBatch.from_pydict(ROWS),
    "Arrow reader": lambda path: pa.table(ROWS).to_reader(max_chunksize=2),
    "Arrow data set": lambda path: ds.dataset(path),
    "Arrow scanner": lambda path: ds.dataset(path).scanner(columns=list(ROWS)),
    "a stream": lambda path: Stream(pa.table(ROWS)),
    "interchange": lambda path: Interchange(),
    "TensorDict": lambda path: TensorDict({k: torch.tensor(v) for k, v in ROWS.items()}, [3]),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_every_frame_is_the_same_log(kind, tmp_path):
    pq.write_table(pa.table(ROWS), tmp_path / "log.parquet")
    log = RecReplayBuffer.from_pandas(FRAMES[kind](tmp_path / "log.parquet"), SCHEMA)
    assert log.items.decode(log[:]["action"]) == [10, 11, 10]
    assert log[:]["time"].tolist() == [5, 7, 6]
    assert log.quality.tolist() == [0, 1, 2]


def test_datasets_of_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({**ROWS, "words": [["a"], [], ["b", "c"]]})
    for log in (whole, whole.select([0, 1, 2]), whole.to_iterable_dataset()):
        found = RecReplayBuffer.from_parquet(log, SCHEMA)
        assert found.items.decode(found[:]["action"]) == [10, 11, 10]
    found = RecReplayBuffer.from_parquet(whole.select([2, 0]), SCHEMA)
    assert found.quality.tolist() == [0, 2]


def test_relations_of_duckdb():
    duckdb = pytest.importorskip("duckdb")
    log = duckdb.from_arrow(pa.table(ROWS))
    found = RecReplayBuffer.from_parquet(log.filter("r > 0"), SCHEMA)
    assert found.items.decode(found[:]["action"]) == [11, 10]


class Once:
    """A stream that can be read once, as readers and cursors can; it counts its batches."""

    def __init__(self, rows: int, of: int) -> None:
        self.rows, self.of, self.taken = rows, of, 0

    def __arrow_c_stream__(self, requested_schema=None):
        assert self.taken == 0
        kinds = pa.schema([("u", pa.int64()), ("i", pa.dictionary(pa.int32(), pa.string())),
                           ("t", pa.int64()), ("r", pa.float64())])  # fmt: skip

        def batches():
            for start in range(0, self.rows, self.of):
                at = list(range(start, min(start + self.of, self.rows)))
                self.taken += 1
                names = pa.array([f"i{k % 7}" for k in at]).dictionary_encode()
                reward = pa.array(at, pa.float64())
                yield pa.record_batch([pa.array(at), names, pa.array(at), reward], schema=kinds)

        return pa.RecordBatchReader.from_batches(kinds, batches()).__arrow_c_stream__()


@pytest.mark.parametrize("of", [1, 7, 64, 1_000])
def test_a_stream_is_read_once_and_its_file_goes_with_it(of, tmp_path, monkeypatch):
    """In batches of one size, however small or large those are that it hands out."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stream = Once(200, of)
    source = LogSource(stream, batch_rows=64)
    assert stream.taken == -(-200 // of)
    for _ in range(2):
        batches = list(source.batches(["u", "i"]))
        assert [batch.table.num_rows for batch in batches] == [64, 64, 64, 8]
        assert [batch.first_row for batch in batches] == [0, 64, 128, 192]
        rows = pa.Table.from_batches([batch.table for batch in batches]).to_pydict()
        assert rows == {"u": list(range(200)), "i": [f"i{k % 7}" for k in range(200)]}
    assert source.inputs() == LogSource(Once(200, of), batch_rows=64).inputs()
    assert source.inputs() != LogSource(Once(199, of), batch_rows=64).inputs()
    assert list(tmp_path.iterdir())
    del source, batches, rows
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (pd.concat([FRAME, FRAME["u"]], axis=1), "the DataFrame cannot be read as a table: Dup"),
        (FRAME.assign(i=[1, "a", 2.5]), "the DataFrame cannot be read as a table"),
        (Stream(pa.chunked_array([[1, 2]])), "the Stream cannot be read as a table"),
        (TensorDict({"u": torch.zeros(3, 2)}, [3]), r"one number a row and key, but \['u'\]"),
    ],
)
def test_a_frame_that_arrow_cannot_hold(source, message):
    with pytest.raises(LogError, match=message):
        RecReplayBuffer.from_pandas(source, SCHEMA)


@pytest.mark.parametrize("source", [3, None, {"u": [1]}, pandas(), [FRAME], torch.zeros(3)])
def test_what_is_no_frame_and_no_path(source):
    with pytest.raises(TypeError, match=r"a log is a path, .* __arrow_c_stream__"):
        RecReplayBuffer.from_pandas(source, SCHEMA)
