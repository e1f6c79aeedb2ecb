"""Tilted and conditioned policies, from the command's settings to what is served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensordict import TensorDict

from tests.pipeline.exporting.runtimes import FORMATS, check_lists
from tests.pipeline.topic_log import BAIT, config
from torchrl_drpo import cli
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint, policy_of
from torchrl_drpo.pipeline.artifacts.index import ItemIndex
from torchrl_drpo.pipeline.config.serve import EvaluateConfig, ExportConfig, RecommendConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.export import command as export
from torchrl_drpo.pipeline.exporting import load_exported
from torchrl_drpo.pipeline.kinds.catalogue import CatalogueTraining
from torchrl_drpo.pipeline.kinds.served import turned
from torchrl_drpo.pipeline.recommend import recommend, run_recommend
from torchrl_drpo.pipeline.train import run_train
from torchrl_drpo.policies.catalogue import catalogue_policy

pytestmark = pytest.mark.usefixtures("one_thread", "quick_reward_fit")

OBJECTIVES = ("bc", "bc-tilt", "conditioned", "conditioned-tilt")


@pytest.fixture(scope="module")
def trained(log: Path, tmp_path_factory: pytest.TempPathFactory):
    settings = config(log, tmp_path_factory.mktemp("served"), objectives=OBJECTIVES)
    ran = []
    with pytest.MonkeyPatch.context() as patch:
        learn = CatalogueTraining._learn
        counted = lambda self, name, *rest: ran.append(name) or learn(self, name, *rest)  # noqa: E731
        patch.setattr(CatalogueTraining, "_learn", counted)
        return settings, run_train(settings), ran


def test_what_is_served_in_two_ways_is_trained_once(trained) -> None:
    settings, _, ran = trained
    assert ran == ["bc", "conditioned"]
    plain, tilted = (PolicyCheckpoint.load(settings.output / name) for name in ("bc", "bc-tilt"))
    inside = catalogue_policy(tilted.actor).state_dict()
    for name, weight in catalogue_policy(plain.actor).state_dict().items():
        assert torch.equal(weight, inside[name])


def test_both_ways_serve_what_is_watched(trained) -> None:
    """Bait is shown most and watched by nobody: imitation ranks it first."""
    _, results, _ = trained
    lift = {name: each["lift@5"].mean for name, each in results.summary.items()}
    assert lift["bc"] < 0.5
    assert lift["bc-tilt"] > 2
    assert lift["conditioned"] > 4
    assert lift["conditioned-tilt"] > 4


@pytest.mark.parametrize("name", OBJECTIVES[1:])
def test_a_checkpoint_says_what_training_said(trained, log: Path, name: str) -> None:
    settings, results, _ = trained
    folder = settings.output / name
    found = run_evaluate(EvaluateConfig(folder, str(log / "log.parquet"), ks=(5,)))
    assert found.metrics[name] == pytest.approx(results.runs[name][0], nan_ok=True)
    checkpoint = PolicyCheckpoint.load(folder)
    best = recommend(checkpoint, 1000, k=3)
    assert all(int(each.item[1:]) >= BAIT for each in best)
    state = checkpoint.state(torch.tensor([3, 9])).unsqueeze(0)
    saved = ItemIndex.load(folder / "index")
    assert torch.equal(saved.top_k(state, 5)[1], checkpoint.index().top_k(state, 5)[1])
    dist = policy_of(checkpoint.actor).distribution(state)
    assert torch.equal(saved.top_k(state, 5)[1], dist.topk(5).indices)


def test_knobs_are_turned_at_serving(trained, log: Path) -> None:
    settings, results, _ = trained
    folder = settings.output / "bc-tilt"
    one = RecommendConfig(folder, user="1000", k=3)
    assert run_recommend(replace(one, tau=1e6)) != run_recommend(one)
    loose = run_evaluate(EvaluateConfig(folder, str(log / "log.parquet"), ks=(5,), tau=1e6))
    assert loose.metrics["bc-tilt"] == pytest.approx(results.runs["bc"][0], rel=1e-3, nan_ok=True)
    again = turned(PolicyCheckpoint.load(folder), tau=0.3)
    assert again.model["tilt"]["tau"] == policy_of(again.actor).tau == 0.3
    both = turned(
        PolicyCheckpoint.load(settings.output / "conditioned-tilt"), tau=0.3, guidance=2.0
    )
    assert both.model["condition"]["guidance"] == 2.0
    assert both.model["tilt"]["tau"] == 0.3


def test_knobs_that_a_policy_lacks_are_refused(trained) -> None:
    settings, *_ = trained
    with pytest.raises(ValueError, match="--tau is of tilted policies"):
        run_recommend(RecommendConfig(settings.output / "conditioned", tau=0.1))
    with pytest.raises(ValueError, match="--guidance is of policies that are conditioned"):
        run_recommend(RecommendConfig(settings.output / "bc-tilt", guidance=0.1))
    with pytest.raises(ValueError, match="tau"):
        run_recommend(RecommendConfig(settings.output / "bc-tilt", tau=0.0))


def test_exported_graphs_give_the_same_lists(trained, tmp_path: Path) -> None:
    settings, *_ = trained
    folder = settings.output / "conditioned-tilt"
    export(ExportConfig(folder, tmp_path / "graph", k=4, tau=0.2, formats=FORMATS))
    graph = load_exported(tmp_path / "graph")
    assert graph.facts["model"]["tilt"]["tau"] == 0.2
    checkpoint = turned(PolicyCheckpoint.load(folder), tau=0.2)
    rows = {
        "history": torch.randint(-1, len(checkpoint.items), (20, checkpoint.window)),
        "context": torch.randint(-1, 3, (20, 1)),
    }
    found = checkpoint.actor.get_dist(TensorDict({"observation": rows}, [20])).topk(4)
    check_lists(tmp_path / "graph", rows, found.indices, found.values)


def test_a_tilt_is_among_what_is_trained_where_nobody_says(log: Path, tmp_path: Path) -> None:
    results = run_train(config(log, tmp_path, objectives=(), steps=20))
    usual = ["bc", "drpo", "positive-only", "bc-tilt", "conditioned-tilt"]
    assert list(results.checkpoints) == usual
    whole = config(log, tmp_path, objectives=(), train_places="all")
    assert list(whole.objectives) == usual[:-1]  # a level belongs to a row
    assert not results.notes


def test_it_is_left_out_of_these_where_the_model_knows_nothing(
    log: Path, tmp_path: Path, capsys
) -> None:
    frame = pd.read_parquet(log / "log.parquet")
    rng = np.random.default_rng(99)  # not the log's own stream
    frame = frame.assign(play=rng.random(len(frame)) * frame["duration"])  # whatever is shown
    frame.to_parquet(tmp_path / "log.parquet")
    (tmp_path / "schema.json").write_text((log / "schema.json").read_text())
    noise = ["train", "--logs", str(tmp_path / "log.parquet"), "--schema"]
    noise += [str(tmp_path / "schema.json"), "--output", str(tmp_path / "run"), "--steps", "20"]
    assert cli.main(noise) == 0
    said = capsys.readouterr().out
    assert "bc-tilt, conditioned-tilt: left out. " in said
    assert not (tmp_path / "run" / "bc-tilt").exists()
    assert cli.main([*noise, "--objectives", "bc", "bc-tilt"]) == 2  # who asks is told
    assert "explains nothing" in capsys.readouterr().err
