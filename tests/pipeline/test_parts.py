"""Foreign logs from the file to a table: what is held out, what is cold, what cannot be learned."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from torchrl_drpo.data import LogSchema
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.evaluate import run_evaluate
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.train import command, run_train

pytestmark = pytest.mark.usefixtures("one_thread")
SCHEMA = LogSchema(user="u", item="i", time="t", quality="r", duplicates="keep")
DAY = 86_400


@pytest.fixture
def log() -> pd.DataFrame:
    """Twenty days of 60 users; items 40 to 49 appear on the last two days only."""
    draw = np.random.default_rng(0)
    n = 1_500
    day = np.sort(draw.integers(0, 20, n))
    frame = pd.DataFrame({"u": draw.integers(0, 60, n), "day": day, "i": draw.integers(0, 40, n)})
    frame["t"] = 1_600_041_600 + day * DAY + draw.integers(0, DAY, n)
    late = (day >= 18) & (draw.random(n) < 0.5)
    frame.loc[late, "i"] = draw.integers(40, 50, int(late.sum()))
    return frame.assign(r=draw.integers(1, 6, n))


@pytest.fixture
def settings(tmp_path):
    """``settings(frame, schema, **options)``: of a short training on a log written for it."""

    def make(frame: pd.DataFrame, schema: LogSchema = SCHEMA, **options) -> TrainConfig:
        (tmp_path / "schema.json").write_text(schema.to_json())
        frame.to_parquet(tmp_path / "log.parquet")
        options = {"objectives": ("bc",), "steps": 5, "batch_size": 64, "ks": (5,), **options}
        return TrainConfig(
            logs=str(tmp_path / "log.parquet"),
            schema=tmp_path / "schema.json",
            output=tmp_path / "out",
            **options,
        )

    return make


def test_both_parts_and_what_is_cold_are_counted(log, settings):
    data = SplitLog.open(config := settings(log, test_days=2), config.output / "log")
    train, test = log[log.day < 18], log[log.day >= 18]
    cold = ~test.i.isin(train.i)
    facts = data.parts
    assert (facts.train.rows, facts.train.users) == (len(train), train.u.nunique())
    assert (facts.test.rows, facts.test.users) == (len(test), test.u.nunique())
    assert facts.test.good == (test.r >= data.bounds.best).sum()
    assert facts.test.poor == (test.r <= data.bounds.worst).sum()
    assert (facts.cold_rows, facts.cold_items) == (cold.sum(), test.i[cold].nunique())
    assert facts.cold_users == (~test.u.drop_duplicates().isin(train.u)).sum()
    assert any("warm rows" in line for line in facts.warnings)
    assert any("too few for numbers to mean much" in line for line in facts.warnings)


def test_what_to_do_about_few_rows_fits_how_they_are_held_out(log, settings):
    """More by a share where a share is asked for, and only where that would be more."""

    def advice(frame, schema=SCHEMA, **split):
        config = settings(frame, schema, **split)
        (said,) = [line for line in SplitLog.open(config, config.output / "log").parts.warnings
                   if "too few" in line]  # fmt: skip
        return said

    assert "Hold out more, by --test-share 0.2" in advice(log, test_days=1)
    assert "log more" in advice(log, test_share=0.3)
    named = log.assign(part=np.where(log.day < 19, "train", "test"))
    assert "the column 'part'" in advice(named, SCHEMA.replace(split="part"))


def test_the_table_has_all_rows_and_warm_ones(log, settings):
    config = settings(log, test_days=2)
    results = run_train(config)
    train, test = log[log.day < 18], log[log.day >= 18]
    warm = test[test.i.isin(train.i)]
    random = results.runs["random"][0]
    assert random["hr@5"] == pytest.approx(5 / log.i.nunique())
    # Popularity by hand, ties and all: the expected hit of each row.
    count = train.i.value_counts().reindex(sorted(log.i.unique()), fill_value=0)
    above = {i: (count > count[i]).sum() for i in count.index}
    tied = {i: (count == count[i]).sum() for i in count.index}
    hits = {i: min(max((5 - above[i]) / tied[i], 0), 1) for i in count.index}
    found = results.runs["popularity"][0]
    assert found["hr@5"] == pytest.approx(test.i.map(hits).mean())
    assert found["hr@5_warm"] == pytest.approx(warm.i.map(hits).mean())
    text = (config.output / "table.md").read_text()
    for heading in ("HR@5 (recall) ↑", "NDCG@5 ↑", "MRR ↑", "lift, warm rows ↑"):
        assert heading in text
    assert results.parts.sentences[1] in text


def test_ranks_are_counted_by_mrr(log, settings):
    """A ranking by popularity whose reciprocal ranks are averaged over ties by hand."""
    data = SplitLog.open(config := settings(log, test_days=2), config.output / "log")
    results = run_train(config)
    count = torch.bincount(data.train_items(), minlength=data.num_items)
    wanted = []
    for item in data.held_out.action:
        better, tied = int((count > count[item]).sum()), int((count == count[item]).sum())
        wanted.append(np.mean([1 / (better + k) for k in range(1, tied + 1)]))
    assert results.runs["popularity"][0]["mrr"] == pytest.approx(np.mean(wanted))


@pytest.mark.parametrize("by", ["time", "user", "random"])
def test_a_share_is_held_out_and_evaluated_as_it_was_trained(log, settings, by):
    config = settings(log, test_share=0.25, test_by=by)
    results = run_train(config)
    assert results.parts.test.rows == pytest.approx(0.25 * len(log), rel=0.1)
    again = run_evaluate(EvaluateConfig(config.output / "bc", config.logs, ks=(5,)))
    assert again.rows == results.parts.test.rows
    assert again.intervals["bc"]["hr@5"].mean == pytest.approx(results.runs["bc"][0]["hr@5"])
    assert not any("learned" in line for line in again.warnings)
    other = EvaluateConfig(config.output / "bc", config.logs, ks=(5,), test_share=0.6, test_by=by)
    assert any("learned" in line for line in run_evaluate(other).warnings)


def test_times_of_a_wrong_unit_are_said(log, settings):
    config = settings(log.assign(t=log.t * 1_000), test_share=0.2)
    said = " ".join(SplitLog.open(config, config.output / "log").parts.warnings)
    assert "time_unit='s' is probably wrong: counted in 'ms' they would lie between 2020" in said
    config = settings(log.assign(t=np.arange(len(log))), test_share=0.2)  # steps of a simulator
    said = " ".join(SplitLog.open(config, config.output / "log").parts.warnings)
    assert "time_unit" not in said


def test_a_split_column_says_what_is_held_out(log, settings):
    log["part"] = np.where(np.arange(len(log)) % 4 == 0, "test", "train")
    results = run_train(settings(log, SCHEMA.replace(split="part")))
    assert results.parts.test.rows == (log.part == "test").sum()
    assert results.parts.held_out == "as the column 'part' says"
    with pytest.raises(ValueError, match="leave one of the two out"):
        run_train(settings(log, SCHEMA.replace(split="part"), test_days=2))
    with pytest.raises(ValueError, match=r"no rows in the part 'test' .*its split column 'part'"):
        run_train(settings(log.assign(part="train"), SCHEMA.replace(split="part")))


def test_a_part_without_rows_is_told_with_the_mend(log, settings):
    with pytest.raises(
        ValueError, match=r"'train' \(train: 0, test: 1500\); hold out fewer or more"
    ):
        run_train(settings(log, test_days=400))


def test_a_log_without_times_is_trained(log, settings, capsys):
    schema = LogSchema(user="u", item="i", quality="r", duplicates="keep")
    command(settings(log.drop(columns=["t", "day"]), schema))
    said = capsys.readouterr().out
    assert "20% of the rows, drawn with seed 0" in " ".join(said.split())


def test_a_log_of_positives_trains_what_imitates(log, settings):
    purchases = log.assign(r=1)
    config = settings(purchases, test_days=2)
    results = run_train(config)
    found = results.runs["bc"][0]
    assert 0 < found["hr@5"] < 1
    assert found["hr@5"] == found["hr@5_best"]
    assert math.isnan(found["lift@5"])
    text = (config.output / "table.md").read_text()
    assert "HR@5 (recall) ↑" in text
    assert "lift ↑" not in text
    for name in ("drpo", "positive-only", "tapered"):
        with pytest.raises(ValueError, match=f"'{name}' learns from the differences between rows"):
            run_train(settings(purchases, test_days=2, objectives=("bc", name)))


@pytest.mark.parametrize("one_date", [True, False])
def test_random_choices_are_hit_by_chance_alone(settings, one_date):
    """A file sorted by item, times of whole days: its rows used to give their next one away."""
    draw = np.random.default_rng(7)
    n, items = 3_000, 30
    frame = pd.DataFrame({"u": draw.integers(0, 40, n), "i": draw.integers(0, items, n)})
    frame["t"] = 1_600_041_600 + (0 if one_date else draw.integers(0, 6, n)) * DAY
    frame["r"] = draw.integers(0, 2, n)
    frame["part"] = np.where(draw.random(n) < 0.3, "test", "train")
    schema = SCHEMA.replace(split="part")
    for ordered in (frame.sort_values("i", kind="stable"), frame.sample(frac=1, random_state=1)):
        config = settings(ordered, schema, objectives=("bc", "drpo"), steps=150, batch_size=256)
        results = run_train(config)
        rows = results.parts.test.rows
        chance = 5 / items
        apart = 3.5 * math.sqrt(chance * (1 - chance) / rows)
        for name in ("bc", "drpo", "popularity"):
            assert abs(results.runs[name][0]["hr@5"] - chance) < apart, name


def test_the_order_of_a_file_of_one_date_says_nothing(log, settings):
    """Every row on one day: nobody has a history, and what needs no batches stays the same."""
    dated = log.assign(t=1_600_041_600, part=np.where(np.arange(len(log)) % 3, "train", "test"))
    found = []
    for frame in (dated.sort_values("i", kind="stable"), dated.sample(frac=1, random_state=3)):
        config = settings(frame, SCHEMA.replace(split="part"))
        data = SplitLog.open(config, config.output / "log")
        assert (data.log[:]["observation", "history"] == -1).all()
        assert data.facts["tied_rows"] == len(log) - (log.u.value_counts() == 1).sum()
        results = run_train(config)
        found.append([results.parts, results.runs["random"], results.runs["popularity"]])
    parts, *runs = zip(*found, strict=True)
    assert parts[0] == parts[1]
    for first, second in runs:
        assert first[0] == pytest.approx(second[0], nan_ok=True)


def test_counting_stands_in_the_table_and_beats_chance_where_choices_follow(settings):
    """Everybody walks round a ring of items: what followed last follows again."""
    draw = np.random.default_rng(2)
    users, steps, items = 40, 60, 30
    start = draw.integers(0, items, users)
    frame = pd.DataFrame(
        [
            {"u": u, "i": (start[u] + s) % items, "t": 1_600_041_600 + s * 7_200, "r": s % 2}
            for u in range(users)
            for s in range(steps)
        ]
    )
    frame["i"] = frame.i.where(draw.random(len(frame)) > 0.1, draw.integers(0, items, len(frame)))
    results = run_train(config := settings(frame, test_days=1, history=1))
    names = ["random", "popularity", "recent-popularity", "co-occurrence", "item-knn", "bc"]
    assert list(results.runs) == names
    assert results.runs["random"][0]["hr@5"] == pytest.approx(5 / items)
    assert results.runs["co-occurrence"][0]["hr@5"] > 0.7
    again = run_evaluate(EvaluateConfig(config.output / "bc", config.logs, ks=(5,)))
    for name in names[:5]:
        for metric in ("hr@5", "mrr", "gauc_quality"):
            expected = results.runs[name][0][metric]
            assert again.intervals[name][metric].mean == pytest.approx(expected, nan_ok=True)
