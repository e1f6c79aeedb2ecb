"""Every field of a schema is checked for its type: whatever JSON can hold, at every place."""

from __future__ import annotations

import dataclasses
import json

import pytest

from torchrl_drpo.data import (
    InitialHistory,
    ItemTable,
    LogSchema,
    Percentile,
    ReturnToGo,
    RewardFormula,
)

NAN, INF = float("nan"), float("inf")
#: Something of every JSON type, and what of it each kind of field takes.
VALUES = [None, True, 0, 3, 0.5, 1e300, NAN, INF, "", "a", [], ["a"], ["a", 1], [""], {}, {"a": 1}]
TAKES = {
    "str": ["a"],
    "bool": [True],
    "int": [0, 3],
    "float": [0, 3, 0.5, 1e300],
    "int | str": [0, 3, "a"],
    "tuple[str, ...]": [[], ["a"]],
}
WHOLE = {
    "version": 1, "item": "i", "user": "u", "time": "t", "quality": "r",
    "items": {"path": "p", "id": "i"},
    "initial_history": {"path": "p", "user": "u", "items": "h"},
}  # fmt: skip
PERCENTILE = {"kind": "percentile", "value": "r"}
PLACES = [
    (LogSchema, [], {}),
    (ItemTable, ["items"], {}),
    (InitialHistory, ["initial_history"], {}),
    (RewardFormula, ["quality"], {"quality": {"kind": "formula", "formula": "r"}}),
    (Percentile, ["quality"], {"quality": PERCENTILE}),
    (ReturnToGo, ["quality"], {"quality": {"kind": "return_to_go", "reward": "r"}}),
]


CASES = [
    pytest.param(path, changes, field, id=f"{cls.__name__}.{field.name}")
    for cls, path, changes in PLACES
    for field in dataclasses.fields(cls)
    if field.type.removesuffix(" | None") in TAKES
]


def answer(path: list[str], changes: dict, name: str, value: object) -> str:
    """What a schema with that value in that field says, nothing where it takes it."""
    data = json.loads(json.dumps({**WHOLE, **changes}))
    part = data
    for step in path:
        part = part[step]
    part[name] = value
    try:
        LogSchema.from_json(json.dumps(data))
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("path", "changes", "field"), CASES)
def test_a_value_of_another_type_is_named_with_its_field(path, changes, field):
    takes = TAKES[field.type.removesuffix(" | None")]
    name = ".".join([*path, field.name])
    for value in VALUES:
        said = answer(path, changes, field.name, value)
        fits = any(type(value) is type(other) and value == other for other in takes)
        if fits or (value is None and field.type.endswith("| None")):
            # it may still be out of range, or contradict another field
            assert not said.startswith(f"{name} must be the name"), (value, said)
            assert not said.startswith(f"{name} must be a "), (value, said)
        else:
            assert said.startswith(f"{name} must be "), (value, said)
            assert ", got " in said, (value, said)
        assert len(said) < 300


@pytest.mark.parametrize("value", [None, [], 3, True])
def test_a_quality_that_is_none(value):
    with pytest.raises(ValueError, match="quality must be of type Quality, got"):
        LogSchema.from_json(json.dumps({**WHOLE, "quality": value}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LogSchema(item="i", labels="click"),
            r"labels must be .*; write labels=\('click',\)",
        ),
        (lambda: LogSchema(item="i", context="tab"), r"write context=\('tab',\)"),
        (lambda: ItemTable("p", "i", codes="c"), r"items.codes must be .* write codes=\('c',\)"),
        (lambda: LogSchema(item="i", items=3), "items must be of type ItemTable, got 3"),
        (lambda: LogSchema(item="i", utc_offset_hours=10**400), "a finite number, got 1000000"),
        (lambda: LogSchema(item="i", utc_offset_hours=25), r"lie in \[-24, 24\], got 25"),
        (lambda: LogSchema(item="x" * 999, user=["x"] * 999), "got .'x', 'x'.*[.]{3}$"),
        (lambda: ItemTable("p", "i", codes=("a", "a")), "items: code 'a' is named twice"),
        (lambda: ItemTable("p", "i", features=("a", "a")), "items: feature 'a' is named twice"),
        (lambda: ItemTable("p", "i", features_until="8 May"), "must be YYYY-MM-DD, got '8 May'"),
        (lambda: ItemTable("p", "i", features_until="2022-02-30"), "must be YYYY-MM-DD"),
        (lambda: Percentile("p", by=("user", "tab", "tab")), "'tab' is named twice"),
    ],
)
def test_values_that_no_field_takes(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_lists_become_tuples():
    """A schema can be hashed and equals the one that JSON gives."""
    schema = LogSchema(item="i", labels=["a"], items=ItemTable("p", "i", codes=["c"]),
                       duplicates="keep")  # fmt: skip
    assert (schema.labels, schema.items.codes) == (("a",), ("c",))
    assert hash(schema) == hash(LogSchema.from_json(schema.to_json()))
