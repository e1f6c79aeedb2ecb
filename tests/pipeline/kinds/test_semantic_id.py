"""``drpo train --policy semantic-id``: from a log with codes to lists that a search finds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.pipeline import click_log
from tests.pipeline.topic_log import BAIT, ITEMS, SCHEMA, TOPICS, config, make_log, topic
from torchrl_drpo import cli
from torchrl_drpo.data import ItemTable
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.kinds import KindOptions, ModelConfig, SemanticIDOptions
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import run_train

pytestmark = pytest.mark.usefixtures("one_thread", "quick_reward_fit")
OBJECTIVES = ("bc", "bc-tilt", "drpo", "positive-only", "tapered", "drpo-q")


def items(log: Path) -> pd.DataFrame:
    """Bait has a branch of its own, each topic another; two items share a code."""
    number = pd.Series(range(ITEMS))
    is_bait = number < BAIT
    code = number.where(is_bait, (number - BAIT) // TOPICS)
    code = code.where(number != ITEMS - 1, code[ITEMS - 1 - TOPICS])
    return pd.DataFrame(
        {
            "id": "v" + number.astype(str),
            "c0": (topic(number) + 1).where(~is_bait, 0),
            "c1": code,
        }
    )


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coded")
    make_log().to_parquet(folder / "log.parquet")
    items(folder).to_parquet(folder / "items.parquet")
    table = ItemTable("items.parquet", id="id", codes=("c0", "c1"))
    (folder / "schema.json").write_text(SCHEMA.replace(items=table).to_json())
    return folder


@pytest.fixture(scope="module")
def trained(coded: Path, tmp_path_factory: pytest.TempPathFactory):
    output = tmp_path_factory.mktemp("run")
    settings = config(coded, output, policy="semantic-id", objectives=OBJECTIVES)
    return settings, run_train(settings)


def test_it_learns_what_people_watch(trained) -> None:
    _, results = trained
    metric = {name: runs[0] for name, runs in results.runs.items()}
    for name in ("drpo", "positive-only", "drpo-q"):
        assert metric[name]["hr@5_best"] > 0.4 > metric["popularity"]["hr@5_best"] + 0.2, name
        assert metric[name]["lift@5"] > 3 > metric["bc"]["lift@5"], name
    assert metric["tapered"]["gauc_quality"] > metric["bc"]["gauc_quality"]
    assert metric["bc-tilt"]["lift@5"] > 2 > 0.5 > metric["bc"]["lift@5"]
    assert results.data["code_sizes"] == [5, 9]
    assert results.data["items_that_share_a_code"] == 2
    assert results.data["items_without_codes"] == 0


def test_a_tilted_checkpoint_is_the_same_policy_and_its_tau_a_knob(trained) -> None:
    settings, results = trained
    asked = EvaluateConfig(settings.output / "bc-tilt", settings.logs, ks=settings.ks)
    found = run_evaluate(asked).metrics["bc-tilt"]
    assert found == pytest.approx(results.runs["bc-tilt"][0], rel=1e-4, nan_ok=True)
    loose = run_evaluate(replace(asked, tau=1e6)).metrics["bc-tilt"]
    assert loose == pytest.approx(results.runs["bc"][0], rel=1e-3, nan_ok=True)


def test_a_checkpoint_serves_and_is_judged_as_in_training(trained, coded: Path) -> None:
    settings, results = trained
    checkpoint = PolicyCheckpoint.load(settings.output / "drpo")
    again = run_evaluate(
        EvaluateConfig(
            logs=settings.logs, checkpoint=settings.output / "drpo", ks=settings.ks, details=True
        )
    )
    for name in ("hr@5_best", "hr@5_worst", "gauc_quality", "mrr"):
        assert again.metrics["drpo"][name] == pytest.approx(results.runs["drpo"][0][name])
    for user in (1000, 1001, 1002):
        found = recommend(checkpoint, user, k=4, exclude_seen=False)
        topics = {topic(int(place.item[1:])) for place in found}
        assert topics == {user % TOPICS}
        assert all(int(place.item[1:]) >= BAIT for place in found)
        seen = {place.item for place in recommend(checkpoint, user, k=ITEMS, exclude_seen=True)}
        known = checkpoint.users.sequence(checkpoint.users.ids.find(user)).unique()
        assert not seen & set(checkpoint.items.decode(known))
        assert len(seen) == ITEMS - len(known)
    assert not (settings.output / "drpo" / "index").exists()
    with pytest.raises(ValueError, match="no item index"):
        checkpoint.index()


def test_the_lists_are_those_of_all_probabilities(trained) -> None:
    settings, _ = trained
    checkpoint = PolicyCheckpoint.load(settings.output / "bc")
    hidden = torch.randn(7, 16)
    scores, found = checkpoint.ranking()(hidden, 10, torch.tensor([3, 9]))
    every = checkpoint.actor[-1].distribution_class(hidden).logits
    every[:, [3, 9]] = -torch.inf
    expected = every.sort(-1, descending=True)
    torch.testing.assert_close(scores, expected.values[:, :10])
    torch.testing.assert_close(every.gather(1, found), scores)


def test_its_value_is_estimated_where_a_log_has_propensities(tmp_path: Path) -> None:
    """Items have exact probabilities: the columns of training, and `drpo evaluate --ope`."""
    pd.DataFrame(
        {"id": range(click_log.ITEMS), "c": [i // 2 for i in range(click_log.ITEMS)]}
        | {"d": [i % 2 for i in range(click_log.ITEMS)]}
    ).to_parquet(tmp_path / "items.parquet")
    schema = click_log.SCHEMA.replace(items=ItemTable("items.parquet", id="id", codes=("c", "d")))
    settings = click_log.settings(
        tmp_path, click_log.make_log(), schema, policy="semantic-id",
        objectives=("positive-only",), steps=150,
    )  # fmt: skip
    results = run_train(settings)
    column = results.values.columns()["value, SNIPS ↑"]
    assert float(column["positive-only"].split()[0]) > 0.55 > float(column["random"].split()[0])
    found = run_evaluate(
        EvaluateConfig(settings.output / "positive-only", settings.logs, ks=(3,), ope=True)
    ).value
    assert found.estimates["DR"].value == pytest.approx(found.estimates["SNIPS"].value, abs=0.05)


@pytest.mark.parametrize("head", ["transformer", "parallel"])
def test_other_heads_and_options_travel_with_the_checkpoint(
    coded: Path, tmp_path: Path, head: str
) -> None:
    kinds = KindOptions(
        semantic_id=SemanticIDOptions(head=head, item_bias=False, item_vectors=False)
    )
    settings = config(
        coded, tmp_path, policy="semantic-id", objectives=("drpo",), kinds=kinds, steps=60
    )
    run_train(settings)
    checkpoint = PolicyCheckpoint.load(tmp_path / "drpo")
    assert (checkpoint.model["head"], checkpoint.policy) == (head, "semantic-id")
    assert len(recommend(checkpoint, 1000, k=3)) == 3


@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_whole_sequences_train_through_an_encoder(
    coded: Path, tmp_path: Path, encoder: str
) -> None:
    model = ModelConfig(dim=16, encoder=encoder, layers=1, history_feedback=True)
    settings = config(
        coded, tmp_path, policy="semantic-id", objectives=("drpo",), model=model,
        train_places="all", steps=150,
    )  # fmt: skip
    found = run_train(settings).runs
    assert found["drpo"][0]["lift@5"] > 3
    checkpoint = PolicyCheckpoint.load(tmp_path / "drpo")
    assert checkpoint.model["encoder"]["kind"] == encoder
    assert len(recommend(checkpoint, 1000, k=3)) == 3
    # Of somebody new nobody knows what the items were worth: the training rows' mean stands for it.
    assert recommend(checkpoint, k=3) == recommend(checkpoint, history=[], k=3)
    new = recommend(checkpoint, history=["v9", "v13"], k=3)
    usual = SplitLog.open(settings, settings.output / "log").quality_moments()[0].float()
    items = checkpoint.items.encode(["v9", "v13"])
    state = checkpoint.state(items, feedback=usual.expand(2))
    found = checkpoint.ranking()(state.unsqueeze(0), 3, items)[1][0]
    assert [place.item for place in new] == checkpoint.items.decode(found)


def test_the_command(coded: Path, tmp_path: Path, capsys) -> None:
    arguments = (
        f"train --policy semantic-id --logs {coded}/log.parquet --schema {coded}/schema.json"
    )
    arguments += f" --output {tmp_path} --objectives bc --steps 30 --batch-size 128 --ks 5"
    assert cli.main([*arguments.split(), "--head", "parallel"]) == 0
    assert "bc" in capsys.readouterr().out
    assert "code by code" not in (tmp_path / "table.md").read_text()
    assert "semantic IDs of 5 x 9 codes" in (tmp_path / "table.md").read_text()
    assert cli.main(f"recommend --checkpoint {tmp_path}/bc --user 1000 --json".split()) == 0
    assert len(json.loads(capsys.readouterr().out)["recommendations"]) == 10


def test_a_log_without_codes_is_refused(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="drpo tokenize"):
        run_train(config(log, tmp_path, policy="semantic-id", objectives=("bc",)))
    with pytest.raises(ValueError, match=r"guided.*catalogue, not semantic-id"):
        config(log, tmp_path, policy="semantic-id", objectives=("guided",))


@pytest.mark.parametrize("count", [1, 3])
def test_codes_that_leave_nothing_to_choose_are_refused(tmp_path: Path, count: int) -> None:
    log = click_log.make_log()
    log["item"] %= count
    pd.DataFrame({"item": range(count), "c0": 5}).to_parquet(tmp_path / "items.parquet")
    table = ItemTable("items.parquet", id="item", codes=("c0",))
    kinds = KindOptions(semantic_id=SemanticIDOptions(item_bias=False))
    settings = click_log.settings(
        tmp_path, log, click_log.SCHEMA.replace(items=table), policy="semantic-id", kinds=kinds
    )
    with pytest.raises(ValueError, match=f"the {count} items of the log leave .* nothing to choos"):
        run_train(settings)


def test_a_killed_run_goes_on(coded: Path, tmp_path: Path) -> None:
    whole = run_train(
        config(coded, tmp_path / "whole", policy="semantic-id", objectives=("drpo",), steps=260)
    )
    settings = config(
        coded, tmp_path / "cut", policy="semantic-id", objectives=("drpo",), steps=260
    )

    class KilledError(Exception):
        pass

    def kill(name: str, step: int, steps: int) -> None:
        if step >= 220:
            raise KilledError

    with pytest.raises(KilledError):
        run_train(settings, kill)
    again = run_train(replace(settings))
    assert again.runs["drpo"][0] == whole.runs["drpo"][0]
