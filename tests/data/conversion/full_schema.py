"""A schema that reads every kind of column of the random log."""

from __future__ import annotations

from torchrl_drpo.data import LogSchema

SCHEMA = LogSchema(
    user="user", item="item", time="time", quality="click + 0.0 * play", propensity="propensity",
    context=("tab",), features=("age", "mood"), labels=("duration",),
)  # fmt: skip
