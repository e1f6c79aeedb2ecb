"""Whether a log's times are times of our days, in the unit that its schema says."""

from __future__ import annotations

from .checks import TIME_UNITS

SECONDS_A_YEAR = 365.25 * 86_400
#: Interactions are logged between these years.
PLAUSIBLE_YEARS = (1990, 2100)


def implausible_times(first: float, last: float, unit: str) -> str | None:
    """What is wrong with a log whose times lie so, None where nothing seems to be.

    Anything that trains or tests on a log's last days should say it: days of a wrong unit are
    nearly empty, and a held-out part of them means nothing.

    Args:
        first: earliest time, in seconds since 1970, as the schema reads it.
        last: latest time.
        unit: the schema's ``time_unit``.

    Examples:
        >>> print(implausible_times(1.70e12, 1.71e12, "s"))
        times lie between the years 55840 and 56157, outside 1990-2100; time_unit='s' is probably
        wrong: counted in 'ms' they would lie between 2023 and 2024
        >>> implausible_times(1.70e9, 1.71e9, "s") is None
        True
    """
    low, high = PLAUSIBLE_YEARS
    if low <= _year(first) and _year(last) <= high:
        return None
    years = f"{_year(first):.0f} and {_year(last):.0f}"
    said = f"times lie between the years {years}, outside {low}-{high}"
    for other, ticks in TIME_UNITS.items():
        scale = TIME_UNITS[unit] / ticks
        if low <= _year(first * scale) and _year(last * scale) <= high:
            return (
                f"{said}; time_unit={unit!r} is probably wrong: counted in {other!r} they would "
                f"lie between {int(_year(first * scale))} and {int(_year(last * scale))}"
            )
    return f"{said}; is time_unit={unit!r} right?"


def _year(seconds: float) -> float:
    return 1970 + seconds / SECONDS_A_YEAR
