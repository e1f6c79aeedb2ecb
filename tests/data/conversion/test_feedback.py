"""Feedback as texts: funnels in one column, equality in formulas, columns of odd names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from torchrl_drpo.data import (
    EventValues,
    LogError,
    LogSchema,
    Percentile,
    RecReplayBuffer,
    ReturnToGo,
    convert_log,
    validate_log,
)

WORTH = {"clicks": 1, "carts": 3.5, "orders": 6}
EVENTS = ["clicks", "orders", "carts", "clicks", "orders"]
FRAME = pd.DataFrame(
    {
        "u": [1, 1, 1, 2, 2],
        "i": [5, 6, 7, 5, 6],
        "t": range(5),
        "type": EVENTS,
        "Book-Rating": range(5),
    }
)
SCHEMA = LogSchema(user="u", item="i", time="t", quality=EventValues("type", WORTH))
FORMS = {
    "text": lambda frame: frame,
    "categories": lambda frame: frame.astype({"type": "category"}),
    "views": lambda frame: pa.table(
        {**frame.to_dict("list"), "type": pa.array(frame["type"].tolist(), pa.string_view())}
    ),
}


@pytest.mark.parametrize("form", [*FORMS, "csv"])
@pytest.mark.parametrize("quality", [
    EventValues("type", WORTH),
    "(type == 'clicks') + 3.5 * (type == 'carts') + 6 * (type == 'orders')",
    "6 if 'orders' == type else 1 + 2.5 * (type != 'clicks')",
])  # fmt: skip
def test_a_funnel_in_one_column(tmp_path, quality, form):
    log = FORMS.get(form, lambda frame: frame)(FRAME)
    if form == "csv":
        log = tmp_path / "log.csv"
        FRAME.to_csv(log, index=False)
    found = RecReplayBuffer.from_parquet(log, SCHEMA.replace(quality=quality))
    assert found.quality.tolist() == [WORTH[event] for event in EVENTS]
    assert validate_log(log, SCHEMA.replace(quality=quality)).ok


@pytest.mark.parametrize("written", [str, int])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_events_that_are_numbers_are_names_all_the_same(tmp_path, written, suffix):
    frame = FRAME.assign(type=[written(k) for k in (1, 4, 1, 2, 4)])
    log = tmp_path / f"log{suffix}"
    frame.to_csv(log, index=False) if suffix == ".csv" else frame.to_parquet(log)
    worth = EventValues("type", {"1": 0, "2": 1, "4": 5})
    for quality in (worth, "(type == '2') + 5 * (type == '4')"):
        found = RecReplayBuffer.from_parquet(log, SCHEMA.replace(quality=quality))
        assert found.quality.tolist() == [0, 5, 0, 1, 5]


def test_an_event_that_is_not_named_is_a_fault(tmp_path):
    without = EventValues("type", {"clicks": 1, "orders": 6})
    with pytest.raises(LogError, match=r"row 2: event without a value: type is 'carts'; .*'clicks"):
        convert_log(FRAME, tmp_path, SCHEMA.replace(quality=without))
    report = validate_log(FRAME, SCHEMA.replace(quality=without))
    assert report.fault("event without a value").count == 1
    other = EventValues("type", {"clicks": 1, "orders": 6}, other=0.25)
    found = RecReplayBuffer.from_parquet(FRAME, SCHEMA.replace(quality=other))
    assert found.quality.tolist() == [1, 6, 0.25, 1, 6]


@pytest.mark.parametrize("quality", [EventValues("type", WORTH), "type == 'clicks'"])
def test_an_event_that_is_missing_is_a_fault(quality):
    log = FRAME.assign(type=[*EVENTS[:-1], None])
    with pytest.raises(LogError, match="row 4: missing text: type is null"):
        RecReplayBuffer.from_parquet(log, SCHEMA.replace(quality=quality))
    found = RecReplayBuffer.from_parquet(log, SCHEMA.replace(quality=quality), bad_rows="drop")
    assert (len(found), found.report.dropped) == (4, {"missing text in type": 1})


def test_texts_within_other_kinds_of_quality():
    returns = SCHEMA.replace(quality=ReturnToGo("type == 'orders'", gamma=0.5))
    assert RecReplayBuffer.from_parquet(FRAME, returns).quality.tolist() == [0.5, 1, 0, 0.5, 1]
    ranks = SCHEMA.replace(quality=Percentile("2 * (type == 'orders') + (type == 'carts')"))
    expected = pd.Series([0, 2, 1, 0, 2]).rank() / 5 - 0.1  # mid-ranks: ties share one
    np.testing.assert_allclose(RecReplayBuffer.from_parquet(FRAME, ranks).quality, expected)


@pytest.mark.parametrize("quality", ["Book-Rating", "`Book-Rating`", Percentile("Book-Rating")])
def test_a_formula_that_equals_a_columns_name_is_that_column(quality):
    ratings = RecReplayBuffer.from_parquet(FRAME, SCHEMA.replace(quality=quality)).quality
    expected = [0.1, 0.3, 0.5, 0.7, 0.9] if isinstance(quality, Percentile) else range(5)
    np.testing.assert_allclose(ratings, expected)
    other = FRAME.rename(columns={"Book-Rating": "Book"}).assign(Rating=1)
    if quality == "Book-Rating":  # a difference, where the log has no column of that name
        found = RecReplayBuffer.from_parquet(other, SCHEMA.replace(quality=quality))
        assert found.quality.tolist() == [-1, 0, 1, 2, 3]


def test_a_number_is_no_text():
    frame = FRAME.assign(**{"Book-Rating": 0.5})
    with pytest.raises(LogError, match=r"'Book-Rating' holds float values, .* integer or string"):
        RecReplayBuffer.from_parquet(frame, SCHEMA.replace(quality="`Book-Rating` == '0.5'"))
