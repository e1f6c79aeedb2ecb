"""``drpo evaluate --details``: whom a policy serves, what it shows, and what the logger hid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pipeline.click_log import ITEMS, SCHEMA, make_log, settings
from torchrl_drpo import cli
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.evaluation import Evaluation
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train

pytestmark = pytest.mark.usefixtures("one_thread")


def trained(folder: Path, **changes: object) -> TrainConfig:
    log = make_log()
    log = log[(log["user"] > 20) | (log["time"] > 8 * 86_400)]  # 21 users are new in the test days
    config = settings(folder, log, SCHEMA.replace(**changes))
    run_train(config)
    return config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return trained(tmp_path_factory.mktemp("details"))


def evaluated(config: TrainConfig) -> Evaluation:
    asked = EvaluateConfig(config.output / "bc", config.logs, ks=(3,), details=True)
    return run_evaluate(asked)


@pytest.fixture(scope="module")
def found(config: TrainConfig) -> Evaluation:
    return evaluated(config)


def test_lists_longer_than_the_catalogue_hold_all_of_it(config: TrainConfig) -> None:
    asked = EvaluateConfig(config.output / "bc", config.logs, ks=(3, ITEMS + 42), details=True)
    found = run_evaluate(asked).details
    assert found is not None
    assert {each["coverage"] for name, each in found.exposure.items() if name != "the log"} == {1.0}


def test_buckets_hold_all_rows_by_what_was_logged_in_training(
    found: Evaluation, config: TrainConfig
) -> None:
    assert found.details is not None
    data = SplitLog.open(config, config.output / "log")
    users = np.bincount(data.log.split("train").column("user"), minlength=200)
    for buckets, times in (
        (found.details.by_activity, users[data.test.column("user")]),
        (
            found.details.by_popularity,
            np.bincount(data.train_items(), minlength=ITEMS)[data.test.column("action")],
        ),
    ):
        rows = torch.stack([each.bucket.rows for each in buckets])
        assert rows.sum(0).eq(1).all()
        for each in buckets:
            mine = times[each.bucket.rows.numpy()]
            assert (mine.min(), mine.max()) == (each.bucket.least, each.bucket.most)
    assert found.details.by_activity[0].bucket.name == "new"


def test_the_metrics_of_buckets_add_up_to_those_of_all_rows(found: Evaluation) -> None:
    assert found.details is not None
    for each in found.details.by_activity:
        assert 0 < each.methods["bc"]["hr@3"].half_width < 0.2
    for buckets in (found.details.by_activity, found.details.by_popularity):
        sizes = [int(each.bucket.rows.sum()) for each in buckets]
        hits = [each.methods["bc"]["hr@3"].mean for each in buckets]
        whole = sum(s * h for s, h in zip(sizes, hits, strict=True)) / found.rows
        assert whole == pytest.approx(found.metrics["bc"]["hr@3"], rel=1e-9)


def test_exposure_is_that_of_the_policy_s_own_lists(found: Evaluation, config: TrainConfig) -> None:
    assert found.details is not None
    actor = PolicyCheckpoint.load(config.output / "bc").actor
    data = SplitLog.open(config, config.output / "log")
    rows = torch.cat(list(data.test_batches(4096)))
    with torch.no_grad():
        lists = actor.get_dist(rows).logits.topk(3).indices
    shown = lists.unique()
    of_policy = found.details.exposure["bc"]
    assert of_policy["coverage"] == len(shown) / ITEMS
    times = torch.bincount(data.train_items(), minlength=ITEMS)
    popular = times.topk(2).indices  # a fifth of eight items, rounded
    share = torch.isin(lists, popular).double().mean().item()
    assert of_policy["popular_share"] == pytest.approx(share)
    assert found.details.exposure["popularity"]["coverage"] == 3 / ITEMS


def test_weighted_metrics_are_those_of_items_shown_alike(
    found: Evaluation, config: TrainConfig
) -> None:
    assert found.details is not None
    assert found.details.weighted is not None
    data = SplitLog.open(config, config.output / "log")
    weight = 1 / data.test.column("propensity").double()
    times = torch.bincount(data.train_items(), minlength=ITEMS)
    hit = torch.isin(data.test.column("action"), times.topk(3).indices).double()
    expected = ((weight * hit).sum() / weight.sum()).item()
    of_popular = found.details.weighted.methods["popularity"]["hr@3"]
    assert of_popular.mean == pytest.approx(expected, rel=1e-6)
    # Three of eight items, whatever the logger preferred.
    assert abs(of_popular.mean - 3 / ITEMS) < of_popular.half_width * 1.5
    assert found.metrics["popularity"]["hr@3"] > 0.5
    assert found.details.weighted.diagnostics.verdict == "usable"


def test_the_command_prints_tables_or_json_and_draws(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["evaluate", "--checkpoint", str(config.output / "bc"), "--logs", config.logs]
    asked += ["--ks", "3"]
    assert cli.main(asked) == 0
    plain = capsys.readouterr().out
    assert "±" in plain
    assert "What is shown" not in plain
    plot = tmp_path / "details.png"
    assert cli.main([*asked, "--details", "--plot", str(plot)]) == 0
    shown = capsys.readouterr().out
    for words in ("By how often the user was logged", "Gini", "Had every item been shown alike"):
        assert words in shown
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert cli.main([*asked, "--details", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["details"]) == {
        "by_user_activity", "by_item_popularity", "exposure", "weighted_by_propensity",
    }  # fmt: skip
    assert said["half_widths"]["bc"]["hr@3"] > 0
    assert said["half_widths"]["random"]["hr@3"] is None


def test_logs_without_users_or_propensities_do_without(tmp_path: Path) -> None:
    config = trained(tmp_path, user=None, propensity=None)
    found = evaluated(config)
    assert found.details is not None
    assert found.details.by_activity == []
    assert found.details.weighted is None
    assert found.intervals["bc"]["hr@3"].half_width > 0  # of rows
    assert [table.title.split(":")[0] for table in found.tables()][1:] == [
        "By how often the item was logged",
        "What is shown",
    ]
    other = replace(found, details=None)
    with pytest.raises(ValueError, match="no figure"):
        other.figure()
