from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import percentileofscore
from tensordict import TensorDict

from tests.data.ordered import ordered
from torchrl_drpo.data import (
    InitialHistory,
    ItemTable,
    LogSchema,
    Percentile,
    RecReplayBuffer,
    ReturnToGo,
    convert_log,
)
from torchrl_drpo.data.store import LogStore

SCHEMA = LogSchema(
    user="user", item="item", time="time", quality="click + 0.5", propensity="propensity",
    context=("tab",), features=("mood", "age", "fresh"), labels=("play",),
)  # fmt: skip


@pytest.mark.parametrize(("batch_rows", "partition_rows"), [(1 << 19, 1 << 20), (37, 60), (1, 1)])
def test_rows_are_those_of_the_log_in_order(parquet, frame, tmp_path, batch_rows, partition_rows):
    report = convert_log(
        parquet, tmp_path / "out", SCHEMA, batch_rows=batch_rows, partition_rows=partition_rows
    )
    rows, expected = LogStore(tmp_path / "out").rows, ordered(frame)
    items = sorted(set(frame["item"]))
    assert rows["action"].tolist() == [items.index(i) for i in expected["item"]]
    assert rows["time"].tolist() == expected["time"].tolist()
    np.testing.assert_array_equal(rows["next", "reward"][:, 0], expected["click"] + 0.5)
    np.testing.assert_allclose(rows["propensity"], expected["propensity"], rtol=1e-6)
    np.testing.assert_array_equal(rows["play"], expected["play"])
    assert rows["observation", "context"].shape == (len(expected), 1)
    features = expected[["mood", "age", "fresh"]].to_numpy(np.float32)
    np.testing.assert_array_equal(rows["observation", "features"], features, strict=True)
    last = (expected["user"] != expected["user"].shift(-1)).tolist()
    assert rows["next", "done"][:, 0].tolist() == last
    assert not rows["next", "terminated"].any()
    assert rows["step"].tolist() == expected.groupby("user").cumcount().tolist()
    assert report.rows_read == len(frame)
    assert report.duplicates == len(frame) - len(expected)
    assert (report.users, report.items) == (frame["user"].nunique(), len(items))


def test_the_result_is_a_memory_mapped_tensordict_beside_its_schema(parquet, tmp_path):
    report = convert_log(parquet, tmp_path / "out", SCHEMA)
    data = next((tmp_path / "out").glob("data-*"))
    assert TensorDict.load_memmap(data / "rows").batch_size == (report.rows,)
    assert LogSchema.from_json((data / "schema.json").read_text()) == SCHEMA
    assert json.loads(report.to_json())["rows"] == report.rows


def test_string_ids_timestamps_and_nullable_columns(frame, tmp_path):
    text = frame.assign(
        user="u" + frame["user"].astype(str), item="ü" + frame["item"].astype(str),
        time=pd.to_datetime(frame["time"], unit="s", utc=True), tab=frame["tab"].map(str),
    )  # fmt: skip
    buffer = RecReplayBuffer.from_pandas(text, SCHEMA, root=tmp_path / "out", history=0)
    expected = ordered(frame, text)
    rows = buffer[:]
    assert buffer.users.decode(rows["user"]) == [f"u{u}" for u in expected["user"]]
    assert buffer.items.decode(rows["action"]) == [f"ü{i}" for i in expected["item"]]
    assert rows["time"].tolist() == (expected["time"] * 1_000_000).tolist()
    tabs = buffer.contexts["tab"].decode(rows["observation", "context"])
    assert tabs == [str(t) for t in expected["tab"]]
    assert buffer.context_sizes == (4,)


def test_a_column_may_be_a_feature_beside_another_role(frame):
    schema = SCHEMA.replace(features=("tab", "time"))
    rows = RecReplayBuffer.from_pandas(frame, schema, history=0)[:]
    expected = ordered(frame)
    np.testing.assert_array_equal(
        rows["observation", "features"], expected[["tab", "time"]].to_numpy(np.float32)
    )
    context = rows["observation", "context"][:, 0].tolist()
    assert context == expected["tab"].tolist()  # tabs 0 to 3 number themselves


