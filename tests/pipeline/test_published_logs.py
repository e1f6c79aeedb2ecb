"""The first ten minutes with a log that nobody prepared, from `drpo schema` to `drpo recommend`.

Nothing is done outside ``drpo``; what `drpo schema` leaves open stays as it drafted it.
"""

from __future__ import annotations

import builtins
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("tyro")

from torchrl_drpo import cli

pytestmark = pytest.mark.usefixtures("one_thread")
slow = pytest.mark.slow


@pytest.fixture
def drpo(monkeypatch, capsys):
    """``drpo(*words)``: runs the command, which must end with 0; returns what it said."""
    monkeypatch.delattr(
        builtins, "_", raising=False
    )  # doctests leave it, and tyro translates by it
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> str:
        code = cli.main([str(word) for word in words])
        said = capsys.readouterr()
        assert code == 0, f"drpo {' '.join(map(str, words))}\n{said.err}"
        return said.out

    return run


def ten_minutes(
    drpo, log: object, folder: Path, user: object, *held_out: object, steps=20, header=(), k=10
) -> dict:
    """From the file to a list; returns ``results.json``."""
    schema, out = folder / "schema.json", folder / "out"
    drpo("schema", log, "--output", schema, *(["--header", *header] if header else []))
    if "--bad-rows" not in held_out:
        drpo("validate", "--logs", log, "--schema", schema)
    drpo(
        *("train", "--logs", log, "--schema", schema, "--output", out, "--objectives", "bc"),
        *("--steps", steps, "--batch-size", 32, *held_out),
    )
    table = drpo("evaluate", "--checkpoint", out / "bc", "--logs", log)
    assert "item-knn" in table or "co-occurrence" not in table
    person = [] if user is None else ["--user", user]
    listed = json.loads(drpo("recommend", "--checkpoint", out / "bc", *person, "--k", k, "--json"))
    assert len(listed["recommendations"]) == k
    return json.loads((out / "results.json").read_text())


def test_a_csv_that_nobody_prepared(drpo, tmp_path):
    """Semicolons, ids with leading zeros, empty ids, times with a half of the day."""
    draw = np.random.default_rng(0)
    n = 2_000
    frame = pd.DataFrame({"UserID": draw.integers(0, 80, n)})
    frame["ISBN"] = [f"{i:010d}" for i in draw.integers(100, 160, n)]
    frame["Date"] = pd.Timestamp("2021-03-01") + pd.to_timedelta(draw.integers(0, 90, n), unit="D")
    frame["Book-Rating"] = draw.integers(1, 11, n)
    frame.to_csv(tmp_path / "books.csv", sep=";", index=False)
    found = ten_minutes(drpo, tmp_path / "books.csv", tmp_path, 7, "--test-share", 0.25)
    assert found["data"]["rows"] == n - found["data"]["duplicates"]
    assert found["parts"]["test"]["rows"] == pytest.approx(0.25 * n, rel=0.1)
    schema = json.loads((tmp_path / "schema.json").read_text())
    assert (schema["user"], schema["item"]) == ("UserID", "ISBN")
    listed = json.loads(drpo("recommend", "--checkpoint", tmp_path / "out" / "bc", "--json"))
    assert all(str(item["item"]).startswith("0000000") for item in listed["recommendations"])


@pytest.mark.parametrize(
    ("log", "user", "held_out"),
    [
        pytest.param("movielens_latest_small/ratings.csv", 42, ["--test-share", 0.2], marks=slow),
        ("otto_sample/log.parquet", None, ["--test-share", 0.2, "--test-by", "user"]),
        ("coat/ratings.parquet", None, []),
        ("amazon_grocery/log.parquet", None, ["--test-share", 0.2]),
        pytest.param("open_bandit_small/random_all.parquet", None, ["--test-days", 1], marks=slow),
        pytest.param(
            "amazon_beauty_p5/Beauty_P5.sequences.parquet", 7, ["--test-share", 0.2], marks=slow
        ),
        pytest.param(
            "kuairand_pure_part/log_standard_20220425_20220508.parquet", None, [], marks=slow
        ),
    ],
)
def test_published_logs_go_from_the_file_to_a_list(real_logs, drpo, tmp_path, log, user, held_out):
    found = ten_minutes(drpo, real_logs / log, tmp_path, user, *held_out)
    metrics = found["summary"]["bc"]
    assert 0 < metrics["hr@50"]["mean"] < 1
    assert found["parts"]["train"]["rows"] > found["parts"]["test"]["rows"] > 0


def test_mind_goes_from_its_file_to_a_list(drpo, tmp_path):
    """behaviors.tsv: no header, twelve-hour times, what was shown and clicked in one cell."""
    draw = np.random.default_rng(0)
    lines = []
    for k in range(12):
        shown = draw.choice(30, draw.integers(6, 14), replace=False)
        clicked = draw.choice(shown)
        past = " ".join(f"N{item}" for item in draw.integers(0, 30, k % 4))
        cell = " ".join(f"N{item}-{int(item == clicked)}" for item in shown)
        when = f"11/{11 + k // 4}/2019 {k + 1}:05:58 {'AM' if k % 2 else 'PM'}"
        lines.append(f"{k + 1}\tU{k % 4}\t{when}\t{past}\t{cell}\n")
    log = tmp_path / "behaviors.tsv"
    log.write_text("".join(lines))
    header = ("impression_id", "user_id", "time", "history", "impressions")
    held_out = ("--test-share", 0.3)
    found = ten_minutes(drpo, log, tmp_path, "U1", *held_out, header=header, steps=3, k=3)
    assert found["data"]["slates"] == 12
    assert found["data"]["rows"] == sum(line.count("-") for line in lines)
    assert found["parts"]["train"]["good"] + found["parts"]["test"]["good"] == 12


