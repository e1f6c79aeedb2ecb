"""The feedback columns of a batch, as formulas read them, and what events are worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema import EventValues, LogSchema
from ..schema.formula import Formula
from ..schema.quality import Quality
from ..sources.arrow import string_codes, to_float
from ..sources.kinds import column_kind

if TYPE_CHECKING:
    import pyarrow as pa

Show = Callable[[int], str]
#: Takes in the rows with a fault: its kind, the column whose values are wrong (``None`` where it is
#: none alone), which rows, how to show one of them, and what to do.
Fault = Callable[[str, str | None, np.ndarray, Show, str], None]


class Texts:
    """A column of texts that is compared with one text at a time: by number, not letter.

    Args:
        words: the distinct texts.
        codes: int64 ``[N]``, which of them each row holds.
    """

    def __init__(self, words: list[str], codes: np.ndarray) -> None:
        self.words, self.codes = words, codes

    def __eq__(self, other: object) -> Any:
        """Bool ``[N]``."""
        same = np.array([word == other for word in self.words], dtype=bool)
        return same[self.codes]

    __hash__ = None  # type: ignore[assignment]


def feedback(table: pa.RecordBatch, quality: Quality, fault: Fault) -> dict[str, Any]:
    """The columns that a quality's formulas read: float64 ``[N]``, or texts.

    A comparison would turn NaN, or a text that is missing, into a quiet zero: both are faults.
    """
    values: dict[str, Any] = {}
    for name in quality.columns:
        if name in quality.texts:
            values[name], missing = _texts(table.column(name))
            shown, advice = f"{name} is null", "a formula compares it with a text; fill it"
            fault("missing text", name, missing, lambda _, shown=shown: shown, advice)
            continue
        value = values[name] = to_float(table.column(name))
        fault(
            "reward is not finite", name, ~np.isfinite(value),
            lambda row, n=name, v=value: f"{n} is {v[row]}", "rewards need finite columns",
        )  # fmt: skip
    return values


def entering(
    table: pa.RecordBatch, schema: LogSchema, value: np.ndarray, fault: Fault
) -> np.ndarray:
    """Which rows stand in later histories, bool ``[N]``; ``value`` is what their quality reads."""
    rows = schema.history_formula
    if rows is None:  # "positive"
        return value > 0
    found = np.broadcast_to(Formula(rows.formula)(feedback(table, rows, fault)), len(value))
    shown = lambda row: f"{rows.formula} gives {found[row]}"  # noqa: E731
    fault("history_rows is not a number", None, np.isnan(found), shown, "guard the formula")
    return found > 0


def event_values(column: pa.Array, quality: EventValues, fault: Fault) -> np.ndarray:
    """What each row's event is worth, float64 ``[N]``; zero where that is a fault."""
    texts, missing = _texts(column)
    name, other = quality.column, np.nan if quality.other is None else quality.other
    worth = np.array([quality.values.get(word, other) for word in texts.words], dtype=np.float64)
    value = worth[texts.codes]
    fault("missing text", name, missing, lambda _: f"{name} is null", "every row needs its event")
    fault(
        "event without a value", name, np.isnan(value) & ~missing,
        lambda row: f"{name} is {texts.words[texts.codes[row]]!r}",
        f"the schema's values name {sorted(quality.values)}; name it too (0 where it is worth "
        "nothing), or say what `other` events are worth",
    )  # fmt: skip
    return np.where(np.isnan(value) | missing, 0.0, value)


def _texts(column: pa.Array) -> tuple[Texts, np.ndarray]:
    """The texts of a column (of integers: as they are written), and where they are missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column_kind(column.type) != "string":
        column = pc.cast(column, pa.string())
    words, codes, null = string_codes(column)
    return Texts([word.decode() for word in words], codes), null