def test_fractions_of_a_second_put_rows_in_order(frame):
    steps = np.random.default_rng(0).permutation(len(frame)) / 1024
    fine = frame.assign(time=1_600_000_000 + steps)
    stored = RecReplayBuffer.from_pandas(fine, SCHEMA, history=0)[:]
    expected = fine.sort_values(["user", "time"])["time"].to_numpy()
    np.testing.assert_allclose(stored["time"] / 1e6, expected, atol=1e-6)


def test_the_test_part_starts_on_a_local_day(frame):
    schema = SCHEMA.replace(utc_offset_hours=-5.0)
    buffer = RecReplayBuffer.from_pandas(frame, schema, test_start="1970-01-04", history=0)
    late = buffer[:]["time"] >= 3 * 86_400 + 5 * 3_600  # midnight there is five o'clock in UTC
    assert (buffer.split("test")[:] == buffer[:][late]).all()
    days = pd.to_datetime(frame["time"] - 5 * 3_600, unit="s")
    for dated in (days.dt.date, days.dt.strftime("%Y%m%d").astype(int)):
        by_date = RecReplayBuffer.from_pandas(
            frame.assign(day=dated), schema.replace(date="day"), test_start="1970-01-04", history=0
        )
        assert by_date.report.parts["test"] == late.sum()
        assert (by_date.split("test")[:]["time"] == buffer[:][late]["time"]).all()


def test_string_users_have_histories_from_before(frame, tmp_path):
    text = frame.assign(user="u" + frame["user"].astype(str))
    text.to_parquet(tmp_path / "log.parquet")
    past = pd.DataFrame({"u": ["u101", "nobody", "u100"], "h": [[7, 14], [7], [21, 700]]})
    past.to_parquet(tmp_path / "past.parquet")
    schema = SCHEMA.replace(initial_history=InitialHistory("past.parquet", "u", "h"))
    buffer = RecReplayBuffer.from_parquet(tmp_path / "log.parquet", schema, history=2)
    rows = buffer[:]
    first = rows[(rows["step"] == 0) & (rows["user"] == buffer.users.encode(["u100"]))]
    history = buffer.items.decode(first["observation", "history"].ravel())
    assert history == [21, 700]  # an item that only histories know joins the catalogue
    assert buffer.report.initial_history_users == 2


def test_rows_may_bring_histories_of_string_items():
    log = pd.DataFrame({"i": ["a", "b"], "h": [["b", None, "c"], None]})
    schema = LogSchema(item="i", history="h", quality="1", duplicates="keep")
    buffer = RecReplayBuffer.from_pandas(log, schema, history=3)
    b, c = buffer.items.encode(["b", "c"]).tolist()
    assert buffer[:]["observation", "history"].tolist() == [[-1, b, c], [-1, -1, -1]]


@pytest.mark.parametrize("form", ["pandas", "polars", "lazy", "arrow", "tensordict", "csv", "list"])
def test_every_form_of_input_gives_the_same_rows(frame, parquet, tmp_path, form):
    import polars as pl
    import pyarrow as pa

    forms = {
        "pandas": lambda: frame,
        "polars": lambda: pl.from_pandas(frame),
        "lazy": lambda: pl.from_pandas(frame).lazy(),
        "arrow": lambda: pa.Table.from_pandas(frame),
        "tensordict": lambda: TensorDict(
            {name: frame[name].to_numpy() for name in frame.columns}, [len(frame)]
        ),
        "csv": lambda: frame.to_csv(tmp_path / "log.csv", index=False) or tmp_path / "log.csv",
        "list": lambda: sorted(parquet.glob("*.parquet")),
    }
    make = RecReplayBuffer.from_tensordict if form == "tensordict" else RecReplayBuffer.from_parquet
    rows = make(forms[form](), SCHEMA, history=3)[:]
    expected = RecReplayBuffer.from_parquet(str(parquet / "*.parquet"), SCHEMA, history=3)[:]
    assert (rows == expected).all()


def test_a_uri_is_read_through_fsspec(frame):
    import fsspec

    with fsspec.open("memory://bucket/log/a.parquet", "wb") as file:
        frame.to_parquet(file)
    rows = RecReplayBuffer.from_parquet("memory://bucket/log", SCHEMA)[:]
    assert len(rows) == len(ordered(frame))


