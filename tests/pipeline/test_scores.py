from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo.evaluation.quality_bounds import QualityBounds
from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.objectives.make import make_objective
from torchrl_drpo.pipeline.objectives.named import OBJECTIVES
from torchrl_drpo.pipeline.rows import HeldOut
from torchrl_drpo.pipeline.scores import (
    held_out_intervals,
    held_out_metrics,
    policy_scores,
    popularity_scores,
    random_scores,
)
from torchrl_drpo.policies.catalogue import catalogue_policy, make_catalogue_actor


def rows(n: int = 23, items: int = 30) -> TensorDict:
    history = torch.randint(-1, items, (n, 4))
    action = torch.randint(items, (n,))
    reward = torch.rand(n, 1)
    td = {"observation": {"history": history}, "action": action, "next": {"reward": reward}}
    return TensorDict(td, [n])


@pytest.mark.parametrize("options", [{}, {"logits_at_a_time": 60}])  # two rows of 30 items
def test_blocks_of_rows_are_scored_as_one_and_the_mode_is_restored(options: dict) -> None:
    actor, td = make_catalogue_actor(30, dim=6, history=4, temperature=0.7), rows()
    torch.nn.init.normal_(catalogue_policy(actor).bias)
    actor.train()
    by_blocks = policy_scores(actor, td.split(5), **options)
    assert actor.training
    log_prob = actor.get_dist(td.clone()).logits[torch.arange(23), td["action"]]
    torch.testing.assert_close(by_blocks.log_prob, log_prob.detach())
    above = (actor.get_dist(td.clone()).logits > log_prob[:, None]).sum(-1)
    assert torch.equal(by_blocks.better, above)


def test_popularity_ranks_by_training_counts() -> None:
    logged = torch.tensor([4, 4, 4, 1, 1, 0])
    scores = popularity_scores(logged, 6, torch.tensor([4, 1, 0, 2]))
    assert scores.mean_rank().tolist() == [1, 2, 3, 5]  # 2, 3 and 5 share ranks 4 to 6


def test_held_out_metrics_take_bounds_and_labels() -> None:
    held = HeldOut(
        action=torch.tensor([0, 1, 2]),
        quality=torch.tensor([0.0, 0.0, 1.0]),
        user=torch.zeros(3, dtype=torch.long),
        labels={"liked": torch.tensor([1, 0, 0])},
    )
    scores = popularity_scores(torch.tensor([2, 2, 1]), 3, held.action)
    found = held_out_metrics(scores, held, QualityBounds(0, 1, 1), ks=(1,))
    assert found["hr@1_best"] == 1.0
    assert found["hr@1_worst"] == 0.0
    assert math.isinf(found["lift@1"])
    assert found["gauc_quality"] == 1.0
    assert found["gauc_liked"] == 0.0
    taken = held.take(torch.tensor([True, False, True]))
    assert taken.context is None
    assert taken.labels["liked"].tolist() == [1, 0]
    assert held_out_metrics(random_scores(3, taken.action), taken, ks=(2,))["hr@2"] == (
        pytest.approx(2 / 3)
    )


def test_held_out_rows_with_contexts_are_compared_within_them() -> None:
    # Item 0 ranks first and is logged in context (0, 1) only, where two rows in three are best.
    held = HeldOut(
        action=torch.tensor([0, 0, 0, 1, 1, 1]),
        quality=torch.tensor([1.0, 1, 0, 1, 0, 0]),
        user=torch.zeros(6, dtype=torch.long),
        labels={},
        context=torch.tensor([[0, 1]] * 3 + [[1, 0]] * 3),
    )
    scores = popularity_scores(torch.tensor([0]), 3, held.action)
    found = held_out_metrics(scores, held, ks=(1,))
    assert (found["lift@1"], found["lift@1_within"]) == (2.0, 1.0)
    some = torch.tensor([0, 2, 5])
    assert torch.equal(held.take(some).context, held.context[some])
    assert "lift@1_within" not in held_out_metrics(scores, replace(held, context=None), ks=(1,))


def test_metrics_within_contexts_have_intervals_over_users_and_counts_have_none() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, k = 1_200, 5
    quality = torch.rand(rows, generator=generator)
    user = torch.randint(40, (rows,), generator=generator)
    context = torch.randint(2, (rows, 1), generator=generator)
    target = torch.randint(20, (rows,), generator=generator)
    noise = 3 * torch.rand(rows, generator=generator)
    scores = random_scores(20, target)._replace(log_prob=quality + noise)
    found = held_out_intervals(scores, HeldOut(target, quality, user, {}, context), ks=(k,))
    for name in ("gauc_quality_within", "gauc_best_worst_within"):
        assert 0 < found[name].half_width < 0.1
    behind = found[f"hr@{k}_best_lowest_rows"]  # all ties, so of the larger one
    assert behind.mean == torch.bincount(context[quality >= 0.75, 0]).max()
    assert math.isnan(behind.half_width)


