"""Rows that hold lists, entry by entry: compared with Python's own loops."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrl_drpo.data import (
    EventValues,
    Lists,
    LogError,
    LogSchema,
    RecReplayBuffer,
    TextFiles,
    validate_log,
)
from torchrl_drpo.data.sources import LogSource
from torchrl_drpo.data.sources.reading import Reading

SCHEMA = LogSchema(
    user="u", item="shown", time="t", quality="clicked", slate="list_number",
    position="list_place", lists=Lists(columns=["shown"], chosen="clicked"), duplicates="keep",
)  # fmt: skip


def impressions(rows: int = 300, seed: int = 0) -> pd.DataFrame:
    """Impressions of one to six items, some of which are clicked; one list is empty, one null."""
    rng = np.random.default_rng(seed)
    shown = [rng.choice(40, rng.integers(1, 7), replace=False).tolist() for _ in range(rows)]
    clicked = [[item for item in items if rng.random() < 0.3] for items in shown]
    shown[5], clicked[5], shown[9], clicked[9] = [], [], None, None
    dwell = [[round(float(x), 1) for x in rng.random(len(items or ()))] for items in shown]
    times = (1_600_000_000 + 60 * np.arange(rows)).tolist()
    user = rng.integers(0, 9, rows)
    return pd.DataFrame({"u": user, "t": times, "shown": shown, "clicked": clicked, "dwell": dwell})


def entries(frame: pd.DataFrame) -> list[tuple]:
    out = []
    for row in frame.to_dict("records"):
        for place, item in enumerate(row["shown"] or ()):
            clicked = int(item in row["clicked"])
            out.append((row["u"], row["t"], item, clicked, place, row["dwell"][place]))
    return out


def parquet(frame, folder):
    for number, part in enumerate(np.array_split(np.arange(len(frame)), 3)):
        pq.write_table(pa.Table.from_pandas(frame.iloc[part]), folder / f"{number}.parquet")
    return folder


def json_lines(frame, folder):
    rows = [
        {k: None if v is None else v for k, v in row.items()} for row in frame.to_dict("records")
    ]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def csv(frame, folder):
    """As pandas writes lists: [1, 2]."""
    frame.to_csv(folder / "a.csv", index=False)
    return folder


@pytest.mark.parametrize("batch_rows", [1, 50, 1 << 19])
@pytest.mark.parametrize("write", [parquet, json_lines, csv, lambda frame, _: pa.table(frame)])
def test_every_entry_is_a_row(tmp_path, write, batch_rows):
    frame = impressions()
    lists = Lists(columns=["shown", "dwell"], chosen="clicked", separator=",")
    names = ["u", "t", "shown", "clicked", "list_place", "dwell"]
    source = LogSource(
        write(frame, tmp_path), batch_rows, reading=Reading(frozenset(["u", "shown"]), lists=lists)
    )
    batches = [batch.table for batch in source.batches([*names, "list_number"])]
    assert max(batch.num_rows for batch in batches) <= batch_rows
    found = pa.Table.from_batches(batches).to_pydict()
    assert list(zip(*(found[name] for name in names), strict=True)) == entries(frame)
    numbers = pd.Series(found["list_number"])
    row_of = [k for k, items in enumerate(frame["shown"]) for _ in items or ()]
    assert numbers.nunique() == 298
    assert (numbers.groupby(row_of).nunique() == 1).all()


def test_a_log_of_impressions_is_a_log(tmp_path):
    frame = impressions()
    log = RecReplayBuffer.from_parquet(parquet(frame, tmp_path), SCHEMA, history=3)
    expected = sorted(entries(frame), key=lambda row: (row[0], row[1]))
    assert log.items.decode(log[:]["action"]) == [row[2] for row in expected]
    assert log.quality.tolist() == [row[3] for row in expected]
    assert log[:]["position"].tolist() == [row[4] for row in expected]
    assert log.report.slates == 298
    assert validate_log(parquet(frame, tmp_path), SCHEMA).ok


def test_objects_within_lists_are_columns():
    """As OTTO's sessions are published."""
    rows = [
        {"session": k, "events": [{"aid": 10 * k + j, "ts": 1_660_000_000_000 + j, "type": t}
                                  for j, t in enumerate(types)]}
        for k, types in enumerate([["clicks"], ["carts", "orders", "clicks"]])
    ]  # fmt: skip
    schema = LogSchema(
        user="session", item="aid", time="ts", time_unit="ms", lists=Lists(columns=["events"]),
        quality=EventValues("type", {"clicks": 1, "carts": 3, "orders": 6}),
    )  # fmt: skip
    log = RecReplayBuffer.from_parquet(pa.Table.from_pylist(rows), schema)
    assert log.items.decode(log[:]["action"]) == [0, 10, 11, 12]
    assert log.quality.tolist() == [1, 3, 6, 1]


