"""The columns of a converted log: their keys in a sample, their files, the records' fields."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..store.manifest import Array, Key
from .records import Encoder

REWARD: Key = ("next", "reward")


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        key: in a sample.
        file: within the data folder; its name is never the log's.
        dtype: numpy's.
        shape: of one row.
        field: the records' field that holds it; None for what the sorting computes.
    """

    key: Key
    file: str
    dtype: str
    shape: tuple[int, ...] = ()
    field: str | None = None

    @property
    def width(self) -> int:
        """Bytes of one row."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def array(self, rows: int) -> Array:
        """The whole column as the manifest describes it."""
        return Array(self.file, np.dtype(self.dtype).name, (rows, *self.shape))


def columns_of(encoder: Encoder) -> list[Column]:
    """The columns of the converted log."""
    schema = encoder.schema
    columns = [_column("action", "i8", field="item")]
    if schema.context:
        shape = (len(schema.context),)
        columns.append(_column("observation.context", "i8", shape, "context"))
    if schema.features:
        shape = (len(schema.features),)
        columns.append(_column("observation.features", "f4", shape, "features"))
    columns.append(_column("next.reward", "f4", (1,)))
    columns += [_column(f"next.{name}", "?", (1,)) for name in ("done", "terminated")]
    for name, dtype in (
        ("user", "i8"), ("time", "i8"), ("position", "i8"), ("policy", "i8"), ("propensity", "f4"),
    ):  # fmt: skip
        if getattr(schema, name):
            columns.append(_column(name, dtype, field=name))
    if schema.propensity:
        columns.append(_column("log_propensity", "f4", field="log_propensity"))
    if schema.slate:
        columns.append(_column("slate", "i8"))
    if schema.by_user:
        columns += [_column("trajectory_id", "i8"), _column("step", "i8")]
    return columns + [
        Column((name,), label_file(place), encoder.label_dtype(name), (), f"label.{name}")
        for place, name in enumerate(schema.labels)
    ]


def label_file(place: int) -> str:
    """Labels are numbered: what a log calls them is no file's name."""
    return f"rows/label/{place}.memmap"


def _column(
    dotted: str, dtype: str, shape: tuple[int, ...] = (), field: str | None = None
) -> Column:
    key = tuple(dotted.split("."))
    return Column(key, f"rows/{'/'.join(key)}.memmap", dtype, shape, field)
