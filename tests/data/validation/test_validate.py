from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from torchrl_drpo.data import (
    InitialHistory,
    ItemTable,
    LogSchema,
    Percentile,
    ReturnToGo,
    convert_log,
    validate_log,
)
from torchrl_drpo.data.validation import checks
from torchrl_drpo.data.validation.correlation import rank_correlation_share

SCHEMA = LogSchema(
    user="user", item="item", time="time", quality="click", propensity="propensity",
    context=("tab",),
)  # fmt: skip
START = 1_600_041_600  # midnight of 14 September 2020


@pytest.fixture
def clean(frame) -> pd.DataFrame:
    frame = frame.drop_duplicates(["user", "time"])
    return frame.assign(time=lambda f: f["time"] + START).reset_index(drop=True)


def kinds(report):
    return {fault.name: fault.count for fault in report.faults}


def test_a_clean_log_has_no_faults(clean, tmp_path):
    report = validate_log(clean, SCHEMA, test_days=2)
    assert report.ok
    assert kinds(report) == {}
    assert (report.rows, report.users) == (len(clean), clean["user"].nunique())
    assert "no faults" in str(report)


def test_every_fault_is_counted_with_places(clean, tmp_path):
    bad = clean.astype({"click": float}).copy()
    bad.loc[[3, 9], "propensity"] = [0.0, 1.01]
    bad.loc[[10, 11, 12], "click"] = np.nan
    bad.loc[20, "item"] = -4
    bad = pd.concat([bad, bad.iloc[[30, 31, 30]]])  # duplicates, and out of time order
    folder = tmp_path / "log"
    folder.mkdir()
    bad.iloc[:100].to_parquet(folder / "a.parquet")
    bad.iloc[100:].to_parquet(folder / "b.parquet")
    report = validate_log(folder, SCHEMA)
    assert not report.ok
    assert kinds(report) == {
        "propensity outside (0, 1] in propensity": 2, "reward is not finite in click": 3,
        "negative item id in item": 1, "duplicate rows": 3, "out of time order": late_rows(bad),
    }  # fmt: skip
    places = report.fault("propensity outside (0, 1]").examples
    assert [(p["row"], p["value"]) for p in places] == [(3, "0.0"), (9, "1.01")]
    assert places[0]["file"].endswith("a.parquet")
    duplicates = report.fault("duplicate rows").examples
    first = len(clean) - 100
    assert [(d["file"][-9:], d["row"]) for d in duplicates] == [
        ("b.parquet", first + k) for k in range(3)
    ]
    assert [f.severity for f in report.faults] == ["error"] * 3 + ["warning"] * 2
    droppable = [fault.advice.endswith("leaves such rows out") for fault in report.faults]
    assert droppable == [True] * 3 + [False] * 2
    data = json.loads(report.to_json())
    assert data["ok"] is False
    told = {(f["kind"], f["column"]): f["count"] for f in data["faults"]}
    assert told == {(f.kind, f.column): f.count for f in report.faults}
    assert "row 3" in str(report)


def late_rows(frame):
    """Rows before an earlier row of the same user: by a loop."""
    latest, late = {}, 0
    for user, time, item in zip(frame["user"], frame["time"], frame["item"], strict=True):
        if item < 0:
            continue
        late += time < latest.get(user, 0)
        latest[user] = max(time, latest.get(user, 0))
    return late


def test_what_a_conversion_drops_is_what_validation_counts(clean, tmp_path):
    bad = clean.copy()
    bad.loc[5:9, "propensity"] = 7.0
    bad.loc[[20, 21], "mood"] = [np.inf, -1e39]
    bad["age"] = bad["age"].astype("Int64").mask(bad.index.isin([21, 22]))
    schema = SCHEMA.replace(features=("mood", "age"))
    expected = {
        "propensity outside (0, 1] in propensity": 5,
        "feature is not finite in mood": 2,
        "feature is not finite in age": 2,
    }
    report = validate_log(bad, schema)
    assert kinds(report) == expected
    for column, shown in {
        "mood": [(20, "mood is inf"), (21, "mood is -1e+39")],
        "age": [(21, "age is nan"), (22, "age is nan")],
    }.items():
        examples = report.fault("feature is not finite", column).examples
        assert [(example["row"], example["value"]) for example in examples] == shown
    found = convert_log(bad, tmp_path, schema, bad_rows="drop")
    assert found.dropped == expected
    assert found.rows == len(bad) - 8  # row 21 is left out but once


