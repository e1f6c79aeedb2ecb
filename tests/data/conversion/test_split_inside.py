"""Rows that are held out of the training rows: as if the test rows had never been logged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from torchrl_drpo.data import LogError, LogSchema, Percentile, RecReplayBuffer
from torchrl_drpo.data.schema.split import Split

SCHEMA = LogSchema(
    user="u",
    item="i",
    time="t",
    quality=Percentile("watched", by=("user",), min_count=5),
    labels=("row",),
    duplicates="keep",
)


@pytest.fixture
def frame() -> pd.DataFrame:
    draw = np.random.default_rng(2)
    n = 2_000
    times = draw.integers(0, 480, n) * 3_600
    frame = pd.DataFrame({"u": draw.integers(0, 90, n), "t": times, "i": draw.integers(0, 9, n)})
    return frame.assign(watched=draw.random(n), row=np.arange(n))


def opened(frame: pd.DataFrame, schema: LogSchema = SCHEMA, **split) -> RecReplayBuffer:
    return RecReplayBuffer.from_pandas(frame, schema, history=5, **split)


def rows_of(log: RecReplayBuffer, part: str) -> list[int]:
    return log.split(part).column("row").tolist()


@pytest.mark.parametrize(
    ("outer", "inside", "alone"),
    [
        ({"test_days": 3}, {"validation_days": 2}, {"test_days": 2}),
        ({"test_days": 3}, {"validation_days": "auto"}, {"test_days": "auto"}),
        ({"test_start": "1970-01-15"}, {"validation_days": 4}, {"test_days": 4}),
        ({"test_share": 0.2}, {"validation_share": 0.3}, {"test_share": 0.3}),
        (
            {"test_share": 0.2, "test_by": "user"},
            {"validation_share": 0.25},
            {"test_share": 0.25, "test_by": "user"},
        ),
    ],
)
def test_it_is_the_split_of_a_log_without_the_test_rows(frame, outer, inside, alone):
    log = opened(frame, **outer, **inside)
    plain = opened(frame, **outer)
    assert rows_of(log, "test") == rows_of(plain, "test")
    kept = opened(frame[frame.row.isin(rows_of(plain, "train"))], **alone)
    for part, same in {"train": "train", "validation": "test"}.items():
        ours, theirs = log.split(part), kept.split(same)
        assert ours.column("row").tolist() == theirs.column("row").tolist()
        torch.testing.assert_close(ours.quality, theirs.quality, rtol=0, atol=0)
        mine, other = (each[:]["observation", "history"] for each in (ours, theirs))
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


def test_what_the_test_rows_are_worth_changes_nothing(frame):
    split = {"test_days": 3, "validation_days": 2}
    before = opened(frame, **split)
    test = frame.row.isin(rows_of(before, "test"))
    after = opened(frame.assign(watched=frame.watched.where(~test, 9.0 - frame.watched)), **split)
    for part in ("train", "validation"):
        assert torch.equal(before.split(part).quality, after.split(part).quality)


def test_draws_are_of_two_seeds(frame):
    schema = SCHEMA.replace(quality="watched")
    random = {"test_share": 0.3, "test_by": "random"}
    log = opened(frame, schema, **random, validation_share=0.3)
    found = {part: rows_of(log, part) for part in ("train", "validation", "test")}
    assert sorted(row for rows in found.values() for row in rows) == list(frame.row)
    assert set(found["test"]) == set(rows_of(opened(frame, schema, **random), "test"))
    expected = 0.3 * 0.7 * len(frame)
    assert abs(len(found["validation"]) - expected) < 4 * np.sqrt(expected)


def test_a_column_may_say_which_rows_are_held_out(frame):
    frame = frame.assign(part=np.where(frame.row % 4 == 0, "test", "train"))
    schema = SCHEMA.replace(split="part", quality="watched")
    log = opened(frame, schema, validation_share=0.2)
    validation = rows_of(log, "validation")
    assert set(rows_of(log, "test")) == set(frame.row[frame.part == "test"])
    assert all(row % 4 for row in validation)
    assert abs(len(validation) - 300) < 4 * np.sqrt(300)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"validation_days": 2}, "beside test rows"),
        ({"test_days": 2, "validation_share": 0.1}, "give validation_days"),
        ({"test_share": 0.2, "validation_days": 1}, "give validation_share"),
        ({"test_days": 2, "validation_days": 1, "validation_share": 0.1}, "not both"),
        ({"test_days": 2, "validation_days": 0}, "validation_days must be at least 1"),
        ({"test_share": 0.2, "validation_share": 2.0}, r"validation_share must lie in \(0, 1\)"),
    ],
)
def test_what_cannot_be_held_out_is_refused(frame, split, message):
    with pytest.raises((LogError, ValueError), match=message):
        opened(frame, **split)


def test_a_column_that_has_such_rows_is_not_divided_again(frame):
    parts = np.array(["train", "validation", "test"])[frame.row % 3]
    schema = SCHEMA.replace(split="part", quality="watched")
    with pytest.raises(LogError, match="cannot become 'validation'"):
        opened(frame.assign(part=parts), schema, validation_share=0.2)
    with pytest.raises(LogError, match="are a share of the training rows"):
        opened(frame.assign(part=parts), schema, validation_days=1)


def test_conversions_without_it_bear_the_names_that_they_had():
    plain = {"days": 3, "start": None, "share": None, "by": None, "seed": 0}
    assert Split(days=3).to_json() == plain
    assert Split.within(Split(days=3), 2, None).to_json()["inside"]["days"] == 2
