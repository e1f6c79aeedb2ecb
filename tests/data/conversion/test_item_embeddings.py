"""Item vectors that cannot be read are named with the file and the row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from torchrl_drpo.data import ItemTable, LogSchema, RecReplayBuffer
from torchrl_drpo.data.sources import LogError


def convert(folder: Path, vectors: list) -> RecReplayBuffer:
    rows = {"user": [1, 1, 2], "item": [30, 10, 20], "time": [1, 2, 3], "click": [1, 0, 1]}
    pd.DataFrame(rows).to_parquet(folder / "log.parquet")
    table = pd.DataFrame({"item": [10, 20, 30][: len(vectors)], "vec": vectors})
    table.to_parquet(folder / "items.parquet")
    items = ItemTable(path="items.parquet", id="item", embedding="vec")
    schema = LogSchema(user="user", item="item", time="time", quality="click", items=items)
    return RecReplayBuffer.from_parquet(folder / "log.parquet", schema, root=folder / "converted")


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([None, [1.0, 2.0], [3.0, 4.0]], r"items.parquet, row 0: an empty embedding; leave items"),
        ([[1.0, 2.0], None, [3.0, 4.0]], "row 1: an empty embedding"),
        ([[1.0, 2.0], [3.0, 4.0], []], "row 2: an empty embedding"),
        ([[1.0, 2.0], [3.0], [5.0, 6.0]], "row 1: embedding of 1 numbers, expected 2 as in the fi"),
        ([["a"], ["b"], ["c"]], "'vec' is of type list<.*string>, expected lists of numbers"),
        (["[1, 2]", "[3, 4]", "[5, 6]"], "'vec' is of type .*string, expected lists of numbers"),
        ([1.0, 2.0, 3.0], "'vec' is of type double, expected lists of numbers"),
    ],
)
def test_vectors_that_cannot_be_read_are_named(tmp_path: Path, vectors: list, message: str) -> None:
    with pytest.raises(LogError, match=message):
        convert(tmp_path, vectors)


def test_numbers_of_any_kind_are_read_in_the_order_of_the_items(tmp_path: Path) -> None:
    whole = convert(tmp_path, [[1, 2], [3, 4]])
    assert whole.item_embeddings.tolist() == [[1, 2], [3, 4], [0, 0]]
    (tmp_path / "large").mkdir()
    large = convert(tmp_path / "large", [np.array([1e200, 2.0]), np.array([-1e200, 4.0])])
    assert large.item_embeddings.tolist() == [[np.inf, 2], [-np.inf, 4], [0, 0]]
