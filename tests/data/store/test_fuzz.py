"""Random damage to a converted log: a clear error or the right rows, nothing else."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensordict import TensorDict

from tests.data.conftest import other_number, random_log
from torchrl_drpo.data import (
    InitialHistory,
    ItemTable,
    LogSchema,
    Percentile,
    RecReplayBuffer,
    convert_log,
    verify_store,
)
from torchrl_drpo.files import fingerprint

MUTATIONS = 200
SCHEMA = LogSchema(
    user="user", item="item", time="time", slate="time", position="age", context=("tab",),
    quality=Percentile("play", by=("user", "duration_bucket"), duration="duration", min_count=3),
    features=("mood",), labels=("play", "click"), propensity="propensity",
    items=ItemTable("items.parquet", "id", codes=("a", "b"), embedding="e"),
    initial_history=InitialHistory("past.parquet", "u", "h"),
)  # fmt: skip


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> list[Path]:
    """A log with everything that a log can have, and TED rows."""
    folder = tmp_path_factory.mktemp("fuzz")
    frame = random_log(rows=120, users=9)
    frame["user"] = "ü" + frame["user"].astype(str)
    frame.to_parquet(folder / "log.parquet")
    ids = np.arange(45) * 7
    table = pd.DataFrame({"id": ids, "a": ids % 3, "b": ids % 5})
    table["e"] = [[float(i), 1.0] for i in ids]
    table.to_parquet(folder / "items.parquet")
    past = {"u": frame["user"].unique()[:4], "h": [[7, 14], [], [21], [0] * 9]}
    pd.DataFrame(past).to_parquet(folder / "past.parquet")
    convert_log(folder / "log.parquet", folder / "log", SCHEMA, test_days=2)
    rows = TensorDict({"observation": torch.rand(40, 2), "action": torch.arange(40)}, [40])
    rows["next", "reward"] = torch.rand(40)
    RecReplayBuffer.from_tensordict(rows, root=folder / "ted")
    return [folder / "log", folder / "ted"]


def reading(root: Path) -> list[object]:
    """All that a folder says, as plain data."""
    buffer = RecReplayBuffer.open(root, history=4, next_observation=True)
    rows = buffer[:]
    found: list[object] = [
        [key, str(value.dtype), value.nan_to_num().tolist()]
        for key, value in sorted(rows.items(True, True), key=lambda entry: str(entry[0]))
    ]
    if buffer.schema is not None:
        found += [buffer.split(name).column("action").tolist() for name in ("train", "test")]
        named = {"users": buffer.users, "items": buffer.items, **buffer.contexts}
        found += [[name, ids.decode(range(len(ids)))] for name, ids in named.items()]
        found += [buffer.item_codes.tolist(), buffer.item_embeddings.tolist()]
        found += [buffer.schema.to_json(), buffer.report.to_json()]
    return found


def flip(rng: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes() or b"x")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) + 1)])


def lengthen(rng: random.Random, path: Path) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.choice([1, 4, 8, 4096])))


def blank(rng: random.Random, path: Path) -> None:
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content) + 1)
    content[start : start + 64] = bytes(len(content[start : start + 64]))
    path.write_bytes(content)


def swap(rng: random.Random, path: Path) -> None:
    other = rng.choice([p for p in sorted(path.parent.iterdir()) if p.is_file()])
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def lose(rng: random.Random, path: Path) -> None:
    path.unlink()


CHANGES: list[Callable[[random.Random, Path], None]] = [
    flip, flip, cut, lengthen, blank, swap, lose,
]  # fmt: skip


def told(error: Exception, root: Path) -> None:
    """One line that says where and what to do."""
    assert isinstance(error, ValueError | FileNotFoundError), repr(error)
    assert "convert" in str(error), repr(error)
    assert str(root) in str(error), repr(error)
    assert "\n" not in str(error)


def check(root: Path, expected: list[object]) -> bool:
    """Whether the damage was found; if not, all must read as before."""
    try:
        report = verify_store(root)
        assert report.files <= 60
        whole = report.ok
    except FileNotFoundError:
        whole = False
    try:
        found = reading(root)
    except Exception as error:
        told(error, root)
        assert not whole
        return True
    assert found == expected
    return not whole


@pytest.mark.parametrize("store", [0, 1])
def test_damaged_files_are_found_or_change_nothing(stores, tmp_path, store):
    rng, expected, found = random.Random(store), reading(stores[store]), 0
    kinds: set[str] = set()
    for number in range(MUTATIONS // 2):
        root = tmp_path / str(number)
        shutil.copytree(stores[store], root)
        path = rng.choice(sorted(p for p in root.rglob("*") if p.is_file()))
        rng.choice(CHANGES)(rng, path)
        kinds.add(path.suffix)
        found += check(root, expected)
    assert found > MUTATIONS // 3  # the others hit what nobody reads, or changed nothing
    assert {".json", ".bin"} <= kinds


@pytest.mark.parametrize("sealed", [False, True])
def test_a_manifest_with_other_numbers_is_refused_or_reads_the_same(stores, tmp_path, sealed):
    """Even where its own digest was made to fit: then no size or content would."""
    rng, expected = random.Random(int(sealed)), reading(stores[0])
    root = tmp_path / "root"
    shutil.copytree(stores[0], root)
    whole = json.loads((root / "manifest.json").read_text())
    beside = {"report", "inputs", "parts", "ticks_per_second"}  # told, not read by
    for _ in range(MUTATIONS):
        manifest = json.loads(json.dumps(whole))
        if sealed:
            del manifest["sha256"]
            read = {key: value for key, value in manifest.items() if key not in beside}
            other_number(rng, read)
            manifest.update(read)
            manifest["sha256"] = fingerprint(manifest)
        else:
            other_number(rng, manifest)
        (root / "manifest.json").write_text(json.dumps(manifest))
        try:
            found = reading(root)
        except Exception as error:
            told(error, root)
            continue
        if not sealed:
            assert found == expected
