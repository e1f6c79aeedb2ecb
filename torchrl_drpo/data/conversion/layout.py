"""The columns of a converted log."""

from __future__ import annotations

from .records import Encoder


def columns_of(encoder: Encoder) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The columns of the converted log: dotted key -> (numpy dtype, shape of one row)."""
    schema = encoder.schema
    columns: dict[str, tuple[str, tuple[int, ...]]] = {"action": ("i8", ())}
    if schema.context:
        columns["observation.context"] = ("i8", (len(schema.context),))
    if schema.features:
        columns["observation.features"] = ("f4", (len(schema.features),))
    columns["next.reward"] = ("f4", (1,))
    columns["next.done"] = columns["next.terminated"] = ("?", (1,))
    for name, dtype in (
        ("user", "i8"), ("time", "i8"), ("position", "i8"), ("policy", "i8"), ("propensity", "f4"),
        ("slate", "i8"),
    ):  # fmt: skip
        if getattr(schema, name):
            columns[name] = (dtype, ())
    if schema.by_user:
        columns["trajectory_id"] = columns["step"] = ("i8", ())
    return columns | {name: (encoder.label_dtype(name), ()) for name in schema.labels}