def test_rows_without_ids_are_told_apart_by_their_columns(clean, tmp_path):
    bad = clean.rename(columns={"user": "who is it", "item": "SKU"})
    names, lacking = ["who is it", "SKU"], {"who is it": [2, 5, 7, 8], "SKU": [5, 8, 30]}
    for name, rows in lacking.items():
        bad[name] = bad[name].astype("Int64").mask(bad.index.isin(rows))
    # A column of two roles, one of them twice, is one column: a row counts once.
    schema = SCHEMA.replace(user=names[0], item=names[1], context=("tab", names[0]))
    expected = {"missing id in SKU": 3, "missing id in who is it": 4}
    report = validate_log(bad, schema, max_examples=9)
    assert kinds(report) == expected
    assert {f.column: [e["row"] for e in f.examples] for f in report.faults} == lacking
    assert {(f["kind"], f["column"]) for f in json.loads(report.to_json())["faults"]} == {
        ("missing id", name) for name in names
    }
    assert "error: missing id in who is it: 4; every row needs one" in str(report)
    found = convert_log(bad, tmp_path, schema, bad_rows="drop")
    assert found.dropped == expected
    assert found.rows_read - found.rows - found.duplicates == 5  # of seven: two lack both


def test_labels_and_columns_of_a_formula_are_told_apart(clean, tmp_path):
    bad = clean.astype({"click": float}).assign(liked=1.0, shared=1.0)
    bad.loc[[1, 2], "liked"] = np.nan
    bad.loc[[2, 3, 4], "shared"] = np.nan
    bad.loc[[4, 6], "click"] = np.inf
    # The quality and what enters histories both read "click".
    schema = SCHEMA.replace(
        labels=("liked", "shared"), quality="click + liked", history_rows="click > 0"
    )
    expected = {
        "missing label in liked": 2, "missing label in shared": 3,
        "reward is not finite in click": 2, "reward is not finite in liked": 2,
    }  # fmt: skip
    assert kinds(validate_log(bad, schema)) == expected
    found = convert_log(bad, tmp_path, schema, bad_rows="drop")
    assert found.dropped == expected
    assert found.rows == len(bad) - 5


def test_a_duration_that_is_a_column_s_fault_is_not_told_again(clean, tmp_path):
    bad = clean.assign(duration=clean["duration"].astype(float))
    bad.loc[[1, 2], "duration"] = np.nan
    bad.loc[[4, 5, 6], "duration"] = -1.0
    quality = Percentile("play", by=("duration_bucket",), duration="log(duration + 1)")
    expected = {"reward is not finite in duration": 2, "duration is not finite": 3}
    schema = SCHEMA.replace(quality=quality)
    report = validate_log(bad, schema)
    assert {f.name: f.count for f in report.faults if f.severity == "error"} == expected
    assert convert_log(bad, tmp_path, schema, bad_rows="drop").dropped == expected


def test_tables_that_are_not_there_are_all_named(clean, tmp_path):
    clean.to_parquet(tmp_path / "log.parquet")
    tables = {
        "items": ItemTable("things.parquet", "id", required=False),
        "initial_history": InitialHistory("before.parquet", "id", "items", required=False),
    }
    report = validate_log(tmp_path / "log.parquet", SCHEMA.replace(**tables))
    assert kinds(report) == {"missing table": 2}
    assert "things.parquet" in report.faults[0].advice
    assert "before.parquet" in report.faults[0].advice


