"""A unit that is declared wrong is told by the years that it gives."""

from __future__ import annotations

import datetime

import pytest

from torchrl_drpo.data.schema.checks import TIME_UNITS
from torchrl_drpo.data.schema.times import implausible_times

FIRST = datetime.datetime(2019, 3, 4, tzinfo=datetime.timezone.utc).timestamp()
LAST = datetime.datetime(2023, 9, 4, tzinfo=datetime.timezone.utc).timestamp()


@pytest.mark.parametrize("declared", TIME_UNITS)
@pytest.mark.parametrize("logged", TIME_UNITS)
def test_the_unit_that_fits_is_named(logged, declared):
    """Numbers of one unit, read in another."""
    scale = TIME_UNITS[logged] / TIME_UNITS[declared]
    said = implausible_times(FIRST * scale, LAST * scale, declared)
    if logged == declared:
        assert said is None
    else:
        assert f"time_unit={declared!r} is probably wrong: counted in {logged!r}" in said
        assert said.endswith("between 2019 and 2023")


@pytest.mark.parametrize("ends", [(0, 86_400), (0, LAST), (-FIRST, FIRST), (FIRST, 1e17)])
def test_times_that_fit_in_no_unit_are_asked_about(ends):
    assert implausible_times(*ends, "s").endswith("outside 1990-2100; is time_unit='s' right?")
