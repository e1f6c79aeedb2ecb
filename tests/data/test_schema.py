from __future__ import annotations

import json

import pytest

from torchrl_drpo.data import ItemTable, LogSchema, Percentile, ReturnToGo, RewardFormula
from torchrl_drpo.data.presets import PRESETS

BASE = {"user": "u", "item": "i", "time": "t"}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name):
    schema = LogSchema.preset(name)
    assert LogSchema.from_json(schema.to_json()) == schema
    assert schema.item in schema.columns


def test_columns_are_all_and_once():
    schema = LogSchema(
        **BASE, quality="c + t", context=("tab", "u2"), labels=("c",), propensity="p"
    )
    assert schema.columns == ("u", "i", "t", "p", "tab", "u2", "c")
    assert schema.quality == RewardFormula("c + t")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quality": "os.system"}, "Attribute is not allowed"),
        ({"time_unit": "h"}, "time_unit must be one of"),
        ({"duplicates": "maybe"}, "duplicates must be one of"),
        ({"session": "s", "session_gap": 3.0}, "not both"),
        ({"session_gap": 0.0}, "above 0 seconds"),
        ({"user": None}, "duplicates='keep'"),
        ({"time": None, "duplicates": "keep", "session": "s"}, "session needs"),
        ({"history": "h", "duplicates": "keep", "quality": ReturnToGo("r")}, "return-to-go needs"),
        ({"quality": Percentile("p", by=("tab",))}, "names \\['tab'\\]"),
        (
            {"user": None, "duplicates": "keep", "quality": Percentile("p", by=("user",))},
            "within the user needs",
        ),
        ({"labels": ("action",)}, "collide"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LogSchema(**{**BASE, **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "must be JSON"),
        ("[]", '"version": 1'),
        ('{"version": 2, "item": "i"}', '"version": 1'),
        ('{"version": 1, "item": "i", "colour": 1}', "unknown fields \\['colour'\\]"),
        ('{"version": 1, "quality": {"kind": "magic"}}', "quality.kind must be one of"),
        ('{"version": 1, "duplicates": "keep"}', "incomplete"),
        ('{"version": 1, "item": "i", "items": 3}', "items must be a JSON object"),
    ],
)
def test_foreign_json_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        LogSchema.from_json(text)


def test_json_explains_itself():
    data = json.loads(LogSchema.preset("kuairand").to_json())
    assert data["quality"]["kind"] == "percentile"
    assert data["items"]["path"] == "video_features.parquet"
    table = ItemTable("x.csv", "id", codes=("a", "b"))
    again = LogSchema.from_json(LogSchema(**BASE, items=table).to_json())
    assert again.items == table


def test_unknown_preset_lists_the_known():
    with pytest.raises(ValueError, match="amazon-sid, kuairand"):
        LogSchema.preset("netflix")