def test_items_with_a_mark_as_mind_writes_them(tmp_path):
    (tmp_path / "behaviors.tsv").write_text(
        "1\tU1\t11/11/2019 9:05:58 AM\tN9\tN1-0 N2-1\n"
        "2\tU2\t11/12/2019 6:11:30 PM\t\tN3-0\n"
        "3\tU1\t11/12/2019 12:00:00 AM\tN9 N2\tN-4-1 N1-0 N2-0\n"
    )
    schema = LogSchema(
        user="user", item="shown", time="time", time_format="%m/%d/%Y %I:%M:%S %p",
        quality="clicked", slate="impression", position="list_place", duplicates="keep",
        files=TextFiles(header=["impression", "user", "time", "history", "shown"]),
        lists=Lists(columns=["shown"], chosen="clicked", separator=" ", mark="-"),
    )  # fmt: skip
    log = RecReplayBuffer.from_parquet(tmp_path / "behaviors.tsv", schema)
    shown = log.items.decode(log[:]["action"])
    assert shown == ["N1", "N2", "N-4", "N1", "N2", "N3"]
    assert log.quality.tolist() == [0, 1, 1, 0, 0, 0]
    text = (tmp_path / "behaviors.tsv").read_text().replace("N3-0", "N3-2")
    (tmp_path / "behaviors.tsv").write_text(text)
    with pytest.raises(
        LogError, match=r"behaviors.tsv, row 1: the entry 'N3-2' is no item with -0"
    ):
        RecReplayBuffer.from_parquet(tmp_path / "behaviors.tsv", schema)


ROW = {"u": [1, 1], "t": [5, 6], "shown": [[7, 8], [9]], "clicked": [[8], []]}


@pytest.mark.parametrize(
    ("changes", "lists", "message"),
    [
        ({"clicked": [[8], [7]]}, {}, "row 1: 7 is among clicked, but not among shown; an item"),
        ({"dwell": [[1], [1]]}, {"columns": ["shown", "dwell"]},
         "row 0: shown holds 2 entries, but dwell 1; they should be as many"),
        ({"clicked": [["x"], []]}, {}, "shown holds int64, but clicked string; write items in one"),
        ({"shown": ["7 8", "9"]}, {}, r"'shown' has type string, expected lists; .*separator"),
        ({}, {"columns": ["show"]}, "no column 'show' of lists; it has"),
        ({"list_place": [1, 2]}, {}, "'list_place' would be the name of two columns"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit_are_refused(changes, lists, message):
    schema = SCHEMA.replace(lists=Lists(**{"columns": ["shown"], "chosen": "clicked", **lists}))
    with pytest.raises(LogError, match=message):
        RecReplayBuffer.from_parquet(pa.table({**ROW, **changes}), schema)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"columns": []}, "must name a list column"),
        ({"columns": ["a", "a"]}, "'a' is named twice"),
        ({"columns": ["a"], "mark": "-", "separator": " "}, "mark needs `separator`"),
        ({"columns": ["a"], "number": "n", "place": "n"}, "'n' is named twice"),
    ],
)
def test_lists_are_checked(parts, message):
    with pytest.raises(ValueError, match=message):
        Lists(**parts)


def test_lists_survive_json():
    assert LogSchema.from_json(SCHEMA.to_json()) == SCHEMA
    assert "lists" not in SCHEMA.replace(lists=None).to_json()