@pytest.mark.parametrize("by", [(), ("duration_bucket",), ("tab",), ("user", "duration_bucket")])
def test_percentiles_are_fitted_on_training_rows_only(frame, parquet, tmp_path, by):
    duration = "duration" if "duration_bucket" in by else None
    signal = Percentile("play", by=by, duration=duration, min_count=5)
    schema = SCHEMA.replace(quality=signal)
    buffer = RecReplayBuffer.from_parquet(
        parquet, schema, root=tmp_path / "out", test_days=2, history=0
    )
    kept = ordered(frame)
    bucket = np.floor(np.log2(kept["duration"]))
    key = {"user": kept["user"], "duration_bucket": bucket, "tab": kept["tab"]}
    train = kept["time"] < 4 * 86_400
    expected = []
    for row in range(len(kept)):
        for level in range(len(by) + 1):
            peers = train.copy()
            for name in by[level:]:
                peers &= key[name] == key[name].iloc[row]
            if peers.sum() >= 5 or level == len(by):
                break
        score = percentileofscore(kept["play"][peers], kept["play"].iloc[row], "mean") / 100
        expected.append(score)
    np.testing.assert_allclose(buffer.quality, expected, rtol=1e-6)
    assert (buffer.report.parts["train"], buffer.report.parts["test"]) == (
        int(train.sum()), int((~train).sum()),
    )  # fmt: skip
    # the same whatever the partitions: ranks within users and shared tables alike
    convert_log(parquet, tmp_path / "b", schema, test_days=2, batch_rows=50, partition_rows=90)
    other = LogStore(tmp_path / "b").rows["next", "reward"]
    np.testing.assert_array_equal(other[:, 0], buffer.quality)


def test_sessions_gaps_and_terminal_rows_end_trajectories():
    log = pd.DataFrame(
        {
            "u": [1, 1, 1, 1, 2, 2], "i": [1, 2, 3, 4, 5, 6], "t": [0, 5, 100, 104, 0, 1],
            "s": ["a", "a", "b", "b", "c", "c"], "r": [1.0, 2, 4, 8, 16, 32],
            "end": [0, 1, 0, 0, 0, 0],
        }
    )  # fmt: skip
    base = LogSchema(user="u", item="i", time="t", quality=ReturnToGo("r", gamma=0.5))

    def rows(**changes):
        return RecReplayBuffer.from_pandas(log, base.replace(**changes), history=0)[:]

    by_session, by_gap = rows(session="s"), rows(session_gap=50.0)
    assert by_session["trajectory_id"].tolist() == [0, 0, 1, 1, 2, 2]
    assert by_session["next", "terminated"][:, 0].tolist() == [False, True] * 3
    assert by_session["next", "reward"][:, 0].tolist() == [2.0, 2, 8, 8, 32, 32]
    assert by_gap["trajectory_id"].tolist() == by_session["trajectory_id"].tolist()
    by_terminal = rows(terminal="end")
    assert by_terminal["trajectory_id"].tolist() == [0, 0, 1, 1, 2, 2]
    assert by_terminal["next", "terminated"][:, 0].tolist() == [False, True] + [False] * 4
    assert rows()["next", "reward"][:4, 0].tolist() == [4.0, 6.0, 8.0, 8.0]


def test_a_training_return_does_not_see_the_test_period():
    log = pd.DataFrame({"u": [1] * 4, "i": [1] * 4, "t": np.arange(4) * 86_400, "r": [1, 2, 4, 8]})
    schema = LogSchema(user="u", item="i", time="t", quality=ReturnToGo("r"))
    rows = RecReplayBuffer.from_pandas(log, schema, test_days=2, history=0)
    assert rows.quality.tolist() == [3.0, 2.0, 12.0, 8.0]


def test_slates_are_ordered_by_position():
    log = pd.DataFrame(
        {
            "u": [1, 1, 1, 1], "i": [4, 3, 2, 1], "t": [0, 0, 9, 9], "p": [2, 1, 1, 2],
            "s": [70, 70, 71, 71], "mu": [0.5, 0.25, 0.5, 1.0], "r": [0, 1, 0, 1],
        }
    )  # fmt: skip
    schema = LogSchema(
        user="u", item="i", time="t", quality="r", slate="s", position="p", propensity="mu"
    )
    buffer = RecReplayBuffer.from_pandas(log, schema, history=0)
    rows = buffer[:]
    assert buffer.items.decode(rows["action"]) == [3, 4, 2, 1]
    assert rows["slate"].tolist() == [0, 0, 1, 1]
    assert rows["propensity"].tolist() == [0.25, 0.5, 0.5, 1.0]
    assert buffer.report.slates == 2