@pytest.mark.parametrize(
    "name", [name for name, found in OBJECTIVES.items() if not found.follows_model]
)
def test_every_objective_by_name_trains_a_catalogue_actor(name: str) -> None:
    actor, td = make_catalogue_actor(30, dim=6, history=4), rows()
    loss = make_objective(name, actor)
    before = catalogue_policy(actor).items.clone()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    loss(td)["loss_actor"].backward()
    optimizer.step()
    assert catalogue_policy(actor).items.isfinite().all()
    assert not torch.equal(catalogue_policy(actor).items, before)


def test_an_unknown_objective_is_named() -> None:
    with pytest.raises(ValueError, match="no objective 'ppo'; there are bc, drpo,"):
        make_objective("ppo", make_catalogue_actor(3))


def test_differences_are_paired_and_leave_out_what_has_no_seeds() -> None:
    runs = {
        "random": [{"m": 0.1}],
        "bc": [{"m": 1.0}, {"m": 3.0}],
        "drpo": [{"m": 1.5}, {"m": 3.7}],
    }
    found = report.differences(runs, "bc")
    assert set(found) == {"drpo"}
    assert found["drpo"]["m"].mean == pytest.approx(0.6)
    assert found["drpo"]["m"].half_width == pytest.approx(12.706 * 0.1, rel=1e-3)
    assert report.summarise(runs)["bc"]["m"].half_width == pytest.approx(12.706, rel=1e-3)


def test_json_has_null_for_what_is_not_a_number_and_words_for_infinities() -> None:
    summary = report.summarise({"a": [{"x": math.inf}, {"x": 1.0}], "b": [{"x": math.nan}]})
    written = json.loads(json.dumps(report.summary_json(summary), allow_nan=False))
    assert written["a"]["x"] == {"mean": "inf", "half_width": None, "runs": 2}
    assert written["b"]["x"]["mean"] is None
    metrics = {"x": math.nan, "y": 0.1, "up": math.inf, "down": -math.inf}
    written = json.loads(json.dumps(report.metrics_json(metrics), allow_nan=False))
    assert written == {"x": None, "y": 0.1, "up": "inf", "down": "-inf"}
    np.testing.assert_equal(report.metrics_from_json(written), metrics)


def test_the_table_stands_upright_for_narrow_terminals() -> None:
    runs = {"bc": [{"hr@5_best": 0.5, "lift@5": 1.0, "gauc_long_view": 0.4, "other": 1.0}]}
    wide = report.table(report.summarise(runs), "t", 5)
    upright = report.table(report.summarise(runs), "t", 5, upright=True)
    assert list(wide.header) == ["policy", "HR@5 best ↑", "lift ↑", "GAUC long view"]
    assert list(wide.rows[0]) == ["bc", "0.500", "1.000", "0.400"]
    assert [list(row) for row in upright.rows] == [
        [heading, cell] for heading, cell in zip(wide.header[1:], wide.rows[0][1:], strict=True)
    ]


def test_the_table_compares_within_contexts_where_a_log_has_them() -> None:
    plain = {"hr@5_best": 0.5, "lift@5": 2.0}
    without = report.table(report.summarise({"bc": [plain]}), "t", 5)
    assert without.note == report.NOTE
    lowest = {"hr@5_best_lowest": 0.25, "hr@5_best_lowest_rows": 1234.0}
    order = {"gauc_quality": 0.6, "gauc_quality_within": 0.5, "gauc_best_worst_within": 0.4}
    run = {**plain, "lift@5_within": 1.5, **lowest, **order}
    shown = report.table(report.summarise({"bc": [run]}), "t", 5)
    assert list(shown.header[-4:]) == [
        "lift within contexts ↑", "HR@5 best, lowest context ↑",
        "GAUC quality", "GAUC quality within contexts",
    ]  # fmt: skip
    assert list(shown.rows[0][-4:]) == ["1.500", "0.250 (1,234 rows)", "0.600", "0.500"]
    seeds = [run, {**run, "hr@5_best_lowest_rows": 1300.0}]  # another context is the lowest
    cell = report.table(report.summarise({"bc": seeds}), "t", 5).rows[0][-3]
    assert cell == "0.250 ± 0.000 (about 1,267 rows)"
    none = {**run, "hr@5_best_lowest": math.nan, "hr@5_best_lowest_rows": 0.0}
    both = report.summarise({"bc": [run], "few": [none]})
    assert report.table(both, "t", 5).rows[1][-3] == "nan"
    assert shown.note.startswith(report.NOTE)
    assert "at least 100 best rows" in shown.note
