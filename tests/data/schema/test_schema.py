from __future__ import annotations

import dataclasses
import json

import pytest

from torchrl_drpo.data import (
    EventValues,
    InitialHistory,
    ItemTable,
    LogSchema,
    Percentile,
    ReturnToGo,
    RewardFormula,
    TextFiles,
)
from torchrl_drpo.data.schema.presets import PRESETS

BASE = {"user": "u", "item": "i", "time": "t"}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name):
    schema = LogSchema.preset(name)
    assert LogSchema.from_json(schema.to_json()) == schema
    assert LogSchema.from_json(schema.to_json(compact=True)) == schema
    assert schema.item in schema.columns


def test_columns_are_all_and_once():
    schema = LogSchema(
        **BASE, quality="c + d", context=("tab", "u2"), labels=("c",), propensity="p",
        features=("age", "tab", "t"),
    )  # fmt: skip
    assert schema.columns == ("u", "i", "t", "p", "tab", "u2", "age", "c", "d")
    assert schema.quality == RewardFormula("c + d")


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
        (
            {"context": ("user",), "quality": Percentile("p", by=("user",))},
            "could mean the context column 'user' or the key",
        ),
        ({"labels": ("a", "b", "a")}, "label 'a' is named twice"),
        ({"context": ("a", "a")}, "context column 'a' is named twice"),
        ({"features": "age"}, r"a tuple of column names, got 'age'; write features=\('age',\)"),
        ({"features": ("a", "b", "a")}, "feature 'a' is named twice"),
        ({"features": ("a", "i")}, "feature 'i' tells the answer: it is the choice"),
        ({"features": ("p",), "propensity": "p"}, "'p' tells the answer: .* probability"),
        ({"features": ("e",), "terminal": "e"}, "'e' tells the answer: it says what followed"),
        ({"features": ("c",), "labels": ("c",)}, "'c' tells the answer: it is a label"),
        ({"features": ("c",), "quality": "2 * c"}, "'c' tells .* the quality is computed from it"),
        ({"features": ("c",), "quality": ReturnToGo("c")}, "the quality is computed from it"),
        # the duration is the chosen item's
        (
            {
                "features": ("d",),
                "quality": Percentile("c", by=("duration_bucket",), duration="d / 1000"),
            },
            "feature 'd' tells the answer: the quality is computed from it",
        ),
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
        ('{"version": 1, "item": "i", "colour": 1}', "unknown fields \\['colour'\\]; known are"),
        ('{"version": 1, "item": "i", "lables": []}', r"\['lables'\] \(did you mean 'labels'\?\)"),
        ('{"version": 1, "items": {"path": "p", "id": "i", "cods": []}}', "mean 'codes'"),
        ('{"version": 1, "item": "i", "item": "j"}', "the key 'item' stands twice"),
        ('{"version": 1, "quality": {"kind": "magic"}}', "quality.kind must be one of"),
        ('{"version": 1, "quality": {"kind": []}}', r"quality.kind must be one of .* got \[\]"),
        ('{"version": 1, "duplicates": "keep"}', r"incomplete: it needs \['item'\]"),
        ('{"version": 1, "item": "i", "items": {"id": "i"}}', r"items is incomplete.*\['path'\]"),
        ("[" * 100_000, "nested too deeply"),
        ('{"version": 1, "item": ' + "[" * 900 + "]" * 900 + "}", "item must be the name of"),
        ('{"version": 1, "item": 1' + "0" * 5_000 + "}", "must be JSON: Exceeds the limit"),
        ('{"version": 1, "item": "i", "items": 3}', "items must be a JSON object"),
        (
            '{"version": 1, "item": "i", "files": {"heder": []}}',
            r"files has .*did you mean 'header'",
        ),
        (
            '{"version": 1, "item": "i", "items": {"path": "p", "id": "i", "files": {"x": 1}}}',
            r"items.files has unknown fields",
        ),
        ('{"version": 1, "item": "i", "lists": {"columns": "a"}}', "lists.columns must be a tuple"),
        (
            '{"version": 1, "quality": {"kind": "values", "column": "t", "values": 1}}',
            "quality.values must be texts and their finite numbers",
        ),
    ],
)
def test_foreign_json_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        LogSchema.from_json(text)


def test_a_mark_before_the_text_is_no_part_of_it():
    schema = LogSchema.preset("kuairand")
    text = (b"\xef\xbb\xbf" + schema.to_json().encode()).decode()
    assert LogSchema.from_json(text) == schema


def test_json_as_one_would_write_it_says_nothing_twice():
    schema = LogSchema(**BASE, quality=Percentile("r", by=("user",)), labels=("r",))
    assert json.loads(schema.to_json(compact=True)) == {
        "version": 1, "user": "u", "item": "i", "time": "t", "labels": ["r"],
        "quality": {"kind": "percentile", "value": "r", "by": ["user"]},
    }  # fmt: skip


def test_json_explains_itself():
    data = json.loads(LogSchema.preset("kuairand").to_json())
    assert data["quality"]["kind"] == "percentile"
    assert data["items"]["path"] == "video_features.parquet"
    table = ItemTable("x.csv", "id", codes=("a", "b"))
    again = LogSchema.from_json(LogSchema(**BASE, items=table).to_json())
    assert again.items == table


def test_later_fields_are_written_only_where_they_are_used():
    """Without them, the text is what it was before they existed: fingerprints hang on it."""
    plain = LogSchema(**BASE, quality="c")
    before = (
        "version item quality user time time_unit utc_offset_hours date session session_gap slate "
        "position propensity log_propensity policy terminal context labels history split "
        "duplicates items initial_history"
    )
    assert list(json.loads(plain.to_json())) == before.split()
    assert LogSchema.from_json(plain.to_json()).features == ()
    with_some = plain.replace(features=("age", "state_0"))
    assert json.loads(with_some.to_json())["features"] == ["age", "state_0"]
    assert LogSchema.from_json(with_some.to_json()) == with_some
    for name in ("files", "lists", "time_format"):
        assert name not in json.loads(plain.to_json())
    assert '"files"' not in plain.replace(items=ItemTable("x.csv", "id")).to_json()
    past = InitialHistory("p.parquet", "u", "items")
    assert "padding" not in plain.replace(initial_history=past).to_json()
    for padding in (0, "[PAD]"):
        padded = plain.replace(
            history_padding=padding, initial_history=dataclasses.replace(past, padding=padding)
        )
        assert LogSchema.from_json(padded.to_json()) == padded


def test_what_was_declared_later_survives_json_too():
    dat = TextFiles(header=["item", "title"], delimiter="::", encoding="latin-1")
    schema = LogSchema(
        **BASE,
        quality=EventValues("type", {"click": 1, "order": 6.5}, other=0.0),
        time_format="%d.%m.%Y",
        files=TextFiles(header=["u", "i", "t", "type"]),
        items=ItemTable("movies.dat", "item", files=dat),
        initial_history=InitialHistory("past.parquet", "u", "items"),
    )
    assert LogSchema.from_json(schema.to_json()) == schema
    assert LogSchema.from_json(schema.to_json(compact=True)) == schema
    assert {schema.quality} == {schema.quality}


def test_unknown_presets_list_the_known():
    with pytest.raises(ValueError, match="amazon-sid, kuairand"):
        LogSchema.preset("netflix")
    with pytest.raises(ValueError, match=r"no preset 'kuairandd' \(did you mean 'kuairand'\?\)"):
        LogSchema.preset("kuairandd")