def test_log_propensities_are_probabilities_when_stored(frame):
    logged = frame.assign(propensity=np.log(frame["propensity"]))
    rows = RecReplayBuffer.from_pandas(logged, SCHEMA.replace(log_propensity=True))[:]
    np.testing.assert_allclose(rows["propensity"], ordered(frame, logged)["propensity"], rtol=1e-5)


def test_rows_may_bring_their_own_history_and_split():
    log = pd.DataFrame(
        {"i": [5, 6, 7], "h": [[1, 2], [], [5, 9, 6]], "part": ["valid", "test", "valid"]}
    )
    schema = LogSchema(item="i", history="h", split="part", quality="1", duplicates="keep")
    buffer = RecReplayBuffer.from_pandas(log, schema, history=2)
    raw = [[-1 if h < 0 else buffer.items.decode([h])[0] for h in row]
           for row in buffer[:]["observation", "history"].tolist()]  # fmt: skip
    assert raw == [[1, 2], [-1, -1], [9, 6]]
    assert buffer.report.parts == {"test": 1, "valid": 2}
    assert buffer.split("valid")[:]["action"].tolist() == buffer.items.encode([5, 7]).tolist()
    assert buffer[:]["next", "terminated"].all()


def test_a_later_log_keeps_the_numbers_of_an_earlier_one(frame, tmp_path):
    early, late = frame[frame["time"] < 3 * 86_400], frame[frame["time"] >= 3 * 86_400]
    late = late.assign(user=late["user"] - 7, item=late["item"] * 3 + 1, tab=late["tab"] - 1)
    first = RecReplayBuffer.from_pandas(early, SCHEMA, root=tmp_path / "a")
    second = RecReplayBuffer.from_pandas(
        late, SCHEMA, root=tmp_path / "b", like=tmp_path / "a", history=3
    )
    for one, other in ((first.items, second.items), (first.users, second.users)):
        assert other.decode(range(len(one))) == one.decode(range(len(one)))
        assert len(other) > len(one)
    assert second.contexts["tab"].decode(range(5)) == [0, 1, 2, 3, -1]
    number = second.users.encode(late["user"].to_numpy())
    kept = late.assign(number=number.numpy()).drop_duplicates()
    kept = kept.sort_values(["number", "time"], kind="stable")
    assert second.items.decode(second[:]["action"]) == kept["item"].tolist()
    alone = RecReplayBuffer.from_pandas(late, SCHEMA, history=3)
    user = int(late["user"].iloc[-1])
    latest = [buffer.latest_history([user]) for buffer in (second, alone)]
    raw = [b.items.decode(h[h >= 0]) for b, h in zip((second, alone), latest, strict=True)]
    assert raw[0] == raw[1]
    text = late.assign(item=late["item"].astype(str))
    with pytest.raises(ValueError, match="ids changed their type"):
        convert_log(text, tmp_path / "c", SCHEMA, like=tmp_path / "a")


def test_item_table_gives_catalogue_codes_and_embeddings(tmp_path):
    log = pd.DataFrame({"i": [30, 10, 99], "r": [1, 0, 1]})
    pd.DataFrame(
        {"id": [30, 20, 10], "c0": [1, 2, 3], "c1": [4, 5, 6], "e": [[1.0, 2], [3, 4], [5, 6]]}
    ).to_parquet(tmp_path / "items.parquet")
    log.to_parquet(tmp_path / "log.parquet")
    schema = LogSchema(
        item="i", quality="r", duplicates="keep",
        items=ItemTable("items.parquet", "id", codes=("c0", "c1"), embedding="e"),
    )  # fmt: skip
    buffer = RecReplayBuffer.from_parquet(tmp_path / "log.parquet", schema)
    assert buffer.items.decode(range(4)) == [10, 20, 30, 99]
    assert buffer.report.unknown_items == 1
    assert buffer.item_codes.tolist() == [[3, 6], [2, 5], [1, 4], [-1, -1]]
    assert buffer.item_embeddings.tolist() == [[5, 6], [3, 4], [1, 2], [0, 0]]
