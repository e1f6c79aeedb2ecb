"""What tests of whole runs share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.topic_log import SCHEMA, make_log
from torchrl_drpo.pipeline.reward_model import fit, held_out
from torchrl_drpo.pipeline.reward_model.make import RewardConfig


@pytest.fixture(scope="module")
def quick_reward_fit() -> Iterator[None]:
    """Reward models of a log with eight items are as good after 200 large steps."""
    quick = RewardConfig(folds=2, steps=200, batch_size=256, learning_rate=1e-2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "SETTINGS", quick)
        patch.setattr(fit, "RewardConfig", lambda: quick)
        yield


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the log of topics and its schema."""
    folder = tmp_path_factory.mktemp("log")
    make_log().to_parquet(folder / "log.parquet")
    (folder / "schema.json").write_text(SCHEMA.to_json())
    return folder
