"""What a bad log gets: one clear error."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from tests.data.conversion.full_schema import SCHEMA
from torchrl_drpo.data import (
    InitialHistory,
    ItemTable,
    LogError,
    Percentile,
    RecReplayBuffer,
    convert_log,
)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("play", np.nan, "row 17: reward is not finite: play is nan"),
        ("play", np.inf, "row 17: reward is not finite: play is inf"),
        ("propensity", 0.0, r"row 17: propensity outside \(0, 1\]: 0.0; expected a probability"),
        ("propensity", 1.5, r"row 17: propensity outside \(0, 1\]: 1.5"),
        ("propensity", np.nan, r"row 17: propensity outside \(0, 1\]: nan"),
        ("item", -1, "row 17: negative item id: -1"),
        ("user", None, "row 17: missing id: user is null"),
        ("item", None, "row 17: missing id: item is null"),
        ("time", None, "row 17: missing time: time is null"),
        ("tab", None, "row 17: missing id: tab is null"),
        ("mood", np.nan, "row 17: feature is not finite: mood is nan; fill it, clip it"),
        ("mood", -np.inf, "row 17: feature is not finite: mood is -inf"),
        ("mood", 1e39, r"row 17: feature is not finite: mood is 1e\+39"),  # float32 ends at 3.4e38
        ("age", None, "row 17: feature is not finite: age is nan"),
    ],
)
def test_a_bad_value_is_named_or_dropped(frame, tmp_path, column, value, message):
    if value is None:
        frame[column] = frame[column].astype("Int64")
    frame.loc[17, column] = value
    frame.to_parquet(tmp_path / "log.parquet")
    with pytest.raises(LogError, match=message) as caught:
        convert_log(tmp_path / "log.parquet", tmp_path / "out", SCHEMA)
    assert "log.parquet" in str(caught.value)
    report = convert_log(tmp_path / "log.parquet", tmp_path / "out", SCHEMA, bad_rows="drop")
    kind = message.split("row 17: ")[1].split(":")[0].replace("\\", "")
    assert report.dropped == {f"{kind} in {column}": 1}
    assert report.rows + report.duplicates == len(frame) - 1


def test_a_formula_that_is_not_finite_names_the_row(frame):
    with pytest.raises(LogError, match=r"row \d+: reward is not finite: log\(click\) gives -inf"):
        RecReplayBuffer.from_pandas(frame, SCHEMA.replace(quality="log(click)"))


def test_columns_that_are_missing_or_of_another_kind(frame):
    with pytest.raises(LogError, match=r"no column 'clik' \(did you mean 'click'"):
        RecReplayBuffer.from_pandas(frame, SCHEMA.replace(quality="clik"))
    with pytest.raises(LogError, match=r"row 0: the id user is 1\d\d.5, which is no whole number"):
        RecReplayBuffer.from_pandas(frame.assign(user=frame["user"] + 0.5), SCHEMA)
    with pytest.raises(LogError, match="'play' holds string values"):
        RecReplayBuffer.from_pandas(frame.assign(play="much"), SCHEMA)
    with pytest.raises(LogError, match=r"'mood' holds string values, .* boolean or float"):
        RecReplayBuffer.from_pandas(frame.assign(mood="good"), SCHEMA)
    both = SCHEMA.replace(features=("tab",))  # a category may hold strings, a number may not
    with pytest.raises(LogError, match=r"'tab' holds string values, .* boolean or integer values"):
        RecReplayBuffer.from_pandas(frame.assign(tab="home"), both)
    with pytest.raises(LogError, match="holds float values, but the schema uses it where list"):
        RecReplayBuffer.from_pandas(frame, SCHEMA.replace(history="play", duplicates="keep"))
    timeless = SCHEMA.replace(time=None, duplicates="keep")
    with pytest.raises(LogError, match="a split by day needs"):
        RecReplayBuffer.from_pandas(frame, timeless, test_days=1)


def test_files_that_are_not_what_they_say(frame, tmp_path):
    whole = tmp_path / "whole.parquet"
    frame.to_parquet(whole)
    cases = {
        "truncated.parquet": (whole.read_bytes()[: whole.stat().st_size // 2], "truncated"),
        "foreign.parquet": (b"user,item\n1,2\n" * 50, "truncated, damaged or of another format"),
        "empty.parquet": (b"", r"is empty \(0 bytes\)"),
        "notes.xls": (b"hello", "neither Parquet"),
        "notes.txt": (b"hello\nyou\n", "has no column 'user'"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LogError, match=message) as caught:
            convert_log(tmp_path / name, tmp_path / "out", SCHEMA)
        assert name in str(caught.value)
    frame.iloc[:0].to_parquet(tmp_path / "none.parquet")
    with pytest.raises(LogError, match="the log has no rows"):
        convert_log(tmp_path / "none.parquet", tmp_path / "out", SCHEMA)
    with pytest.raises(FileNotFoundError, match="no log file matches"):
        convert_log(tmp_path / "nowhere*.parquet", tmp_path / "out", SCHEMA)
    with pytest.raises(TypeError, match="a log is a path"):
        convert_log(3, tmp_path / "out", SCHEMA)


def test_damaged_pages_deep_in_a_file(frame, tmp_path):
    path = tmp_path / "log.parquet"
    frame.to_parquet(path, compression="gzip")
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 200] = b"\x07" * 200  # the footer stays whole
    path.write_bytes(content)
    with pytest.raises(LogError, match=r"log\.parquet cannot be read"):
        convert_log(path, tmp_path / "out", SCHEMA)


def test_mixed_schemas_between_files(parquet, frame, tmp_path):
    frame.assign(user=frame["user"].astype(str)).to_parquet(parquet / "part-9.parquet")
    with pytest.raises(LogError, match=r"'user' is integer in .*part-0.* but string in .*part-9"):
        convert_log(parquet, tmp_path / "out", SCHEMA)
    frame.drop(columns="tab").to_parquet(parquet / "part-9.parquet")
    with pytest.raises(LogError, match=r"part-9.parquet has no column 'tab'"):
        convert_log(parquet, tmp_path / "out", SCHEMA)
    # a number is a number: one writer's int32 is another's int64
    frame.astype({"click": "int64", "play": "float32"}).to_parquet(parquet / "part-9.parquet")
    assert convert_log(parquet, tmp_path / "out", SCHEMA).rows_read == 2 * len(frame)


def test_duplicates_can_be_an_error_or_stay(frame):
    with pytest.raises(LogError, match="exact duplicate rows, the first: user"):
        RecReplayBuffer.from_pandas(frame, SCHEMA.replace(duplicates="error"))
    kept = RecReplayBuffer.from_pandas(frame, SCHEMA.replace(duplicates="keep"))
    assert len(kept) == len(frame)


def test_side_tables_are_checked(frame, tmp_path):
    frame.to_parquet(tmp_path / "log.parquet")

    def convert(table: pd.DataFrame, **schema):
        table.to_parquet(tmp_path / "side.parquet")
        convert_log(tmp_path / "log.parquet", tmp_path / "out", SCHEMA.replace(**schema))

    ids = frame["item"].unique()
    repeated = pd.DataFrame({"id": [*ids, ids[0]]})
    with pytest.raises(LogError, match=rf"side.parquet: id {ids[0]} repeats"):
        convert(repeated, items=ItemTable("side.parquet", "id"))
    ragged = pd.DataFrame({"id": [1, 2], "e": [[1.0, 2.0], [3.0]]})
    with pytest.raises(LogError, match="row 1: embedding of 1 numbers, expected 2"):
        convert(ragged, items=ItemTable("side.parquet", "id", embedding="e"))
    holes = pd.DataFrame({"id": [1, 2], "c": pd.array([1, None], dtype="Int64")})
    with pytest.raises(LogError, match="lacks one of its codes"):
        convert(holes, items=ItemTable("side.parquet", "id", codes=("c",)))
    user = int(frame["user"][0])
    twice = pd.DataFrame({"u": [user, user], "h": [[7], [14]]})
    with pytest.raises(LogError, match=f"user {user} repeats"):
        convert(twice, initial_history=InitialHistory("side.parquet", "u", "h"))
    with pytest.raises(FileNotFoundError, match=r"no log file matches .*gone.parquet"):
        convert(twice, items=ItemTable("gone.parquet", "id"))


def test_arguments_are_checked(frame, tmp_path):
    with pytest.raises(ValueError, match="bad_rows must be"):
        convert_log(frame, tmp_path, SCHEMA, bad_rows="ignore")
    with pytest.raises(ValueError, match="test_days must be at least 1"):
        convert_log(frame, tmp_path, SCHEMA, test_days=0)
    with pytest.raises(ValueError, match="test_days or test_start, not both"):
        convert_log(frame, tmp_path, SCHEMA, test_days=1, test_start="1970-01-02")
    with pytest.raises(ValueError, match="must be YYYY-MM-DD, got 'tomorrow'"):
        convert_log(frame, tmp_path, SCHEMA, test_start="tomorrow")
    with pytest.raises(ValueError, match="batch_rows must be at least 1"):
        convert_log(frame, tmp_path, SCHEMA, batch_rows=0)
    with pytest.raises(LogError, match="no row is left"):
        convert_log(frame.assign(propensity=0.0), tmp_path, SCHEMA, bad_rows="drop")
    with pytest.raises(LogError, match="rewards do not fit float32"):
        convert_log(frame, tmp_path, SCHEMA.replace(quality="1e39 * click + 1e39"))
    percentile = SCHEMA.replace(quality=Percentile("play"))
    with pytest.raises(ValueError, match="needs training rows to be fitted on"):
        convert_log(frame, tmp_path, percentile, test_start="1960-01-01")
    halves = frame.assign(position=1.5)
    with pytest.raises(LogError, match=r"row 0: not a whole number: position is 1.5"):
        convert_log(halves, tmp_path, SCHEMA.replace(position="position"))
    days = frame.assign(day=20201301)
    with pytest.raises(LogError, match="row 0: no date: day 20201301; expected YYYYMMDD"):
        convert_log(days, tmp_path, SCHEMA.replace(date="day"))


def test_a_missing_extra_is_named(frame, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'torchrl-drpo\[data\]'"):
        RecReplayBuffer.from_pandas(frame, SCHEMA)
