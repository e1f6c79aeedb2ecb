"""What lists of items are padded with is no item: in rows' own histories and in users' pasts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from torchrl_drpo.data import InitialHistory, LogError, LogSchema, RecReplayBuffer, validate_log

SCHEMA = LogSchema(item="i", quality="r", history="h", duplicates="keep")

#: How lists are written, what else pads them, and what is left of them.
LISTS = {
    "minus ones": (pa.array([[-1, -1, 10], [-1, 11, 12], [10, 11, 12]]), None),
    "behind": (pa.array([[10, -1, -1], [11, 12, -9], [10, 11, 12]]), None),
    "nulls": (pa.array([[None, None, 10], [None, 11, 12], [10, 11, 12]]), None),
    "zeros": (pa.array([[0, 0, 10], [0, 11, 12], [10, 11, 12]]), 0),
    "floats": (pa.array([[None, 10.0], [np.nan, 11.0, 12.0], [10.0, 11.0, 12.0]]), None),
    "fixed": (pa.array([[-1, -1, 10], [-1, 11, 12], [10, 11, 12]], pa.list_(pa.int64(), 3)), None),
    "texts": (pa.array([["", "10"], ["", "11", "12"], ["10", "11", "12"]]), None),
    "a word": (pa.array([["[PAD]", "10"], ["", "11", "12"], ["10", "11", "12"]]), "[PAD]"),
    "unsigned": (pa.array([[0, 10], [0, 11, 12], [10, 11, 12]], pa.list_(pa.uint64())), 0),
    "large": (
        pa.array([["", "10"], [None, "11", "12"], ["10", "11", "12"]],
                 pa.large_list(pa.large_string())),
        None,
    ),
    "coded": (
        pa.array([["[PAD]", "10"], ["", "11", "12"], ["10", "11", "12"]],
                 pa.list_(pa.dictionary(pa.int32(), pa.string()))),
        "[PAD]",
    ),
}  # fmt: skip
LEFT = [[10], [11, 12], [10, 11, 12]]


def windows(log: RecReplayBuffer, rows: list[list[int]], kind: type) -> list[list[int]]:
    """By hand: the numbers of the items that are left, with -1 before them."""
    numbers = [[log.items.find(kind(item)) for item in items] for items in rows]
    return [[-1] * (4 - len(items)) + items for items in numbers]


@pytest.mark.parametrize("form", LISTS)
def test_padding_of_rows_histories(form):
    lists, padding = LISTS[form]
    kind = str if "string" in str(lists.type) else int
    items = pa.array([kind(item) for item in (10, 11, 12)])
    table = pa.table({"i": items, "r": [1.0, 0, 1], "h": lists})
    schema = SCHEMA.replace(history_padding=padding)
    log = RecReplayBuffer.from_parquet(table, schema, history=4)
    assert log.items.decode(range(log.num_items)) == [kind(i) for i in (10, 11, 12)]
    assert log[:]["observation", "history"].tolist() == windows(log, LEFT, kind)
    assert validate_log(table, schema).items == 3


@pytest.mark.parametrize("form", LISTS)
def test_padding_of_users_pasts(form, tmp_path):
    lists, padding = LISTS[form]
    kind = str if "string" in str(lists.type) else int
    pq.write_table(pa.table({"who": [3, 1, 2], "did": lists}), tmp_path / "past.parquet")
    items = pa.array([kind(10)] * 3)
    pq.write_table(pa.table({"u": [3, 1, 2], "i": items, "t": [1] * 3, "r": [1] * 3}),
                   tmp_path / "log.parquet")  # fmt: skip
    past = InitialHistory("past.parquet", "who", "did", padding=padding)
    schema = LogSchema(user="u", item="i", time="t", quality="r", initial_history=past)
    log = RecReplayBuffer.from_parquet(tmp_path / "log.parquet", schema, history=4)
    assert log.num_items == 3
    in_order = [LEFT[1], LEFT[2], LEFT[0]]  # of users 1, 2, 3
    assert log[:]["observation", "history"].tolist() == windows(log, in_order, kind)


@pytest.mark.parametrize(
    ("lists", "padding", "message"),
    [
        ([[0.5, 10.0]], None, "lists of items hold fractions"),
        ([[10]], "0", "hold integer ids, but their padding is '0'"),
        ([["10"]], 0, "hold string ids, but their padding is 0"),
        ([[True]], None, "column 'h' holds boolean values, .* integer or string"),
        ([["a"]], None, "items are named in two ways: 'i' of the table holds integer ids, 'h' of"),
    ],
)
def test_lists_that_hold_no_ids(lists, padding, message):
    items = ["10"] if message.startswith("hold string") else [10]
    table = pa.table({"i": items, "r": [1.0], "h": lists})
    with pytest.raises(LogError, match=message):
        RecReplayBuffer.from_parquet(table, SCHEMA.replace(history_padding=padding))


def test_rows_without_any_history():
    for lists in ([None, []], [[None], []]):
        frame = pd.DataFrame({"i": [1, 2], "r": [1.0, 0.0], "h": lists})
        log = RecReplayBuffer.from_pandas(frame, SCHEMA, history=2)
        assert (log[:]["observation", "history"] == -1).all()
