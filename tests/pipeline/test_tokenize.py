"""``drpo tokenize``, as a user calls it: logs, item tables, arrays; codes that are read again."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("tyro")

from tests.pipeline.topic_log import BAIT, ITEMS, SCHEMA, TOPICS, topic
from torchrl_drpo import RecReplayBuffer
from torchrl_drpo.cli import main
from torchrl_drpo.data import ItemTable, LogSchema
from torchrl_drpo.tokenization import code_quality, residual_kmeans

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ("--levels", 2, "--codes", 8)


@pytest.fixture
def tokenize(monkeypatch, capsys, tmp_path):
    """``tokenize(*words)``: runs the command with --json, which must end with 0."""
    monkeypatch.delattr(builtins, "_", raising=False)  # doctests leave it, tyro translates by it
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> dict:
        code = main(["tokenize", *map(str, words), "--json"])
        said = capsys.readouterr()
        assert code == 0, said.err
        return json.loads(said.out)

    return run


def blobs(items: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    label = np.arange(items) % 6
    vectors = 9 * draw.normal(size=(6, 5))[label] + draw.normal(size=(items, 5))
    return vectors.astype(np.float32), label


def item_table(path: Path, ids: list, vectors: np.ndarray, **more: list) -> None:
    columns = {"sku": ids, "vector": vectors.tolist(), **more}
    pq.write_table(pa.table(columns), path)


def test_codes_found_in_a_log_are_read_back_by_the_schema_that_is_printed(log, tokenize, tmp_path):
    words = ("--logs", log / "log.parquet", "--schema", log / "schema.json", *SMALL, "--dim", 6)
    said = tokenize(*words, "--output", "codes.parquet", "--unique")
    assert said["vectors"] == "training rows"
    assert said["collisions"] == {
        "leaves": ITEMS, "unique_share": 1.0, "colliding": 0, "largest": 1,
    }  # fmt: skip
    schema = SCHEMA.to_json(compact=True)
    declared = LogSchema.from_json(json.dumps(json.loads(schema) | {"items": said["schema_items"]}))
    assert declared.items.codes == ("code_0", "code_1", "code_2")
    buffer = RecReplayBuffer.from_parquet(log / "log.parquet", declared, test_days=3)
    table = pq.read_table("codes.parquet").to_pandas().set_index("video")
    codes = table.loc[buffer.items.decode(range(ITEMS))].to_numpy()
    assert np.array_equal(buffer.item_codes.numpy(), codes)
    # The watchers of a topic are its own, and the first codes know it.
    of_topic = [topic(int(video[1:])) for video in table.index if int(video[1:]) >= BAIT]
    first = [code for video, code in table["code_0"].items() if int(video[1:]) >= BAIT]
    assert len(set(zip(of_topic, first, strict=True))) == len(set(first)) >= TOPICS
    level = said["levels"][0]
    assert level["neighbours"]["share"] > 2 * level["neighbours"]["chance"]
    assert level["together"]["pairs"] > 1_000
    again = tokenize(*words, "--output", "again.parquet", "--unique")
    assert pq.read_table("again.parquet").equals(pq.read_table("codes.parquet"))
    assert {**again, "output": said["output"], "schema_items": said["schema_items"]} == said


def test_hits_are_counted_on_the_held_out_rows(log, tokenize):
    words = ("--logs", log / "log.parquet", "--schema", log / "schema.json", "--dim", 6)
    said = tokenize(*words, "--levels", 1, "--codes", 4)
    buffer = RecReplayBuffer.from_parquet(log / "log.parquet", SCHEMA, test_days=3)
    table = pq.read_table("items.codes.parquet").to_pandas().set_index("video")["code_0"]
    train, test = (
        pd.Series(buffer.items.decode(buffer.split(part).column("action"))).value_counts()
        for part in ("train", "test")
    )
    best = {train.reindex(group.index).fillna(0).idxmax() for _, group in table.groupby(table)}
    lost = 1 - test.reindex(sorted(best)).fillna(0).sum() / test.sum()
    assert said["hits_lost"]["one_a_leaf"] == pytest.approx(lost)
    assert 0.5 < lost < 1


def test_an_item_table_keeps_its_columns_and_order(tokenize, tmp_path):
    vectors, label = blobs()
    ids = [f"b{k}" for k in np.random.default_rng(1).permutation(60)]
    item_table(tmp_path / "items.parquet", ids, vectors, title=[f"t {k}" for k in range(60)])
    words = ("--items", "items.parquet", "--id", "sku", "--embedding", "vector")
    said = tokenize(*words, *SMALL, "--prefix", "sid", "--seed", 3)
    old, new = pq.read_table("items.parquet"), pq.read_table("items.codes.parquet")
    assert new.select(old.column_names).equals(old)
    assert new.column_names == [*old.column_names, "sid0", "sid1"]
    assert len(set(zip(label.tolist(), new["sid0"].to_pylist(), strict=True))) == 8
    order = np.argsort(ids)  # items are numbered by their ids
    found = residual_kmeans(torch.from_numpy(vectors[order]), levels=2, codes=8, seed=3)
    made = np.stack([new["sid0"].to_numpy(), new["sid1"].to_numpy()], 1)
    assert np.array_equal(made[order], found.codes.numpy())
    assert said["quantisation_error"] == pytest.approx(found.error)
    assert said["schema_items"] == {
        "path": str(tmp_path / "items.codes.parquet"), "id": "sku", "codes": ["sid0", "sid1"],
        "embedding": "vector",
    }  # fmt: skip
    report = tokenize(
        *("--items", "items.codes.parquet", "--id", "sku", "--embedding", "vector"),
        *("--report-only", "--existing", "sid0", "sid1"),
    )
    assert report["levels"] == said["levels"]
    assert code_quality(found.codes).to_json()["collisions"] == report["collisions"]


def test_arrays_are_items_that_are_numbered(tokenize, tmp_path):
    from safetensors.numpy import save_file

    vectors, _ = blobs()
    np.save("vectors.npy", vectors.astype(np.float64))
    save_file({"e": vectors, "ids": np.arange(60) * 7}, tmp_path / "v.safetensors")
    tokenize("--items", "vectors.npy", *SMALL, "--balanced", "--output", "a.parquet")
    tokenize("--items", "v.safetensors", *SMALL, "--balanced", "--output", "b.parquet")
    one, other = pq.read_table("a.parquet"), pq.read_table("b.parquet")
    assert one["item"].to_pylist() == list(range(60))
    assert other["item"].to_pylist() == list(range(0, 420, 7))
    assert one["code_0"].equals(other["code_0"])
    assert one["embedding"].to_pylist()[5] == pytest.approx(vectors[5].tolist())
    assert np.bincount(one["code_0"].to_numpy()).max() == 8


def test_features_count_in_units_of_their_spread(tokenize):
    draw = np.random.default_rng(0)
    group = np.arange(40) % 2
    frame = pd.DataFrame({"id": np.arange(40), "price": 1e6 * draw.random(40)})
    frame["size"] = 0.001 * (group + 0.01 * draw.random(40))
    frame["width"], frame["height"] = frame["size"] + 5, frame["size"] * 3
    frame.loc[3, "price"] = None
    frame.to_csv("items.csv", index=False)
    words = ("--items", "items.csv", "--id", "id", "--levels", 1, "--codes", 2, "--features")
    tokenize(*words, "price", "size", "width", "height")
    codes = pq.read_table("items.codes.parquet")["code_0"].to_numpy()
    assert len(set(zip(codes, group, strict=True))) == 2


def test_items_of_the_log_that_the_table_lacks_get_rows_and_random_codes(log, tokenize, tmp_path):
    vectors, _ = blobs(30)
    ids = [f"v{k}" for k in range(29)] + ["never shown"]
    item_table(tmp_path / "items.parquet", ids, vectors, title=["t"] * 30)
    schema = SCHEMA.replace(
        items=ItemTable(path=str(tmp_path / "items.parquet"), id="sku", embedding="vector")
    )
    Path("schema.json").write_text(schema.to_json())
    said = tokenize("--logs", log / "log.parquet", "--schema", "schema.json", *SMALL)
    assert said["vectors"] == "item table"
    assert (said["items"], said["without_vector"]) == (ITEMS + 1, ITEMS - 29)
    table = pq.read_table("items.codes.parquet").to_pandas()
    assert table["sku"].tolist()[:30] == ids
    assert sorted(table["sku"][30:]) == sorted(f"v{k}" for k in range(29, ITEMS))
    assert table["title"][30:].isna().all()
    assert table["code_0"].between(0, 7).all()


def test_codes_of_a_schema_are_reported_on(log, tokenize, tmp_path):
    codes = torch.randint(0, 3, (ITEMS, 2))
    table = {"video": [f"v{k}" for k in range(ITEMS)]}
    table |= {f"c{level}": codes[:, level].tolist() for level in range(2)}
    pq.write_table(pa.table(table), log / "coded.items.parquet")
    items = ItemTable(path="coded.items.parquet", id="video", codes=("c0", "c1"))
    Path("schema.json").write_text(SCHEMA.replace(items=items).to_json())
    said = tokenize("--logs", log / "log.parquet", "--schema", "schema.json", "--report-only")
    assert not Path("items.codes.parquet").exists()
    own = code_quality(codes).to_json()
    assert said["collisions"] == own["collisions"]
    assert [level["perplexity"] for level in said["levels"]] == pytest.approx(
        [level["perplexity"] for level in own["levels"]]
    )
    together = said["levels"][0]["together"]
    assert together["share"] == pytest.approx(together["chance"], abs=0.15)  # they mean nothing
    assert said["hits_lost"]["places"] > 0


def test_what_cannot_be_done_is_one_line(log, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vectors, _ = blobs(10)
    vectors[4, 1] = np.nan
    item_table(tmp_path / "items.parquet", list(range(10)), vectors, code_0=[1] * 10)
    given = ("--items", "items.parquet", "--id", "sku")
    with_log = ("--logs", log / "log.parquet", "--schema", log / "schema.json")
    for words, message in (
        ((), "name a log (--logs LOG with --schema FILE or --preset NAME), or else the items"),
        (("--items", "items.parquet"), "which column of items.parquet holds the ids: --id"),
        (("--items", "absent.npy"), "no item table absent.npy"),
        (given, "say what the items' vectors are"),
        ((*given, "--embedding", "vector"), "vector of item 4 is not finite (1 such items)"),
        ((*given, "--features", "code_0"), "'code_0' says the same of every item"),
        ((*given, "--features", "vector"), "'vector' is of kind list, no number"),
        ((*given, "--features", "sku"), "has a column 'code_0'; choose another --prefix"),
        ((*given, "--report-only"), "there are no codes to report on"),
        ((*given, "--existing", "code_0"), "add --report-only"),
        ((*with_log, "--features", "x"), "columns of an item table, and there is none"),
        ((*with_log, "--levels", 0), "levels must be at least 1, got 0"),
        ((*with_log, "--output", log / "log.parquet"), "log.parquet is there already"),
    ):
        assert main(["tokenize", *map(str, words)]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in said, words
    assert not Path("items.codes.parquet").exists()


def test_a_first_level_that_tells_all_items_apart_is_named(tmp_path, capsys) -> None:
    np.save(tmp_path / "items.npy", np.random.default_rng(0).standard_normal((30, 4)))
    asked = f"tokenize --items {tmp_path}/items.npy --output {tmp_path}/codes.parquet --overwrite"
    assert main(asked.split()) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the first level alone tells all 30 items apart" in said
    assert "(4 a level would do)" in said  # 3 ** 3 < 30 <= 4 ** 3
    assert main([*asked.split(), "--codes", "4"]) == 0
    assert "tells all" not in " ".join(capsys.readouterr().out.split())
    np.save(tmp_path / "items.npy", np.zeros((30, 4)))
    assert main(asked.split()) == 2
    assert "none of the 30 items has a vector" in " ".join(capsys.readouterr().err.split())


def test_the_table_names_what_it_shows(log, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--logs", log / "log.parquet", "--schema", log / "schema.json", *SMALL, "--dim", 6)
    assert main(["tokenize", *map(str, words)]) == 0
    said = capsys.readouterr().out
    for part in ("perplexity", "together (chance)", "error", "collisions: ", "hits lost", "schema"):
        assert part in said


def test_published_codes_collide_as_published(real_logs, tokenize):
    folder = real_logs / "amazon_semantic_ids"
    for name, items, colliding in (
        ("Industrial_and_Scientific", 3_686, 31), ("Office_Products", 3_459, 30),
    ):  # fmt: skip
        said = tokenize(
            *("--items", folder / f"{name}.items.parquet", "--id", "item_id", "--report-only"),
            *("--existing", "code_0", "code_1", "code_2"),
        )
        assert (said["items"], said["collisions"]["colliding"]) == (items, colliding)


def test_a_log_without_users_says_where_vectors_may_come_from(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"i": [1, 2, 1, 3], "click": [0, 1, 1, 0]}).to_csv("log.csv", index=False)
    schema = LogSchema(item="i", quality="click", duplicates="keep")
    Path("schema.json").write_text(schema.to_json())
    words = ("--logs", "log.csv", "--schema", "schema.json", "--test-share", "0.5")
    assert main(["tokenize", *words, "--test-by", "random"]) == 2
    assert "there are no item vectors: name the item table" in capsys.readouterr().err
