"""What is held out: the last days, a share by time, by user or by a draw, or what a column says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from torchrl_drpo.data import LogError, LogSchema, RecReplayBuffer, validate_log
from torchrl_drpo.data.conversion import times
from torchrl_drpo.data.conversion.split import drawn
from torchrl_drpo.data.schema.split import Split

SCHEMA = LogSchema(user="u", item="i", time="t", quality="click", duplicates="keep")
LABELLED = SCHEMA.replace(labels=("row",))


@pytest.fixture
def frame() -> pd.DataFrame:
    draw = np.random.default_rng(1)
    n = 2_000
    times = draw.integers(0, 500, n) * 3_600
    frame = pd.DataFrame({"u": draw.integers(0, 90, n), "t": times, "i": draw.integers(0, 50, n)})
    return frame.assign(click=draw.integers(0, 2, n), row=np.arange(n))


def held_out(frame: pd.DataFrame, schema: LogSchema = LABELLED, **split) -> set[int]:
    log = RecReplayBuffer.from_pandas(frame, schema, **split)
    parts = {name: set(log.split(name).column("row").tolist()) for name in ("train", "test")}
    assert parts["train"] | parts["test"] == set(frame.row)
    assert not parts["train"] & parts["test"]
    return parts["test"]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_a_share_by_time_holds_the_latest_rows_and_no_half_instants(frame, share):
    found = held_out(frame, test_share=share)
    ordered = np.sort(frame.t)
    first = ordered[int((1 - share) * len(frame) + 0.5)]
    assert found == set(frame.row[frame.t >= first])
    assert abs(len(found) / len(frame) - share) < 0.01


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_share_by_user_holds_each_user_s_latest(frame, share):
    found = held_out(frame, test_share=share, test_by="user")
    for _, rows in frame.groupby("u"):
        out = rows[rows.row.isin(found)]
        kept = rows.drop(out.index)
        assert len(kept) > 0
        assert out.empty or kept.t.max() < out.t.min()
        wanted = min(int(share * len(rows) + 0.5), len(rows) - 1)
        later = [t for t in sorted(set(rows.t)) if (rows.t >= t).sum() <= wanted]
        assert len(out) == ((rows.t >= later[0]).sum() if later else 0)


def test_a_draw_is_the_seed_s_and_no_batch_s(frame):
    options = {"test_share": 0.3, "test_by": "random"}
    found = held_out(frame, **options)
    assert abs(len(found) / len(frame) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(frame))
    assert found == held_out(frame, **options)
    assert found != held_out(frame, **options, test_seed=1)
    assert found == held_out(frame.sample(frac=1, random_state=3), **options)
    stored = LABELLED.replace(user=None, time=None)  # as logged, and drawn by number
    numbers = np.arange(len(frame))
    found = held_out(frame, stored, **options)
    assert found == set(numbers[drawn(Split(share=0.3, by="random"), numbers)].tolist())
    assert drawn(Split(share=0.3, by="random"), numbers[700:])[0] == (700 in found)


def test_a_share_by_time_asks_no_row_its_place(frame, monkeypatch):
    """Where a log has more instants than are kept: those that are show about the same share."""
    fine = frame.assign(t=np.random.default_rng(2).permutation(len(frame)))
    exact = held_out(fine, test_share=0.3)
    assert exact == set(fine.row[fine.t >= 1_400])
    monkeypatch.setattr(times.Instants, "most", 500)
    found = held_out(fine, test_share=0.3)
    assert found == held_out(fine.sample(frac=1, random_state=3), test_share=0.3)
    assert found != exact
    assert abs(len(found) / len(fine) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 250)


def test_a_log_without_times_is_split_by_a_draw(frame):
    schema = LogSchema(user="u", item="i", quality="click", duplicates="keep", labels=("row",))
    assert held_out(frame, schema, test_share=0.2, test_by="random")
    for wrong in ({"test_share": 0.2}, {"test_days": 3}, {"test_start": "1970-01-09"}):
        with pytest.raises(LogError, match="test_by='random'"):
            held_out(frame, schema, **wrong)
    with pytest.raises(LogError, match="each user's latest rows need"):
        held_out(frame, schema, test_share=0.2, test_by="user")


@pytest.mark.parametrize(("days", "expected"), [(2, 1), (3, 1), (4, 2), (6, 3), (20, 3)])
def test_a_short_log_keeps_half_of_its_days_to_train_on(frame, days, expected):
    short = frame.assign(t=np.arange(len(frame)) * days // len(frame) * 86_400)
    assert held_out(short, test_days="auto") == held_out(short, test_days=expected)
    dated = short.assign(d=pd.to_datetime(short.t, unit="s").dt.strftime("%Y-%m-%d"))
    schema = LABELLED.replace(time=None, date="d")
    assert held_out(dated, schema, test_days="auto") == held_out(short, test_days=expected)


def test_rows_without_a_day_do_not_lengthen_a_log(frame):
    dated = frame.assign(d=np.where(frame.row % 2, "2024-05-01", "2024-05-03"))
    dated.loc[5, "d"] = "30 February"
    schema = LABELLED.replace(time=None, date="d")
    log = RecReplayBuffer.from_pandas(dated, schema, test_days="auto", bad_rows="drop")
    assert log.report.first_test_day == "2024-05-03"
    every = dated.assign(d="never")
    with pytest.raises(LogError, match="no row is left"):
        RecReplayBuffer.from_pandas(every, schema, test_days="auto", bad_rows="drop")


def test_dates_alone_are_instants(frame):
    dated = frame.assign(d=pd.to_datetime(frame.t, unit="s").dt.strftime("%Y-%m-%d"))
    schema = LogSchema(item="i", date="d", quality="click", duplicates="keep", labels=("row",))
    found = held_out(dated, schema, test_share=0.25)
    days = dated.d[dated.row.isin(found)]
    assert found == set(dated.row[dated.d >= days.min()])
    log = RecReplayBuffer.from_pandas(dated, schema, test_share=0.25)
    assert log.report.first_test_day == days.min()


def test_what_is_held_out_is_said(frame):
    def said(schema=SCHEMA, **split):
        return RecReplayBuffer.from_pandas(frame, schema, **split).report.held_out

    assert said() is None
    assert said(test_days=2) == "rows from 1970-01-20 on"
    assert said(test_share=0.2).startswith("the latest 20% of the rows, from 1970-01-1")
    assert said(test_share=0.2, test_by="user") == "the latest 20% of the rows of each user"
    assert said(test_share=0.2, test_by="random") == "20% of the rows, drawn with seed 0"
    frame["part"] = np.where(frame.row < 1_500, "train", "test")
    assert said(SCHEMA.replace(split="part")) == "as the column 'part' says"


def test_a_column_that_splits_is_not_overruled_in_silence(frame):
    frame["part"] = np.where(frame.row < 1_500, "train", "test")
    schema = LABELLED.replace(split="part")
    assert held_out(frame, schema) == set(range(1_500, 2_000))
    for split in ({"test_days": 2}, {"test_share": 0.2}, {"test_start": "1970-01-10"}):
        with pytest.raises(LogError, match="leave one of the two out"):
            held_out(frame, schema, **split)
    assert not validate_log(frame, schema, test_days=2).ok
    assert validate_log(frame, schema).ok


def test_a_part_without_rows_is_refused(frame):
    with pytest.raises(ValueError, match="part 'train' of this log is empty"):
        held_out(frame, test_days=400)
    with pytest.raises(ValueError, match="part 'test' of this log is empty"):
        held_out(frame, test_start="2030-01-01")
    later = RecReplayBuffer.from_pandas(frame, SCHEMA, test_start="2030-01-01")
    assert len(later.split("train")) == len(frame)  # a period that is still to come is no fault
    with pytest.raises(LogError, match="would hold out every row"):
        held_out(frame.assign(t=5), test_share=0.2)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"days": 2, "share": 0.2}, "give test_days or test_share, not both"),
        ({"days": 0}, "test_days must be at least 1, got 0"),
        ({"days": "all"}, "test_days must be a number or 'auto', got 'all'"),
        ({"share": 1.0}, "test_share must lie in"),
        ({"share": 0.2, "by": "luck"}, "test_by must be one of time, user, random, got 'luck'"),
        ({"by": "user"}, "give test_share too"),
        ({"start": "soon"}, "test_start must be YYYY-MM-DD, got 'soon'"),
    ],
)
def test_splits_that_mean_nothing_are_refused(split, message):
    with pytest.raises(ValueError, match=message):
        Split(**split)


def test_a_quality_is_fitted_on_what_is_not_held_out(frame):
    """A percentile by training rows, whichever way they are chosen."""
    from torchrl_drpo.data import Percentile

    frame["watched"] = np.random.default_rng(5).normal(size=len(frame))
    schema = LABELLED.replace(quality=Percentile("watched"))
    for split in ({"test_share": 0.3, "test_by": "random"}, {"test_share": 0.3, "test_by": "user"}):
        log = RecReplayBuffer.from_pandas(frame, schema, **split)
        train = np.sort(frame.watched[log.split("train").column("row").numpy()])
        rows = log.column("row").numpy()
        below = np.searchsorted(train, frame.watched.to_numpy()[rows], side="left")
        upto = np.searchsorted(train, frame.watched.to_numpy()[rows], side="right")
        expected = (below + upto) / 2 / len(train)
        np.testing.assert_allclose(log.quality.numpy(), expected, atol=1e-6)
