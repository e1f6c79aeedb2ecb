"""Drafts of schemas: of logs as they are published, and each draft is one that converts."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from torchrl_drpo.cli import main
from torchrl_drpo.data import (
    EventValues,
    Lists,
    LogError,
    LogSchema,
    Percentile,
    RecReplayBuffer,
    RewardFormula,
    TextFiles,
    draft_schema,
    validate_log,
)
from torchrl_drpo.data.draft.recipes import RECIPES

N = 400
RNG = np.random.default_rng(0)
EPOCH = 1_600_000_000
WHO, WHAT = RNG.integers(100, 125, N), RNG.integers(0, 40, N)
WHEN = EPOCH + 600 * np.arange(N)
BY_USER = ("user",)


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns)


FUNNEL = RNG.choice(["view", "addtocart", "transaction"], N)
DWELL = RNG.exponential(20.0, N).round(1)
#: As these logs are published: what they hold, and what a draft must find.
LOGS = {
    "MovieLens": (
        frame(userId=WHO, movieId=WHAT, rating=RNG.integers(1, 11, N) / 2, timestamp=WHEN),
        {"user": "userId", "item": "movieId", "time": "timestamp",
         "quality": Percentile("rating", by=BY_USER)},
    ),
    "Book-Crossing": (
        frame(**{"User-ID": WHO, "ISBN": [f"{k:010d}" for k in WHAT],
                 "Book-Rating": RNG.integers(0, 11, N)}),
        {"user": "User-ID", "item": "ISBN", "time": None, "duplicates": "keep",
         "quality": Percentile("`Book-Rating`")},
    ),
    "RetailRocket": (
        frame(timestamp=1_000 * WHEN, visitorid=WHO, event=FUNNEL, itemid=WHAT),
        {"user": "visitorid", "item": "itemid", "time": "timestamp", "time_unit": "ms",
         "quality": EventValues("event", {"view": 1, "addtocart": 3, "transaction": 6})},
    ),
    "KuaiRand": (
        frame(user_id=WHO, video_id=WHAT, time_ms=1_000 * WHEN, is_click=RNG.integers(0, 2, N),
              play_time_ms=(1_000 * DWELL).astype(int), duration_ms=RNG.integers(5_000, 90_000, N)),
        {"user": "user_id", "item": "video_id", "time": "time_ms", "time_unit": "ms",
         "labels": ("is_click",),
         "quality": Percentile("play_time_ms", by=("duration_bucket",), duration="duration_ms")},
    ),
    "Open Bandit": (
        frame(timestamp=pd.to_datetime(WHEN, unit="s", utc=True), item_id=WHAT,
              position=RNG.integers(1, 4, N), click=RNG.integers(0, 2, N),
              propensity_score=RNG.uniform(0.01, 0.2, N), user_feature_0=RNG.choice(list("ab"), N)),
        {"user": None, "item": "item_id", "time": "timestamp", "position": "position",
         "propensity": "propensity_score", "quality": RewardFormula("click")},
    ),
    "clicks with dwell": (
        frame(uid=WHO, news=WHAT, ts=WHEN, clicked=RNG.integers(0, 2, N), dwell=DWELL),
        {"user": "uid", "item": "news", "time": "ts",
         "quality": RewardFormula("clicked * (1 + log1p(max(dwell, 0)))")},
    ),
    "Last.fm": (
        frame(userID=WHO, artistID=WHAT, weight=RNG.integers(1, 9_000, N)),
        {"user": "userID", "item": "artistID", "quality": Percentile("weight")},
    ),
    "Foursquare": (
        frame(uid=WHO, venue=[f"4b{k:x}" for k in WHAT],
              time=pd.to_datetime(WHEN, unit="s").strftime("%a %b %d %H:%M:%S +0000 %Y")),
        {"user": "uid", "item": "venue", "time": "time", "quality": RewardFormula("1"),
         "time_format": "%a %b %d %H:%M:%S %z %Y"},
    ),
    "Gowalla, of no name": (
        frame(a=WHO, b=WHAT, c=WHEN),
        {"user": "a", "item": "b", "time": "c", "quality": RewardFormula("1")},
    ),
    "Amazon with its own histories": (
        frame(user_id=WHO, item_id=WHAT, history_item_id=[[1, 2]] * N,
              split=np.where(np.arange(N) < 300, "train", "test")),
        {"user": "user_id", "item": "item_id", "history": "history_item_id", "split": "split"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOGS)
def test_logs_as_they_are_published(name):
    log, expected = LOGS[name]
    draft = draft_schema(log)
    found = {field: getattr(draft.schema, field) for field in expected}
    assert found == expected
    assert draft.rows == N
    assert len(draft.questions) == len(set(draft.questions))
    assert validate_log(log, draft.schema).ok
    assert len(RecReplayBuffer.from_parquet(log, draft.schema)) <= N
    assert LogSchema.from_json(draft.schema.to_json(compact=True)) == draft.schema


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("Book-Crossing", "'Book-Rating' 0 the worst rating"),
        ("Book-Crossing", "no column seems to be a time"),
        ("RetailRocket", "what is each event worth"),
        ("Open Bandit", "no column seems to be a user"),
        ("Open Bandit", r"\['user_feature_0'\] were known before"),
        ("Gowalla, of no name", "is 'a' the user"),
        ("Gowalla, of no name", "is 'c' the time"),
        ("Gowalla, of no name", "of positives alone"),
    ],
)
def test_what_the_rows_do_not_say_is_asked(name, question):
    draft = draft_schema(LOGS[name][0])
    assert any(pd.Series([asked]).str.contains(question).any() for asked in draft.questions)


def test_lists_are_found_in_impressions_and_in_sessions(tmp_path):
    shown = [[1, 2, 3], [2, 4], [5]]
    seen = {"user_id": [1, 2, 1], "impression_time": WHEN[:3], "article_ids_inview": shown,
            "article_ids_clicked": [[2], [], [5]]}  # fmt: skip
    draft = draft_schema(pa.table(seen).to_reader())  # which can be read once
    assert draft.schema.lists == Lists(("article_ids_inview",), chosen="article_ids_clicked")
    assert draft.schema.quality == RewardFormula("article_ids_clicked")
    log = RecReplayBuffer.from_parquet(pa.table(seen), draft.schema)
    assert log.quality.tolist() == [0, 1, 0, 1, 0, 0]  # by user: 1, 1, 1, 1 and then 2, 2
    events = [[{"aid": 5, "ts": int(WHEN[0]), "type": "clicks"}] * 2,
              [{"aid": 6, "ts": int(WHEN[1]), "type": "orders"}]]  # fmt: skip
    lines = [json.dumps({"session": k, "events": e}) for k, e in enumerate(events)]
    (tmp_path / "otto.jsonl").write_text("\n".join(lines))
    draft = draft_schema(tmp_path / "otto.jsonl")
    assert (draft.schema.user, draft.schema.item, draft.schema.time) == ("session", "aid", "ts")
    assert draft.schema.quality == EventValues("type", {"clicks": 1.0, "orders": 6.0})
    assert draft.schema.lists == Lists(("events",))


def test_mind_as_it_is_published_is_drafted_and_read(tmp_path):
    (tmp_path / "behaviors.tsv").write_text(
        "1\tU1\t11/13/2019 9:05:58 AM\tN9\tN1-0 N2-1\n2\tU2\t11/14/2019 6:11:30 PM\t\tN3-0 N1-1\n"
    )
    header = ("impression_id", "user_id", "time", "history", "impressions")
    draft = draft_schema(tmp_path / "behaviors.tsv", files=TextFiles(header=header))
    assert draft.schema.lists.mark == "-"
    assert (draft.schema.item, draft.schema.quality) == ("impressions", RewardFormula("clicked"))
    assert (draft.schema.slate, draft.schema.time_format) == (
        "impression_id",
        "%m/%d/%Y %I:%M:%S %p",
    )
    assert draft.reasons[0] == r"files: columns are separated by '\t'"
    log = RecReplayBuffer.from_parquet(tmp_path / "behaviors.tsv", draft.schema)
    assert log.items.decode(log[:]["action"]) == ["N1", "N2", "N3", "N1"]
    assert log.quality.tolist() == [0, 1, 0, 1]


def test_one_list_a_user_is_in_its_own_order():
    log = pa.table({"user_id": [7, 8, 9], "item_ids": [[1, 2, 3], [2, 1], [3]]})
    draft = draft_schema(log)
    assert (draft.schema.time, draft.schema.item) == ("list_place", "item_ids")
    rows = RecReplayBuffer.from_parquet(log, draft.schema)
    assert rows.items.decode(rows[:]["action"]) == [1, 2, 3, 2, 1, 3]


def test_a_file_without_a_header_gets_names(tmp_path):
    text = "\n".join(
        f"{u} {i} {r}" for u, i, r in zip(WHO, WHAT, RNG.integers(1, 9, N), strict=True)
    )
    (tmp_path / "ratings.txt").write_text(text)
    draft = draft_schema(tmp_path / "ratings.txt")
    assert draft.schema.files == TextFiles(header=("column_1", "column_2", "column_3"))
    assert (draft.schema.user, draft.schema.item) == ("column_1", "column_2")
    assert any("what are the columns called" in asked for asked in draft.questions)
    named = TextFiles(header=("user", "film", "rating"))
    draft = draft_schema(tmp_path / "ratings.txt", files=named)
    assert (draft.schema.item, draft.schema.files) == ("film", named)
    assert len(RecReplayBuffer.from_parquet(tmp_path / "ratings.txt", draft.schema)) == N


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_unit_of_times_is_found(unit):
    ticks = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[unit]
    draft = draft_schema(frame(user=WHO, item=WHAT, time=ticks * WHEN, click=WHAT % 2))
    assert (draft.schema.time, draft.schema.time_unit) == ("time", unit)
    assert any("2020 to 2020" in reason for reason in draft.reasons)


def test_days_that_may_be_months_are_asked_for():
    days = [f"{day:02}/{month:02}/2024 10:25" for month in (1, 2) for day in range(1, 13)]
    draft = draft_schema(frame(user=WHO[:24], item=WHAT[:24], when=days, click=[0, 1] * 12))
    assert any(
        f"the draft says {draft.schema.time_format!r}, as time_format" in asked
        for asked in draft.questions
    )


def test_rows_without_an_item_are_counted(tmp_path):
    (tmp_path / "log.csv").write_text("user,item,time,click\n1,,1600000000,1\n1,p1,1600000100,0\n"
                                      "2,p1,1600000200,0\n")  # fmt: skip
    draft = draft_schema(tmp_path / "log.csv")
    assert any("1 of 3 rows have no 'item'" in asked for asked in draft.questions)


def test_a_propensity_that_some_rows_lack_is_left_out():
    """As in Coat, whose test rows were drawn at random and say none."""
    chance = np.where(WHAT % 3 == 0, np.nan, 0.1 + 0.01 * WHAT)
    log = frame(user=WHO, item=WHAT, time=WHEN, rating=1 + WHAT % 5, propensity=chance)
    draft = draft_schema(log)
    assert draft.schema.propensity is None
    asked = f"{int(np.isnan(chance).sum())} of {N} rows have no 'propensity'"
    assert any(asked in question for question in draft.questions)
    assert draft_schema(log.assign(propensity=0.5)).schema.propensity == "propensity"


@pytest.mark.parametrize("kind", RECIPES)
def test_a_kind_that_is_asked_for_is_drafted_or_refused(kind):
    log = LOGS["MovieLens"][0]
    if kind in ("ratings", "number", "positives"):
        expected = {"ratings": Percentile("rating", by=BY_USER), "number": RewardFormula("rating"),
                    "positives": RewardFormula("1")}  # fmt: skip
        assert draft_schema(log, kind=kind).schema.quality == expected[kind]
    else:
        with pytest.raises(LogError, match=f"seems to be feedback of the kind '{kind}'"):
            draft_schema(log, kind=kind)


def test_a_shop_of_german_columns_and_commas(tmp_path, capsys):
    draw = np.random.default_rng(3)
    days = pd.Timestamp("2024-02-01") + pd.to_timedelta(draw.integers(0, 60, N), unit="D")
    prices = [f"{1_000 * k:,}.50".translate(str.maketrans(",.", ".,")) for k in range(1, N + 1)]
    log = pd.DataFrame({"Kunde": draw.integers(0, 30, N), "Artikel": draw.integers(0, 20, N)})
    log = log.assign(Datum=days.strftime("%d.%m.%Y"), Betrag=prices)
    log.to_csv(tmp_path / "log.csv", sep=";", index=False)
    assert main(["schema", str(tmp_path / "log.csv"), "--output", str(tmp_path / "s.json")]) == 0
    said = capsys.readouterr().err
    for role, name in {"user": "Kunde", "item": "Artikel"}.items():
        assert f"{role}: {name!r}, so it is called" in said
    assert "'Betrag' holds texts such as" in said
    assert said.rstrip().endswith("--objectives bc")  # the others would refuse such a log


def test_time_spent_is_told_from_the_length_of_the_item():
    draw = np.random.default_rng(4)
    length = draw.integers(90, 320, N)
    log = frame(listener=draw.integers(0, 30, N), track=draw.integers(0, 20, N))
    log = log.assign(seconds_played=length // 2, track_seconds=length)
    expected = Percentile("seconds_played", by=("duration_bucket",), duration="track_seconds")
    assert draft_schema(log).schema.quality == expected


def test_what_cannot_be_drafted_is_said(tmp_path):
    with pytest.raises(ValueError, match="kind must be one of"):
        draft_schema(LOGS["MovieLens"][0], kind="likes")
    with pytest.raises(ValueError, match="rows must be at least 1"):
        draft_schema(LOGS["MovieLens"][0], rows=0)
    with pytest.raises(LogError, match=r"no column seems to be an item: none of \['x'\]"):
        draft_schema(frame(x=np.arange(9) / 7))
    with pytest.raises(LogError, match="no rows to look at"):
        draft_schema(frame(user=[], item=[]))
    (tmp_path / "links.csv").write_text("movie,url\n1,x\n")
    (tmp_path / "ratings.csv").write_text("user,movie\n1,1\n")
    with pytest.raises(LogError, match=r"links.csv has the columns .* they are not one log"):
        draft_schema(tmp_path)


def test_the_command_writes_a_schema_that_the_next_command_reads(tmp_path, capsys):
    log, out = tmp_path / "events.csv", tmp_path / "schema.json"
    LOGS["RetailRocket"][0].to_csv(log, index=False)
    assert main(["schema", str(log), "--output", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "item: 'itemid', so it is called" in said.err
    assert "drpo validate --logs" in said.err
    assert main(["validate", "--logs", str(log), "--schema", str(out)]) == 0
    capsys.readouterr()
    assert main(["schema", str(log)]) == 0
    assert LogSchema.from_json(capsys.readouterr().out) == LogSchema.from_json(out.read_text())
    assert main(["schema", str(log), "--output", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    latin = tmp_path / "latin.txt"
    latin.write_bytes(
        "1~caf\u00e9~1600000000\n1~th\u00e9~1600000100\n2~caf\u00e9~1600000200\n".encode("latin-1")
    )
    assert main(["schema", str(latin)]) == 2
    assert "--encoding latin-1" in capsys.readouterr().err
    options = ["--encoding", "latin-1", "--delimiter", "~", "--header", "user", "item", "time"]
    assert main(["schema", str(latin), *options]) == 0
    schema = LogSchema.from_json(capsys.readouterr().out)
    assert RecReplayBuffer.from_parquet(latin, schema).items.decode(range(2)) == [
        "caf\u00e9",
        "th\u00e9",
    ]
