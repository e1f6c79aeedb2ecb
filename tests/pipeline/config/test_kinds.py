"""The registry of policy kinds, and that settings import nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from torchrl_drpo.cli import COMMANDS
from torchrl_drpo.pipeline.config.kinds import (
    KINDS,
    CatalogueOptions,
    EmbeddingOptions,
    KindOptions,
    SemanticIDOptions,
)
from torchrl_drpo.pipeline.config.train import TrainConfig


def test_every_kind_is_whole() -> None:
    for name, kind in KINDS.items():
        assert kind.name == name
        assert callable(kind.load_actor())
        assert {"train", "depends_on"} <= set(dir(kind.load_training()))
        assert isinstance(getattr(KindOptions(), name.replace("-", "_")), kind.options)
    assert all(name in (TrainConfig.__doc__ or "") for name in KINDS)


def test_a_kind_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        ValueError, match="policy must be among catalogue, embedding, semantic-id, got 'sid'"
    ):
        TrainConfig(logs="log", preset="kuairand", policy="sid")


@pytest.mark.parametrize(
    ("policy", "given", "message"),
    [
        ("semantic-id", {"catalogue": CatalogueOptions(temperature=2.0)}, "temperature=2.0 is an"),
        ("semantic-id", {"catalogue": CatalogueOptions(item_table="codes")}, "of catalogue polic"),
        ("catalogue", {"semantic_id": SemanticIDOptions(head="parallel")}, "head='parallel' is an"),
        ("catalogue", {"embedding": EmbeddingOptions(folds=3)}, "train --policy embedding"),
    ],
)
def test_options_of_another_kind_are_refused(policy: str, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(logs="log", preset="kuairand", policy=policy, kinds=KindOptions(**given))


def test_identities_of_runs_are_those_that_were_written() -> None:
    """What a run's fingerprint is made of: a change of it trains everything once more."""
    shape = {"dim": 64, "hidden": [128]}
    shared = {
        "logs": "log.parquet", "preset": "kuairand", "schema": None, "test_days": None,
        "test_start": None, "test_share": None, "test_by": None, "test_seed": 0,
        "history": 20, "labels": None, "steps": 1200, "batch_size": 1024,
        "learning_rate": 0.002, "ks": [10, 50], "device": "cpu",
    }  # fmt: skip
    catalogue = {"pooling": "recency", "bias": True, "temperature": 1.0, "tie_embeddings": True}
    uphill = {"uphill_step": 0.3, "folds": 5, "landmarks": 96, "max_rows": 500_000}
    config = TrainConfig(logs="somewhere/log.parquet", preset="kuairand")
    assert config.settings() == shared | {"model": shape | catalogue}
    config = TrainConfig(logs="log.parquet", preset="kuairand", policy="embedding")
    assert config.settings() == shared | {"policy": "embedding", "model": shape, "uphill": uphill}


def test_options_are_of_objectives_that_are_trained() -> None:
    with pytest.raises(ValueError, match="options of 'awr', which is not among the objectives"):
        TrainConfig(logs="log", preset="kuairand", options={"awr": {"temperature": 1.0}})


@pytest.mark.parametrize("command", COMMANDS)
def test_settings_import_nothing_heavy(command: str) -> None:
    module = COMMANDS[command].config.partition(":")[0]
    look = "print([m for m in ('torch', 'torchrl', 'tensordict', 'pyarrow', 'numpy', 'matplotlib')"
    code = f"import sys, tyro, {module}; {look} if m in sys.modules])"
    root = Path(__file__).parents[3]
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert found.stdout.strip() == "[]"