def test_a_log_that_cannot_be_read_is_one_fault(clean, tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but not really")
    report = validate_log(tmp_path / "x.parquet", SCHEMA)
    assert kinds(report) == {"unreadable": 1}
    assert "x.parquet" in report.faults[0].advice
    report = validate_log(clean, SCHEMA.replace(propensity="p"))
    assert "no column 'p'" in report.faults[0].advice
    assert kinds(validate_log(tmp_path / "none.parquet", SCHEMA)) == {"unreadable": 1}


def test_times_in_another_unit_are_noticed(clean):
    milliseconds = clean.assign(time=clean["time"] * 1000)
    report = validate_log(milliseconds, SCHEMA)
    assert kinds(report) == {"implausible times": len(clean)}
    assert "time_unit='s'" in report.faults[0].advice
    assert validate_log(milliseconds, SCHEMA.replace(time_unit="ms")).faults == []


@pytest.mark.parametrize("quality", [1.0, 0.0])
def test_a_quality_that_tells_no_row_from_another_is_told(clean, quality):
    report = validate_log(clean.assign(click=quality), SCHEMA)
    assert report.ok
    assert kinds(report) == {"constant quality": len(clean)}
    assert validate_log(clean.iloc[:1], SCHEMA).fault("constant quality") is None


def test_durations_positions_and_strange_items(clean, tmp_path):
    bad = clean.assign(position=1)
    bad.loc[[0, 1], "duration"] = [0.0, -1.0]
    bad.loc[7, "position"] = -1
    listed = np.setdiff1d(bad["item"].unique(), [bad["item"][0]])
    pd.DataFrame({"id": listed}).to_parquet(tmp_path / "items.parquet")
    bad.to_parquet(tmp_path / "log.parquet")
    schema = SCHEMA.replace(
        quality=Percentile("play", by=("duration_bucket",), duration="duration"),
        items=ItemTable("items.parquet", "id"), position="position",
    )  # fmt: skip
    assert kinds(validate_log(tmp_path / "log.parquet", schema)) == {
        "duration not positive in duration": 2,
        "negative position in position": 1,
        "items not in the item table": int((bad["item"] == bad["item"][0]).sum()),
    }


@pytest.mark.parametrize("until", [None, "2020-09-15", "2020-12-31"])
def test_features_that_know_the_test_period(tmp_path, until):
    rng = np.random.default_rng(0)
    rows, items, day = 20_000, 300, 86_400
    appeal = rng.normal(size=(2, items))  # what is shown changes between the two periods
    late = np.arange(rows) >= rows // 2
    item = np.where(late, *(
        rng.choice(items, rows, p=np.exp(a) / np.exp(a).sum()) for a in appeal[::-1]
    ))  # fmt: skip
    log = pd.DataFrame({
        "user": rng.integers(0, 50, rows), "item": item, "click": 1, "propensity": 0.5, "tab": 0,
        "time": START + np.arange(rows) * 10 * day // rows,
    })  # fmt: skip
    log.to_parquet(tmp_path / "log.parquet")
    totals = np.bincount(item, minlength=items)
    pd.DataFrame({
        "id": np.arange(items), "shown_in_all": totals,
        "shown_before": np.bincount(item[~late], minlength=items), "size": rng.normal(size=items),
    }).to_parquet(tmp_path / "items.parquet")  # fmt: skip
    features = ("shown_in_all", "shown_before", "size")
    table = ItemTable("items.parquet", "id", features=features, features_until=until)
    report = validate_log(
        tmp_path / "log.parquet", SCHEMA.replace(items=table, duplicates="keep"), test_days=5
    )
    suspects = report.fault("item features may leak")
    assert [e["feature"] for e in suspects.examples] == ["shown_in_all"]
    declared = report.fault("item features leak")
    assert (declared is not None) == (until == "2020-12-31")
    assert report.ok == (until != "2020-12-31")
    without = validate_log(tmp_path / "log.parquet", SCHEMA.replace(items=table))
    assert without.fault("item features may leak") is None  # no test period, nothing to leak


@pytest.mark.parametrize("rows", [1 << 16, 100])  # the latter looks at every fourth row
@pytest.mark.parametrize(
    "quality", ["click", ReturnToGo("click"), "play", Percentile("play", by=("tab",))]
)
def test_row_features_that_know_the_outcome(clean, monkeypatch, rows, quality):
    monkeypatch.setattr(checks, "FEATURE_ROWS", rows)
    rng = np.random.default_rng(1)
    noise = rng.normal(size=len(clean))
    told = "click" if quality in ("click", ReturnToGo("click")) else "play"
    rank = clean[told].rank()
    log = clean.assign(
        copy=3 - 2 * clean[told],  # the outcome itself
        score=rank + 0.001 * noise * rank.std(),  # ties broken: a model's score after the fact
        hint=rank + 2 * noise * rank.std(),  # what an honest feature may well know
        noise=noise, constant=1.0,
    )  # fmt: skip
    features = ("copy", "score", "hint", "noise", "constant")
    schema = SCHEMA.replace(quality=quality, features=features)
    report = validate_log(log, schema)
    assert kinds(report) == {"row features may leak": 2}
    assert report.ok  # a state may decide the outcome
    examples = report.faults[0].examples
    assert [e["feature"] for e in examples] == ["copy", "score"]
    assert examples[0]["share of the possible"] == -1.0
    assert validate_log(log.iloc[:8], schema).faults == []  # too few rows to say


@pytest.mark.parametrize(("clicks", "reported"), [(1, False), (9, False), (10, True), (391, False)])
def test_a_rare_outcome_may_be_met_by_chance(clean, clicks, reported):
    click = np.arange(len(clean)) < clicks
    log = clean.assign(click=click, copy=click, score=click + 1e-3 * np.sin(np.arange(len(clean))))
    for name in ("copy", "score"):
        report = validate_log(log, SCHEMA.replace(features=(name,)))
        assert (report.fault("row features may leak") is not None) == reported


@pytest.mark.parametrize("signal", [-1.0, 0.0, 1.0])
def test_the_share_of_a_score_for_clicks_is_twice_its_auc_less_one(signal):
    rng = np.random.default_rng(2)
    click = rng.random(300) < 0.1
    score = signal * click + rng.normal(size=300)
    area = mannwhitneyu(score[click], score[~click]).statistic / click.sum() / (~click).sum()
    share, correlation = rank_correlation_share(score, click)
    assert share == pytest.approx(2 * area - 1, abs=1e-9)
    assert correlation == pytest.approx(spearmanr(score, click).statistic, abs=1e-9)


@pytest.mark.parametrize("x", [[0, 0, 1, 2, 2], [3, 1, 1, 1, 2], [5, 4, 3, 2, 2]])
def test_no_order_of_the_values_has_a_larger_correlation(x):
    y = np.array([0, 1, 1, 4, 9])
    every = [spearmanr(order, y).statistic for order in itertools.permutations(x)]
    found = spearmanr(x, y).statistic
    largest = max(every) if found > 0 else -min(every)
    assert rank_correlation_share(np.array(x), y)[0] == pytest.approx(found / largest, abs=1e-9)


def test_real_logs(real_logs):
    folder = real_logs / "kuairand_pure_part"
    log = folder / "log_standard_20220425_20220508.parquet"
    report = validate_log(log, LogSchema.preset("kuairand"), test_days=3)
    assert kinds(report) == {
        "item features leak": 6, "duplicate rows": 5_460,
        "duration not positive in duration_ms": 3_568,
        "item features may leak": kinds(report)["item features may leak"],
        "rows of one user and time": 4_198,
    }  # fmt: skip
    assert report.rows == 228_329
    for path, preset, rows in [
        ("open_bandit_small/bts_all.parquet", "open-bandit", 10_000),
        ("movielens_latest_small/ratings.csv", "movielens", 100_004),
        ("amazon_semantic_ids/Office_Products.valid_test.parquet", "amazon-sid", 9_732),
    ]:
        report = validate_log(real_logs / path, LogSchema.preset(preset))
        assert (report.ok, report.rows) == (True, rows)


def test_how_far_it_is_can_be_followed() -> None:
    rows = pd.DataFrame({"u": [1, 2] * 20, "i": [3] * 40, "t": range(40), "r": [0.0, 1.0] * 20})
    schema = LogSchema(user="u", item="i", time="t", quality="r")
    told = []
    assert validate_log(rows, schema, progress=lambda *where: told.append(where)).ok
    assert told == [("scan", 1, 1), ("check", 40, 40)]
