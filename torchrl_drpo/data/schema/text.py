"""A schema as JSON data, and back: what was written by hand is read strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .quality import Percentile, ReturnToGo, RewardFormula
from .tables import InitialHistory, ItemTable

if TYPE_CHECKING:
    from .log import LogSchema

SCHEMA_VERSION = 1
_KINDS = {"formula": RewardFormula, "percentile": Percentile, "return_to_go": ReturnToGo}
_TABLES = {"items": ItemTable, "initial_history": InitialHistory}


def as_data(schema: LogSchema) -> dict[str, Any]:
    """The schema as JSON data, defaults included."""
    data = dataclasses.asdict(schema)
    kind = next(name for name, cls in _KINDS.items() if type(schema.quality) is cls)
    data["quality"] = {"kind": kind, **data["quality"]}
    if not schema.features:  # logs converted before there were features keep their fingerprint
        del data["features"]
    return {"version": SCHEMA_VERSION, **data}


def from_data(cls: type[LogSchema], data: Any) -> LogSchema:
    """Reads what :func:`as_data` gave.

    Raises:
        ValueError: on other data, an unknown field or another version.
    """
    if not isinstance(data, Mapping) or data.get("version") != SCHEMA_VERSION:
        raise ValueError(
            f'a log schema is a JSON object with "version": {SCHEMA_VERSION}; write one with '
            "LogSchema(...).to_json()"
        )
    fields = {name: value for name, value in data.items() if name != "version"}
    if isinstance(fields.get("quality"), Mapping):
        quality = dict(fields["quality"])
        kind = _KINDS.get(quality.pop("kind", None))
        if kind is None:
            raise ValueError(f"quality.kind must be one of {list(_KINDS)}")
        fields["quality"] = _build(kind, quality, "quality")
    for name, table in _TABLES.items():
        if fields.get(name) is not None:
            fields[name] = _build(table, fields[name], name)
    return _build(cls, fields, "schema")


def _build(cls: type, data: Mapping[str, Any], where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be a JSON object, got {type(data).__name__}")
    known = {f.name for f in dataclasses.fields(cls) if f.init}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"{where} has unknown fields {unknown}; known are {sorted(known)}")
    lists = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    try:
        return cls(**lists)
    except TypeError as error:
        raise ValueError(f"{where} is incomplete: {error}") from None
