"""A schema as JSON data, and back: what was written by hand is read strictly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchrl_drpo.spelling import did_you_mean

from .files import TextFiles
from .lists import Lists
from .quality import EventValues, Percentile, ReturnToGo, RewardFormula
from .tables import InitialHistory, ItemTable
from .types import shown

if TYPE_CHECKING:
    from .log import LogSchema

SCHEMA_VERSION = 1
_KINDS = {
    "formula": RewardFormula,
    "values": EventValues,
    "percentile": Percentile,
    "return_to_go": ReturnToGo,
}
#: Fields that came later, with what they are where nobody says anything.
_LATER = {
    "features": (), "history_padding": None, "time_format": None, "files": None, "lists": None,
    "history_rows": "all", "history_gap": 0,
}  # fmt: skip
_TABLES = {
    "items": ItemTable,
    "initial_history": InitialHistory,
    "files": TextFiles,
    "lists": Lists,
}


def as_data(schema: LogSchema) -> dict[str, Any]:
    """The schema as JSON data, defaults included."""
    data = dataclasses.asdict(schema)
    kind = next(name for name, cls in _KINDS.items() if type(schema.quality) is cls)
    data["quality"] = {"kind": kind, **data["quality"]}
    for name, default in _LATER.items():  # a schema of before reads as it was written
        if data[name] == default:
            del data[name]
    for name, later in (("items", ("files",)), ("initial_history", ("padding", "files"))):
        for field in later:
            if data[name] is not None and data[name][field] is None:
                del data[name][field]
    return {"version": SCHEMA_VERSION, **data}


def declared(schema: LogSchema) -> dict[str, Any]:
    """The schema as JSON data, without what holds its default."""

    def given(part: Any) -> dict[str, Any]:
        out = {}
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if _is_required(field) or value != field.default:
                out[field.name] = given(value) if dataclasses.is_dataclass(value) else value
        return out

    kind = next(name for name, cls in _KINDS.items() if type(schema.quality) is cls)
    data = {"version": SCHEMA_VERSION, **given(schema)}
    return data | {"quality": {"kind": kind, **given(schema.quality)}}


def parse(text: str) -> Any:
    """JSON text as data, read strictly: no key twice, no depth that the parser cannot take.

    Raises:
        ValueError: says what is wrong with it, and where.
    """
    try:
        # Windows editors put a mark before UTF-8 text, which is no part of it.
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("a log schema must be JSON: this one is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits is not a JSONDecodeError
        raise ValueError(f"a log schema must be JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} stands twice in one object")
    return found


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
        kind = quality.pop("kind", None)
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(f"quality.kind must be one of {list(_KINDS)}, got {shown(kind)}")
        fields["quality"] = _build(_KINDS[kind], quality, "quality")
    for name, table in _TABLES.items():
        if fields.get(name) is not None:
            fields[name] = _build_table(table, fields[name], name)
    return _build(cls, fields, "schema")


def _build_table(cls: type, data: Any, where: str) -> Any:
    """As :func:`_build`, of a part that may say itself how its file is written."""
    if isinstance(data, Mapping) and data.get("files") is not None:
        data = {**data, "files": _build(TextFiles, data["files"], f"{where}.files")}
    return _build(cls, data, where)


def _build(cls: type, data: Mapping[str, Any], where: str) -> Any:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} must be a JSON object, got {shown(data)}")
    known = {f.name for f in dataclasses.fields(cls) if f.init}
    unknown = sorted(set(data) - known)
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise ValueError(
            f"{where} has unknown fields {shown(unknown)}{hint}; known are {sorted(known)}"
        )
    missing = [f.name for f in dataclasses.fields(cls) if _is_required(f) and f.name not in data]
    if missing:
        raise ValueError(f"{where} is incomplete: it needs {missing}")
    return cls(**data)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
