"""Item vectors of codes and embeddings, from a log's item table to what is recommended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.pipeline.topic_log import BAIT, ITEMS, TOPICS, config, make_log, topic
from torchrl_drpo.data import ItemTable, LogSchema
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.kinds import CatalogueOptions, KindOptions
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.policies import catalogue_policy

pytestmark = pytest.mark.usefixtures("one_thread")

NEW = 12  # items of the item table that no row shows, three of each topic


@pytest.fixture(scope="module")
def catalogue_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of topics with an item table of codes and embeddings, which knows of new items."""
    folder = tmp_path_factory.mktemp("catalogue")
    make_log().to_parquet(folder / "log.parquet")
    numbers = np.arange(ITEMS + NEW)
    bait = numbers < BAIT
    codes = {"kind": np.where(bait, 0, 1), "topic": np.where(bait, TOPICS, numbers % TOPICS)}
    embedding = np.eye(TOPICS + 1)[codes["topic"]]
    table = pd.DataFrame({"video": [f"v{i}" for i in numbers], "vector": list(embedding), **codes})
    table.to_parquet(folder / "items.parquet")
    items = ItemTable("items.parquet", "video", codes=("kind", "topic"), embedding="vector")
    columns = {"user": "user", "item": "video", "time": "time"}
    schema = LogSchema(**columns, quality="liked", context=("tab",), items=items)
    (folder / "schema.json").write_text(schema.to_json())
    return folder


def settings(log: Path, output: Path, kind: str, own: bool = False) -> TrainConfig:
    options = KindOptions(catalogue=CatalogueOptions(bias=False, item_table=kind, own_vectors=own))
    return config(log, output, objectives=("positive-only",), steps=120, kinds=options)


@pytest.mark.parametrize(("kind", "own"), [("codes", False), ("codes", True), ("features", False)])
def test_items_that_no_row_shows_are_recommended(catalogue_log, tmp_path, kind, own) -> None:
    run = settings(catalogue_log, tmp_path, kind, own)
    results = run_train(run)
    assert results.data["items_without_data"] == 0
    assert results.data["cold_items_with_data"] == NEW
    checkpoint = PolicyCheckpoint.load(run.output / "positive-only")
    policy = catalogue_policy(checkpoint.actor)
    assert torch.equal(checkpoint.index().vectors, policy.item_vectors())
    found = []
    for user in range(40):
        served = [int(str(place.item)[1:]) for place in recommend(checkpoint, 1000 + user, k=5)]
        found.append(sum(item >= ITEMS and topic(item) == user % TOPICS for item in served))
    assert sum(found) / 40 > 0.8  # of three new items of the user's topic; chance is .27
    # A new item is a history like any other.
    history = [f"v{ITEMS + 1}", f"v{ITEMS + 5}"]
    again = [int(str(place.item)[1:]) for place in recommend(checkpoint, history=history, k=5)]
    assert sum(topic(item) == topic(ITEMS + 1) for item in again) >= 4
    found = run_evaluate(
        EvaluateConfig(run.output / "positive-only", str(catalogue_log / "log.parquet"), ks=(5,))
    )
    expected = results.runs["positive-only"][0]
    assert found.metrics["positive-only"] == pytest.approx(expected, nan_ok=True)
    assert "12 have a vector all the same" in (run.output / "table.md").read_text()


def test_a_log_without_the_columns_is_refused(log: Path, tmp_path: Path) -> None:
    for kind, column in (("codes", "codes"), ("features", "embedding")):
        with pytest.raises(ValueError, match=f"schema's item table.*{column}="):
            run_train(settings(log, tmp_path, kind))


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="leave --own-vectors out"):
        CatalogueOptions(own_vectors=True)
    with pytest.raises(ValueError, match="leave --no-tie-embeddings out"):
        CatalogueOptions(item_table="codes", tie_embeddings=False)
