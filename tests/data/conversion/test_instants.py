"""What a row's history may show: nothing of its own instant, nothing of its own slate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from torchrl_drpo.data import LogSchema, RecReplayBuffer, convert_log, validate_log
from torchrl_drpo.data.conversion.groups import tied

SCHEMA = LogSchema(user="u", item="i", time="t", quality="click", duplicates="keep")
LENGTH = 6


@pytest.fixture
def frame() -> pd.DataFrame:
    """Few instants, so that most rows are tied; slates of up to five rows at one time each."""
    draw = np.random.default_rng(3)
    n = 400
    frame = pd.DataFrame(
        {
            "u": draw.integers(0, 9, n),
            "t": draw.integers(0, 12, n) * 10,
            "i": draw.integers(50, 90, n),
        }
    )
    frame["click"] = draw.integers(0, 2, n)
    frame["watched"] = draw.normal(size=n)
    frame["s"] = frame.t * 100 + frame.u % 3
    return frame


def by_hand(frame: pd.DataFrame, earlier, enters) -> list[set]:
    """Of each row the last items before it, as a set of what may stand at each instant."""
    histories = []
    for row in frame.itertuples():
        past = frame[(frame.u == row.u) & enters & earlier(frame, row)]
        histories.append(sorted(past.sort_values("t", kind="stable").i))
    return histories


def windows(frame: pd.DataFrame, schema: LogSchema, length: int = 400) -> list[list]:
    """The product's histories, in the frame's order, as raw ids."""
    log = RecReplayBuffer.from_pandas(frame, schema, history=length)
    rows = log[:]
    found = [None] * len(frame)
    for place, history in zip(rows["row"].tolist(), rows["observation", "history"], strict=True):
        found[int(place)] = log.items.decode(history[history >= 0])
    return found


@pytest.mark.parametrize(
    ("rule", "enters"),
    [
        ("all", lambda f: f.u >= 0),
        ("positive", lambda f: f.click > 0),
        ("watched - .5", lambda f: f.watched > 0.5),
        ("0", lambda f: f.u < 0),
    ],
)
@pytest.mark.parametrize("gap", [0, 10, 25, 1000])
@pytest.mark.parametrize("slate", [None, "s"])
def test_histories_are_those_found_by_hand(frame, rule, enters, gap, slate):
    frame["row"] = np.arange(len(frame))
    schema = SCHEMA.replace(history_rows=rule, history_gap=gap, slate=slate, labels=("row",))
    found = windows(frame, schema)
    expected = by_hand(frame, lambda f, row: f.t < row.t - gap, enters(frame))
    assert [sorted(history) for history in found] == expected


def test_a_slate_that_takes_its_time_shows_none_of_itself():
    frame = pd.DataFrame(
        {
            "u": 0,
            "t": [1, 2, 2, 3, 4, 9],
            "i": [5, 6, 7, 8, 9, 10],
            "s": [0, 1, 1, 1, 2, 2],
            "click": 1,
        }
    )
    log = RecReplayBuffer.from_pandas(frame, SCHEMA.replace(slate="s"), history=4)
    rows = log[:]["observation", "history"]
    raw = [log.items.decode(history[history >= 0]) for history in rows]
    assert raw == [[], [5], [5], [5], [5, 6, 7, 8], [5, 6, 7, 8]]


@pytest.mark.parametrize("rule", ["all", "positive"])
@pytest.mark.parametrize("slate", [None, "s"])
def test_the_order_of_the_file_changes_no_history(frame, rule, slate):
    frame["row"] = np.arange(len(frame))
    schema = SCHEMA.replace(history_rows=rule, slate=slate, labels=("row",))
    shuffled = frame.sample(frac=1, random_state=5).reset_index(drop=True)
    original = {r: sorted(h) for r, h in enumerate(windows(frame, schema))}
    renumbered = shuffled.assign(row=np.arange(len(shuffled)))
    for place, history in enumerate(windows(renumbered, schema)):
        assert sorted(history) == original[int(shuffled.row[place])]


@pytest.mark.parametrize("rule", ["all", "positive"])
def test_the_state_after_a_row_holds_its_item_behind_its_own_past(frame, rule):
    schema = SCHEMA.replace(history_rows=rule)
    log = RecReplayBuffer.from_pandas(frame, schema, history=5, next_observation=True)
    rows = log[:]
    past, after = rows["observation", "history"], rows["next", "observation", "history"]
    enters = (rows["next", "reward"][:, 0] > 0) | (rule == "all")
    assert (after[~enters] == past[~enters]).all()
    assert (after[enters][:, -1] == rows["action"][enters]).all()
    assert (after[enters][:, :-1] == past[enters][:, 1:]).all()


@pytest.mark.parametrize("rule", ["all", "positive", "0"])
def test_the_latest_history_holds_every_row_that_enters(frame, rule):
    log = RecReplayBuffer.from_pandas(frame, SCHEMA.replace(history_rows=rule), history=4)
    entering = {"all": frame, "positive": frame[frame.click > 0], "0": frame[:0]}[rule]
    for user in range(9):
        latest = log.latest_history([user], 400)[0]
        raw = log.items.decode(latest[latest >= 0])
        assert sorted(raw) == sorted(entering[entering.u == user].i)


def test_a_log_without_ties_stores_nothing_more(tmp_path):
    frame = pd.DataFrame({"u": [0, 0, 1], "i": [3, 4, 3], "t": [1, 2, 1], "click": 1})
    report = convert_log(frame, tmp_path / "log", SCHEMA)
    assert report.tied_rows == 0
    assert not list((tmp_path / "log").rglob("history_*"))
    tied = convert_log(frame.assign(t=1), tmp_path / "tied", SCHEMA)
    assert tied.tied_rows == 2
    assert [path.name for path in (tmp_path / "tied").rglob("history_*")] == ["history_ends.bin"]


def test_the_parts_of_a_conversion_agree(frame, tmp_path):
    """Histories cut in one piece and in partitions of a few rows are the same."""
    schema = SCHEMA.replace(history_rows="positive", slate="s")
    convert_log(frame, tmp_path, schema, partition_rows=30, batch_rows=7)
    pieces = RecReplayBuffer.open(tmp_path, history=LENGTH)[:]
    whole = RecReplayBuffer.from_pandas(frame, schema, history=LENGTH)[:]
    assert (whole["observation", "history"] == pieces["observation", "history"]).all()


def test_tied_rows_are_counted_and_said(frame):
    expected = int(frame.duplicated(["u", "t"], keep=False).sum())
    ordered = frame.sort_values(["u", "t"])
    assert tied(ordered.u.to_numpy(), ordered.t.to_numpy()).sum() == expected
    fault = validate_log(frame, SCHEMA).fault("rows of one user and time")
    assert (fault.count, fault.severity) == (expected, "warning")
    assert f"{expected / len(frame):.0%}" in fault.advice


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history_gap": -1.0}, "history_gap must be 0 seconds or more, got -1.0"),
        ({"history_gap": float("inf")}, "history_gap must be"),
        ({"history_rows": "some(i)"}, "unknown function"),
        ({"time": None}, "need `user` and `time` columns and no `history` column"),
    ],
)
def test_what_a_schema_cannot_mean_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SCHEMA.replace(history_rows="positive").replace(**change)


def test_a_rule_that_gives_no_number_is_a_fault_of_its_row(frame):
    frame.loc[7, "watched"] = np.nan
    with pytest.raises(ValueError, match="reward is not finite"):
        RecReplayBuffer.from_pandas(frame, SCHEMA.replace(history_rows="watched"))


def test_a_rule_may_name_events(frame):
    frame["type"] = np.where(frame.click > 0, "click", "view")
    frame["row"] = np.arange(len(frame))
    by_event = SCHEMA.replace(labels=("row",), history_rows="type == 'click'")
    by_number = by_event.replace(history_rows="positive")
    assert windows(frame, by_event) == windows(frame, by_number)
