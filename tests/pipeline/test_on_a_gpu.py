"""``drpo train`` on a GPU: a log whose truth is known, and policies that serve on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.topic_log import BAIT, config
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.train import run_train

DEVICE = "cuda"

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("quick_reward_fit")]


@pytest.mark.parametrize("resumed", [False, True])
def test_what_is_watched_is_learned_and_served_on_a_cpu(
    log: Path, tmp_path: Path, resumed: bool
) -> None:
    """Bait is shown most and watched by nobody: imitation ranks it first."""
    objectives = ("bc", "drpo", "bc-tilt")
    settings = config(log, tmp_path, objectives=objectives, device=DEVICE)
    if resumed:
        run_train(config(log, tmp_path, objectives=objectives[:1], device=DEVICE))
    results = run_train(settings)
    lift = {name: each["lift@5"].mean for name, each in results.summary.items()}
    assert lift["bc"] < 0.5
    assert lift["drpo"] > 2
    assert lift["bc-tilt"] > 2
    for name in objectives:
        found = run_evaluate(EvaluateConfig(tmp_path / name, str(log / "log.parquet"), ks=(5,)))
        assert found.metrics[name]["hr@5_best"] == pytest.approx(
            results.runs[name][0]["hr@5_best"], abs=0.02
        )
    best = recommend(PolicyCheckpoint.load(tmp_path / "drpo"), 1000, k=3)
    assert all(int(each.item[1:]) >= BAIT for each in best)
