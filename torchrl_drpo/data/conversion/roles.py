"""Which kinds of values a column must hold for its role in the schema."""

from __future__ import annotations

import numpy as np

from ..schema import LogSchema
from ..schema.checks import TIME_UNITS
from ..sources import LogError

SECONDS_A_DAY = 86_400
NO_DAY = -(2**31)


def id_columns(schema: LogSchema) -> dict[str, str]:
    """Catalogue name -> column, for every column whose values are ids."""
    named = {"users": schema.user, "items": schema.item, "policies": schema.policy}
    named |= {f"context.{name}": name for name in schema.context}
    named["splits"] = schema.split
    return {name: column for name, column in named.items() if column is not None}


def check_kinds(schema: LogSchema, kinds: dict[str, str]) -> None:
    """Raises ``LogError`` where a column's kind does not fit its role."""
    numeric = {"integer", "float", "boolean"}
    wanted = {name: {"integer", "string"} for name in id_columns(schema).values()}
    wanted |= {name: {"integer", "string", "boolean"} for name in schema.context}
    formulas = [schema.quality, *([schema.history_formula] if schema.history_formula else [])]
    wanted |= {name: numeric for each in formulas for name in each.columns}
    wanted |= {name: {"string", "integer"} for each in formulas for name in each.texts}
    wanted |= dict.fromkeys(schema.labels, numeric)
    for name in (schema.propensity, schema.position, schema.terminal):
        wanted |= {name: numeric} if name else {}
    wanted |= {schema.time: {"integer", "float", "time"}} if schema.time else {}
    wanted |= {schema.date: {"integer", "float", "time", "string"}} if schema.date else {}
    wanted |= {schema.history: {"list"}} if schema.history else {}
    for name in schema.features:  # where the column has another role too: what suits both
        wanted[name] = wanted.get(name, numeric) & numeric
    for column, allowed in wanted.items():
        if kinds[column] not in allowed:
            raise LogError(
                f"column {column!r} holds {kinds[column]} values, but the schema uses it where "
                f"{' or '.join(sorted(allowed))} values are expected"
            )


def time_resolution(schema: LogSchema, kinds: dict[str, str]) -> int:
    """Ticks a second of the stored times: the schema's unit, at least microseconds otherwise.

    Otherwise: for Arrow timestamps, and for floats, whose fractions put rows in order.
    """
    unit = TIME_UNITS[schema.time_unit]
    if schema.time and kinds[schema.time] == "time":
        return TIME_UNITS["us"]
    return max(unit, TIME_UNITS["us"]) if schema.time and kinds[schema.time] == "float" else unit


def day_number(date: np.ndarray) -> np.ndarray:
    """Days since 1970 of YYYYMMDD integers; ``NO_DAY`` where that is no date.

    >>> day_number(np.array([19700102, 20220506]))
    array([    1, 19118])
    """
    year, month, day = date // 10_000, date // 100 % 100, date % 100
    good = (month >= 1) & (month <= 12) & (day >= 1) & (year >= 1900) & (year <= 2200)
    months = np.where(good, (year - 1970) * 12 + month - 1, 0)
    first = months.astype("M8[M]").astype("M8[D]").astype(np.int64)
    length = (months + 1).astype("M8[M]").astype("M8[D]").astype(np.int64) - first
    return np.where(good & (day <= length), first + day - 1, NO_DAY)
