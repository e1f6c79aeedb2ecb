"""The order of a file's rows changes nothing: a shuffled log becomes the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from torchrl_drpo.data import LogSchema, Percentile, convert_log
from torchrl_drpo.files import read_json

SCHEMA = LogSchema(
    user="u", item="i", time="t", quality=Percentile("watched", by=("user", "tab")),
    context=("tab",), labels=("click",),
)  # fmt: skip


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Sorted by item, most rows tied, some of them repeated."""
    draw = np.random.default_rng(0)
    n = 3_000
    frame = pd.DataFrame(
        {
            "u": draw.integers(0, 40, n),
            "i": [f"item {k}" for k in draw.integers(0, 60, n)],
            "t": draw.integers(0, 5, n) * 86_400,
            "tab": draw.integers(0, 3, n),
            "watched": draw.exponential(size=n).round(2),
            "click": draw.integers(0, 2, n),
            "session": draw.integers(0, 3, n),
            "place": draw.integers(0, 20, n),
        }
    )
    repeated = frame.sample(100, random_state=1)
    return pd.concat([frame, repeated]).sort_values("i", kind="stable")


def files(frame: pd.DataFrame, root: Path, schema: LogSchema, **options) -> dict[str, bytes]:
    """What a conversion stores, by name; options and the log's own digest left out."""
    convert_log(frame, root, schema, **options)
    data = root / read_json(root / "manifest.json")["data"]
    found = {p.relative_to(data).as_posix(): p for p in data.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name.count("/")}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"duplicates": "keep"},
        {"session": "session"},
        {"slate": "session", "position": "place"},
        {"history_rows": "positive", "quality": "click"},
        {"date": "t", "time": "same"},
    ],
    ids=lambda change: ", ".join(change) or "plain",
)
@pytest.mark.parametrize("split", [{"test_days": 1}, {"test_share": 0.3, "test_by": "random"}])
def test_a_shuffled_log_is_the_same_log(frame, tmp_path, change, split):
    frame = frame.assign(same=7)
    if "date" in change:
        frame["t"] = pd.to_datetime(frame["t"], unit="s").dt.date
    if "slate" in change:  # one that lasts would be cut
        frame["session"] += 10 * frame["t"]
    schema = SCHEMA.replace(**change)
    stored = files(frame, tmp_path / "log", schema, **split)
    assert {"rows/action.memmap", "index/part-1.bin"} <= set(stored)
    shuffled = frame.sample(frac=1, random_state=2)
    assert files(shuffled, tmp_path / "other", schema, **split) == stored
    pieces = {"batch_rows": 101, "partition_rows": 300, "split_rows": 700}
    if schema.quality != SCHEMA.quality:  # percentiles of pieces are those of pieces
        assert files(shuffled, tmp_path / "pieces", schema, **split, **pieces) == stored


def test_rows_of_one_instant_do_not_stand_by_their_items(frame, tmp_path):
    """A sequence model would learn that the next number is greater."""
    frame = frame.assign(t=7).drop_duplicates(["u", "i"])
    convert_log(frame, tmp_path, SCHEMA)
    action = np.fromfile(next(tmp_path.glob("data-*/rows/action.memmap")), np.int64)
    rises = np.mean(np.diff(action) > 0)
    assert rises == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / len(action)))


def test_a_slate_without_places_keeps_the_order_it_was_logged_in():
    log = pd.DataFrame({"u": 0, "i": [3, 1, 2, 9, 8], "t": 5, "s": [7, 7, 7, 4, 4], "click": 1})
    from torchrl_drpo.data import RecReplayBuffer

    rows = RecReplayBuffer.from_pandas(log, LogSchema("i", "click", "u", "t", slate="s"))[:]
    raw = np.unique(log.i)[rows["action"].numpy()]
    of_slate = [raw[rows["slate"].numpy() == k].tolist() for k in (0, 1)]
    assert sorted(of_slate) == [[3, 1, 2], [9, 8]]
