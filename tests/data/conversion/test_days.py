"""The day of a row is the one that the log's own clocks show; pandas' calendars are the judge."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from torchrl_drpo.data import LogError, LogSchema, RecReplayBuffer, validate_log
from torchrl_drpo.data.conversion.days import calendar_days, row_days
from torchrl_drpo.data.conversion.roles import NO_DAY

UNITS = ["s", "ms", "us", "ns"]
ZONES = [None, "UTC", "Asia/Tokyo", "America/Sao_Paulo", "Europe/Berlin", "+05:45", "-09:30"]
#: Around midnights of all these zones, summer time and winter, on both sides of 1970.
INSTANTS = pd.DatetimeIndex(
    [
        stamp + pd.Timedelta(hours=hour) - pd.Timedelta(seconds=late)
        for stamp in pd.to_datetime(["1931-06-01", "1969-12-31", "2022-03-27", "2022-10-30"])
        for hour in range(0, 49, 3)
        for late in (0, 1)
    ]
)
SCHEMA = LogSchema(user="u", item="i", time="t", quality="r")


def instants(unit: str, zone: str | None) -> pa.Array:
    return pa.array(INSTANTS.as_unit(unit)).cast(pa.timestamp(unit, zone))


def days_in(zone: str | None) -> list[int]:
    local = INSTANTS
    if zone is not None:
        local = INSTANTS.tz_localize("UTC").tz_convert(zone).tz_localize(None)
    return [(day - pd.Timestamp(0)).days for day in local.normalize()]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", UNITS)
def test_a_date_is_its_own_zone_s_day(unit, zone):
    assert calendar_days(instants(unit, zone)).tolist() == days_in(zone)


@pytest.mark.parametrize("offset", [0.0, 8.0, -3.5])
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit", UNITS)
def test_so_are_the_days_of_times_unless_the_schema_says_otherwise(unit, zone, offset):
    schema = SCHEMA.replace(utc_offset_hours=offset)
    found = row_days(pa.record_batch({"t": instants(unit, zone)}), schema, 1_000_000)
    shifted = (INSTANTS + pd.Timedelta(hours=offset)).normalize()
    local = [(day - pd.Timestamp(0)).days for day in shifted]
    assert found.tolist() == (local if offset else days_in(zone))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("offset", [0.0, 5.75, -9.5])
def test_days_of_numbers(unit, offset):
    schema = SCHEMA.replace(time_unit=unit, utc_offset_hours=offset)
    per_second = 10 ** (3 * UNITS.index(unit))
    seconds = (INSTANTS - pd.Timestamp(0)) // pd.Timedelta(seconds=1)
    shifted = (INSTANTS + pd.Timedelta(hours=offset)).normalize()
    local = [(day - pd.Timestamp(0)).days for day in shifted]
    for kind in (np.int64, np.float64):
        times = pa.array((np.asarray(seconds) * per_second).astype(kind))
        found = row_days(pa.record_batch({"t": times}), schema, per_second)
        assert found.tolist() == local


@pytest.mark.parametrize(
    ("written", "days"),
    [
        (pa.array([0, -1, None], pa.int32()).cast(pa.date32()), [0, -1, NO_DAY]),
        (pa.array([0, -1, None], pa.int32()).cast(pa.date32()).cast(pa.date64()), [0, -1, NO_DAY]),
        (pa.array([19700101, 19691231, 19690229, None, 0]), [0, -1, NO_DAY, NO_DAY, NO_DAY]),
        (pa.array([19700103.0, None]), [2, NO_DAY]),
        (pa.array(["1970-01-01", "1969-12-31", None, ""]), [0, -1, NO_DAY, NO_DAY]),
        (pa.array(["19700103", "19700103.0", "1970-1-3", "970103"]), [2, 2, NO_DAY, NO_DAY]),
        # the day that is written, whatever its time and zone
        (pa.array(["1970-01-03 23:59:59", "1970-01-03T00:00:00+09:00"]), [2, 2]),
        (pa.array(["1970-01-03T00:00Z", "1969-02-29 00:00", "1970-01-03x"]), [2, NO_DAY, NO_DAY]),
        (pa.array(["1970-01-03", None]).dictionary_encode(), [2, NO_DAY]),
        (pa.array(["\u0661\u0669\u0667\u0660\u0660\u0661\u0660\u0663"]), [NO_DAY]),
    ],
)
def test_days_as_they_are_written(written, days):
    assert calendar_days(written).tolist() == days


@pytest.mark.parametrize("form", ["tz", "date", "text", "number", "csv", "csv with zone"])
def test_the_test_part_has_the_same_rows_in_every_form(tmp_path, form):
    """Midnight in Tokyo is 15:00 UTC of the day before."""
    days = pd.to_datetime(["2022-05-01"] * 2 + ["2022-05-02"] * 2 + ["2022-05-03"])
    frame = pd.DataFrame({"u": [1, 1, 2, 2, 3], "i": [1, 2, 1, 2, 1], "t": range(5), "r": 1.0})
    forms = {
        "tz": days.tz_localize("Asia/Tokyo"),
        "date": days.date,
        "text": days.strftime("%Y-%m-%d"),
        "number": days.strftime("%Y%m%d").astype(int),
        "csv": days.strftime("%Y%m%d"),
        "csv with zone": days.strftime("%Y-%m-%d 00:00:00+09:00"),
    }
    frame["date"] = forms[form]
    source = frame
    if form.startswith("csv"):
        source = tmp_path / "log.csv"
        frame.to_csv(source, index=False)
    schema = SCHEMA.replace(date="date")
    log = RecReplayBuffer.from_parquet(source, schema, test_days=1)
    assert (log.report.first_test_day, log.report.parts) == ("2022-05-03", {"train": 4, "test": 1})
    assert validate_log(source, schema, test_days=1).ok


def test_a_log_from_before_1970_ends_where_its_rows_do():
    times = pd.to_datetime(["1965-03-01", "1965-03-02", "1965-03-03", None])
    frame = pd.DataFrame({"u": [1, 1, 2, 2], "i": [1, 2, 1, 2], "t": times, "r": 1.0})
    log = RecReplayBuffer.from_pandas(frame, SCHEMA, test_days=1, bad_rows="drop")
    assert (log.report.first_test_day, log.report.parts["test"]) == ("1965-03-03", 1)


def test_a_zone_that_is_unknown_here_is_said():
    times = pa.array([0, 1], pa.timestamp("s", "Mars/Olympus"))
    table = pa.table({"u": [1, 1], "i": [1, 2], "t": times, "r": [1, 1]})
    with pytest.raises(LogError, match="zone 'Mars/Olympus' cannot be put on its calendar"):
        RecReplayBuffer.from_parquet(table, SCHEMA)