def test_coveo_goes_from_its_file_to_a_list(drpo, tmp_path, capsys):
    """browsing_train.csv: sessions as users, hashes for everything, pages without items."""
    draw = np.random.default_rng(0)

    def hashed(name: str, number: int) -> str:
        return hashlib.sha256(f"{name} {number}".encode()).hexdigest()

    rows, pages = [], 0
    for session in range(12):
        for event in range(draw.integers(5, 14)):
            page = draw.random() < 0.3
            pages += page
            rows.append(
                {
                    "session_id_hash": hashed("session", session),
                    "event_type": "pageview" if page else "event_product",
                    "product_action": None if page else draw.choice(["detail", "add", "purchase"]),
                    "product_sku_hash": None if page else hashed("sku", draw.integers(15)),
                    "server_timestamp_epoch_ms": 1547528580651 + 9_000 * (1_000 * session + event),
                    "hashed_url": hashed("url", draw.integers(40)),
                }
            )
    log = tmp_path / "browsing_train.csv"
    pd.DataFrame(rows).to_csv(log, index=False)
    user = hashed("session", 3)
    held_out = ("--test-share", 0.3, "--bad-rows", "drop")
    found = ten_minutes(drpo, log, tmp_path, user, *held_out, steps=3, k=3)
    assert found["data"]["rows"] == len(rows) - pages
    assert found["data"]["dropped"]["missing id in product_sku_hash"] == pages
    assert found["config"]["bad_rows"] == "drop"
    schema = json.loads((tmp_path / "schema.json").read_text())
    assert (schema["user"], schema["item"]) == ("session_id_hash", "product_sku_hash")
    words = ("--logs", log, "--schema", tmp_path / "schema.json")
    assert cli.main(["validate", *map(str, words)]) == 1
    assert f"missing id in product_sku_hash: {pages}" in capsys.readouterr().out
    assert cli.main(["train", *map(str, words), "--output", str(tmp_path / "other")]) == 2
    assert "to leave them out: --bad-rows drop" in capsys.readouterr().err


def test_a_published_log_goes_by_its_name(drpo, tmp_path, capsys):
    """A folder as MovieLens publishes it, which is named and never downloaded."""
    draw = np.random.default_rng(0)
    n, root = 1_000, tmp_path / "ml-latest-small"
    root.mkdir()
    frame = pd.DataFrame({"userId": draw.integers(1, 30, n), "movieId": draw.integers(1, 50, n)})
    frame["rating"] = draw.integers(1, 11, n) / 2
    frame["timestamp"] = draw.integers(1_400_000_000, 1_450_000_000, n)
    frame.to_csv(root / "ratings.csv", index=False)
    movies = pd.DataFrame({"movieId": np.arange(1, 60), "title": "A, B", "genres": "Drama|War"})
    movies.to_csv(root / "movies.csv", index=False)
    named = ("--dataset", "rec:movielens", "--root", tmp_path)  # the folder around it will do
    assert json.loads(drpo("schema", *named))["item"] == "movieId"
    assert json.loads(drpo("validate", *named, "--json"))["items"] == 59
    drpo(
        *("train", *named, "--output", tmp_path / "out", "--objectives", "bc", "--steps", 5),
        *("--batch-size", 64, "--test-share", 0.2),
    )
    config = json.loads((tmp_path / "out" / "results.json").read_text())["config"]
    assert config["dataset"] == "rec:movielens"
    assert not config.keys() & {"logs", "schema"}
    assert str(tmp_path) not in json.dumps(config)
    checkpoint = ("--checkpoint", tmp_path / "out" / "bc")
    table = drpo("evaluate", *checkpoint, *named)
    assert table == drpo("evaluate", *checkpoint, "--logs", root / "ratings.csv")
    drpo("recommend", *checkpoint, "--user", 3)
    for command in ("schema", "validate", "train"):
        for words, said in {
            ("--dataset", "movielens", "--root", root / "no"): "download ml-latest-small.zip",
            ("--dataset", "movielens"): "needs --root FOLDER",
            ("--dataset", "movilens", "--root", root): "did you mean 'movielens'",
            ("--root", root): "--dataset NAME",
            (): "--logs LOG",
        }.items():
            assert cli.main([command, *map(str, words)]) == 2
            assert said in capsys.readouterr().err


def test_the_order_of_the_rows_of_one_date_changes_no_table(drpo, tmp_path):
    """Sorted by item, as files often are: once that gave the next item away."""
    draw = np.random.default_rng(1)
    n = 1_500
    frame = pd.DataFrame({"user": draw.integers(0, 60, n), "item": draw.integers(0, 40, n)})
    frame["rating"] = draw.integers(1, 6, n)
    frame["date"] = "2024-05-01"
    tables = []
    ordered, shuffled = frame.sort_values(["item", "user"]), frame.sample(frac=1, random_state=2)
    for name, rows in {"sorted": ordered, "shuffled": shuffled}.items():
        folder = tmp_path / name
        folder.mkdir()
        rows.to_csv(folder / "log.csv", index=False)
        drpo("schema", folder / "log.csv", "--output", folder / "schema.json")
        drpo(
            *("train", "--logs", folder / "log.csv", "--schema", folder / "schema.json"),
            *("--output", folder / "out", "--objectives", "bc", "drpo", "--steps", 50),
            *("--batch-size", 128, "--test-share", 0.3, "--test-by", "random"),
        )
        tables.append((folder / "out" / "table.md").read_text())
    assert tables[0] == tables[1]
    assert all(f"| {policy} |" in tables[0] for policy in ("popularity", "bc", "drpo"))
