"""What a column looks like from outside: its kind, its range, how often its values repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..sources import LogSource
from ..sources.arrow import to_float
from ..sources.kinds import column_kind, index_names
from ..sources.times import is_iso, possible_forms
from .names import words_of

if TYPE_CHECKING:
    import pyarrow as pa

FEW = 50
#: Years in which interactions are logged; numbers that lie elsewhere are no times.
_EPOCHS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_FROM, _UNTIL = 631_152_000, 4_102_444_800  # 1990 to 2100, in seconds since 1970


@dataclass(frozen=True)
class Profile:
    """One column of some rows.

    Args:
        name: of the column.
        kind: integer, float, boolean, string, time, list, structs (a list of them) or other.
        rows: how many were looked at.
        missing: how many of them hold nothing.
        distinct: how many values there are.
        low: smallest number, NaN where there are none.
        high: largest number.
        values: the distinct values, where they are few, most frequent first; else some of them.
        time_unit: in which whole numbers would be times between 1990 and 2100, None otherwise.
        time_forms: in which every text is a time, as for ``strptime``; ``"iso"`` for ISO 8601.
    """

    name: str
    kind: str
    rows: int
    missing: int
    distinct: int
    low: float
    high: float
    values: tuple[Any, ...]
    time_unit: str | None = None
    time_forms: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The words of its name, in small letters."""
        return words_of(self.name)

    @property
    def is_number(self) -> bool:
        """Whether it holds numbers (or booleans)."""
        return self.kind in ("integer", "float", "boolean")

    @property
    def is_binary(self) -> bool:
        """Whether it holds zeros and ones alone."""
        return self.is_number and self.distinct > 0 and set(self.values) <= {0, 1}

    @property
    def may_be_id(self) -> bool:
        """Whether its values may be names: integers or texts, or floats that are whole."""
        whole = self.kind == "float" and all(float(v).is_integer() for v in self.values)
        return (self.kind in ("integer", "string") or whole) and self.distinct > 0


def profiles(source: LogSource, rows: int) -> list[Profile]:
    """Profiles of every column over the first rows; those that only number rows are left out."""
    import pyarrow as pa

    numbering = set().union(*(index_names(file.schema) for file in source.columns.files))
    names = [name for name in source.columns.names if name not in numbering]
    parts: list[pa.RecordBatch] = []
    for batch in source.batches(names):
        parts.append(batch.table)
        if sum(part.num_rows for part in parts) >= rows:
            break
    if not parts:
        return []
    table = pa.Table.from_batches(_alike(parts)).slice(0, rows).combine_chunks()
    return [_profile(name, table.column(name).combine_chunks()) for name in names]


def _alike(parts: Sequence[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Batches of one schema: files may write a column in several widths."""
    import pyarrow as pa

    schema = pa.unify_schemas([part.schema for part in parts], promote_options="permissive")
    return [part.cast(schema.remove_metadata()) for part in parts]


def _profile(name: str, column: Any) -> Profile:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column_kind(column.type)
    if kind == "list" and pa.types.is_struct(column.type.value_type):
        kind = "structs"
    if kind == "string":  # nothing is written there
        column = column.cast(pa.string())
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    rows, missing = len(column), column.null_count
    if kind in ("list", "structs", "other"):
        examples = tuple(column.slice(0, 2).to_pylist())
        return Profile(name, kind, rows, missing, rows - missing, np.nan, np.nan, examples)
    low = high = np.nan
    if kind in ("integer", "float", "boolean"):
        found = to_float(column)
        found = found[np.isfinite(found)]
        missing = rows - len(found)
        low, high = (float(found.min()), float(found.max())) if len(found) else (low, high)
    counted = pc.value_counts(column.drop_null())
    order = pc.sort_indices(counted.field("counts"), [("", "descending")]).slice(0, FEW)
    values = tuple(counted.field("values").take(order).to_pylist())
    return Profile(
        name, kind, rows, missing, len(counted), low, high, values,
        time_unit=_unit(kind, low, high), time_forms=_forms(kind, column),
    )  # fmt: skip


def _unit(kind: str, low: float, high: float) -> str | None:
    """The unit in which numbers are times of our days; 0 may stand for none."""
    if kind not in ("integer", "float"):
        return None
    found = (u for u, s in _EPOCHS.items() if _FROM * s <= low and high <= _UNTIL * s)
    return next(found, None)


def _forms(kind: str, column: pa.Array) -> tuple[str, ...]:
    texts = column.drop_null() if kind == "string" else column
    if kind != "string" or len(texts) == 0:
        return ()
    return ("iso",) if is_iso(texts) else tuple(possible_forms(texts))
