"""The whole way from a log to a recommendation, on a small log whose truth is known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.topic_log import BAIT, ITEMS, TOPICS, USERS, config, make_log, topic
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.kinds.catalogue import CatalogueTraining
from torchrl_drpo.pipeline.recommend import recommend
from torchrl_drpo.pipeline.train import run_train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(log: Path, tmp_path_factory: pytest.TempPathFactory):
    settings = config(log, tmp_path_factory.mktemp("run"), seeds=2)
    return settings, run_train(settings)


def test_keeping_the_best_rows_repairs_what_imitation_gets_wrong(trained) -> None:
    _, results = trained
    metric = {name: {k: v.mean for k, v in m.items()} for name, m in results.summary.items()}
    assert metric["random"]["hr@5"] == pytest.approx(5 / ITEMS)
    assert metric["random"]["lift@5"] == pytest.approx(1.0)
    # The log shows bait most of the time: imitation and popularity rank it first.
    assert metric["popularity"]["lift@5"] < 0.05
    assert metric["bc"]["lift@5"] < 0.5
    for objective in ("drpo", "positive-only"):
        assert metric[objective]["lift@5"] > 4
        assert metric[objective]["hr@5_best"] > metric["bc"]["hr@5_best"] + 0.1
        assert metric[objective]["gauc_quality"] > 0.7 > 0.3 > metric["bc"]["gauc_quality"]
        assert metric[objective]["top100_quality"] == pytest.approx(  # all 44 items are in it
            metric["random"]["top100_quality"]
        )


def test_everything_is_written_for_people_and_machines(trained) -> None:
    settings, results = trained

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = (settings.output / "results.json").read_text()
    data = json.loads(text, parse_constant=no_constant)
    assert data["data"]["parts"] == {"train": USERS * 11 * 3, "test": USERS * 3 * 3}
    assert data["summary"]["drpo"]["lift@5"]["runs"] == 2
    lift = [seed["lift@5"] for seed in results.runs["drpo"]]
    base = [seed["lift@5"] for seed in results.runs["bc"]]
    paired = data["differences_from_bc"]["drpo"]["lift@5"]["mean"]
    assert paired == pytest.approx((lift[0] - base[0] + lift[1] - base[1]) / 2)
    assert str(settings.output) not in text
    table = (settings.output / "table.md").read_text().splitlines()
    assert table[0] == "1,080 held-out rows, 2 seeds, 95% t intervals."
    assert table[2].startswith("| policy | HR@5 best ↑ | HR@5 worst ↓ | lift ↑ |")
    assert [line.split("|")[1].strip() for line in table[4:-4]] == list(results.runs)
    assert "GAUC liked" in table[2]
    assert "GAUC play" not in table[2]  # a label, but not 0/1
    names = {path.name for path in settings.output.iterdir()}
    assert names >= {"bc", "drpo", "positive-only", "runs", "log"}
    assert not list(settings.output.rglob("*.state"))


def test_a_finished_command_given_again_trains_nothing(trained, monkeypatch) -> None:
    settings, results = trained

    def never(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(CatalogueTraining, "train", never)
    assert run_train(settings).runs == results.runs
    more = replace(settings, learning_rate=1e-3)
    with pytest.raises(AssertionError, match="trained again"):
        run_train(more)


def test_the_checkpoint_evaluates_as_the_run_did(trained, log: Path) -> None:
    settings, results = trained
    found = run_evaluate(
        EvaluateConfig(settings.output / "drpo", str(log / "log.parquet"), ks=(5,))
    )
    assert (found.rows, found.unknown_rows) == (USERS * 9, 0)
    for method in ("random", "popularity", "drpo"):
        assert found.metrics[method] == pytest.approx(results.runs[method][0], nan_ok=True)


def test_one_seed_has_intervals_over_users(log: Path, trained, tmp_path: Path) -> None:
    """Those of `drpo evaluate`; more seeds have theirs, and what was said of one is not kept."""
    settings = config(log, tmp_path, seeds=1, objectives=("bc",), steps=20)
    results = run_train(settings)
    found = run_evaluate(EvaluateConfig(tmp_path / "bc", str(log), ks=settings.ks)).intervals
    half = {name: each.half_width for name, each in found["bc"].items()}
    assert half["hr@5"] > 0
    for method in ("bc", "popularity"):
        told = {name: each.half_width for name, each in results.summary[method].items()}
        assert told == pytest.approx(
            {name: each.half_width for name, each in found[method].items()}, nan_ok=True
        )
    table = (tmp_path / "table.md").read_text()
    assert "1 seed, intervals over users" in table
    assert "delete-a-group jackknife" in table
    again = run_train(settings)  # read, not trained
    assert again.summary["bc"]["hr@5"] == results.summary["bc"]["hr@5"]
    both = run_train(replace(settings, seeds=2))
    assert both.runs["bc"][0] == results.runs["bc"][0]
    assert both.summary["bc"]["hr@5"].half_width != half["hr@5"]
    assert math.isnan(both.summary["popularity"]["hr@5"].half_width)
    assert "jackknife" not in (tmp_path / "table.md").read_text()


def test_a_log_that_numbers_its_items_otherwise_is_matched_by_raw_ids(
    trained, log: Path, tmp_path: Path
) -> None:
    settings, results = trained
    frame = make_log()
    newcomer = frame["video"] == "v9"
    frame.loc[newcomer, "video"] = "a-new-video"  # sorts first: every number moves
    frame.to_parquet(tmp_path / "later.parquet")
    found = run_evaluate(
        EvaluateConfig(settings.output / "drpo", str(tmp_path / "later.parquet"), ks=(5,))
    )
    last_days = frame["time"] >= 11 * 86_400
    assert found.unknown_rows == int((newcomer & last_days).sum())
    assert found.rows == USERS * 9 - found.unknown_rows
    # Histories lose one item in forty-four, which changes little.
    assert found.metrics["drpo"]["lift@5"] == pytest.approx(
        results.runs["drpo"][0]["lift@5"], rel=0.3
    )


def test_a_foreign_catalogue_is_an_error(trained, tmp_path: Path) -> None:
    settings, _ = trained
    frame = make_log()
    frame["video"] = "other-" + frame["video"]
    frame.to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(ValueError, match="none of the 1080 held-out rows shows an item"):
        run_evaluate(EvaluateConfig(settings.output / "bc", str(tmp_path / "foreign.parquet")))
    frame["video"] = frame["video"].str.slice(7).astype(int)
    frame.to_parquet(tmp_path / "numbers.parquet")
    with pytest.raises(ValueError, match="ids are integers, the policy's are strings"):
        run_evaluate(EvaluateConfig(settings.output / "bc", str(tmp_path / "numbers.parquet")))


def test_users_are_recommended_their_topic(trained) -> None:
    settings, _ = trained
    checkpoint = PolicyCheckpoint.load(settings.output / "drpo")
    right = 0
    for user in range(40):
        places = recommend(checkpoint, 1000 + user, k=5, exclude_seen=False)
        right += sum(topic(int(p.item[1:])) == user % TOPICS for p in places)
    assert right / 200 > 0.8
    imitation = PolicyCheckpoint.load(settings.output / "bc")
    bait = recommend(imitation, 1000, k=5, exclude_seen=False)
    assert all(int(place.item[1:]) < BAIT for place in bait)


def test_a_checkpoint_knows_what_every_user_saw_and_where(trained, log: Path) -> None:
    settings, _ = trained
    checkpoint = PolicyCheckpoint.load(settings.output / "drpo")
    frame = make_log().sort_values(["user", "time"], kind="stable")
    for user in (1000, 1050, 1119):
        rows = frame[frame["user"] == user]
        number = int(checkpoint.users.ids.encode([user])[0])
        seen = checkpoint.items.decode(checkpoint.users.sequence(number))
        assert seen == rows["video"].tolist()
        context = checkpoint.contexts[0].decode(checkpoint.users.context[number])
        assert context == [rows["tab"].iloc[-1]]
        unseen = {place.item for place in recommend(checkpoint, user, k=ITEMS)}
        assert unseen == {f"v{i}" for i in range(ITEMS)} - set(seen)
