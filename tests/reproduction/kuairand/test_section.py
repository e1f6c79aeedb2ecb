from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo import CatalogueCategorical, CRRLoss, DRPOLoss, RepulsiveLoss
from torchrl_drpo.reproduction.kuairand.frontier import (
    best_within,
    contribution,
    dominated_area,
    holm,
    paired_p_value,
)
from torchrl_drpo.reproduction.kuairand.methods import METHODS, method
from torchrl_drpo.reproduction.kuairand.policy import (
    HalfCatalogueCategorical,
    make_actor,
)
from torchrl_drpo.reproduction.kuairand.runs import ends, open_split, train
from torchrl_drpo.reproduction.kuairand.tables import choices, frontiers, recommended
from torchrl_drpo.reproduction.kuairand.target import RUN, TARGET, cell_name
from torchrl_drpo.reproduction.target import Options

# -- frontiers --------------------------------------------------------------------------------


def test_dominated_area_equals_counting_cells() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.integers(-2, 12, (5, 2))
        grid = [
            any(x > i and y > j for x, y in points)  # unit cell [i, i+1] x [j, j+1] is dominated
            for i in range(1, 12)
            for j in range(2, 12)
        ]
        found = dominated_area([(float(x), float(y)) for x, y in points], (1.0, 2.0))
        assert found == pytest.approx(sum(grid))


def test_a_lost_goal_and_a_missing_number_add_no_area() -> None:
    assert dominated_area([(3.0, 0.06), (math.nan, 0.3), (0.9, 0.25)], (1.0, 0.15)) == 0


def test_what_another_method_also_reaches_is_no_contribution() -> None:
    points = {"a": [(2.0, 2.0)], "b": [(1.0, 1.0)], "c": [(3.0, 1.0)]}
    assert contribution(points, "b", (0.0, 0.0)) == 0
    assert contribution(points, "c", (0.0, 0.0)) == pytest.approx(1.0)  # [2, 3] x [0, 1]


def test_paired_p_value_equals_scipy() -> None:
    a, b = np.random.default_rng(1).normal(0.3, 1, (2, 5))
    assert paired_p_value(list(a - b)) == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=1e-9)
    assert paired_p_value([0.0, 0.0]) == 1
    assert paired_p_value([0.5, 0.5]) == 0
    assert math.isnan(paired_p_value([1.0]))


def test_holm_is_closed_testing_with_bonferroni() -> None:
    p = dict(zip("abcde", np.random.default_rng(2).uniform(0, 0.2, 5), strict=True))
    subsets = [set(s) for n in range(1, 6) for s in itertools.combinations(p, n)]
    expected = {
        name: max(min(1.0, len(s) * min(p[i] for i in s)) for s in subsets if name in s)
        for name in p
    }
    assert holm(p) == pytest.approx(expected)
    assert math.isnan(holm({"a": 0.1, "b": math.nan})["b"])
    assert holm({"a": 0.1, "b": math.nan})["a"] == pytest.approx(0.1)  # one test only


def test_best_within_finds_nothing_where_nothing_keeps_the_share() -> None:
    assert best_within({1.0: (2.0, 0.1)}, least=0.2) is None


# -- the policy in bfloat16 -------------------------------------------------------------------


def _log_prob_and_gradients(kind: type, temperature: float, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    values = [draw(32, 16), draw(500, 16) * 0.5, draw(500)]
    inputs = [value.to(dtype).requires_grad_() for value in values]
    action = torch.randint(500, (32,), generator=generator)
    weight = draw(32).to(dtype)
    log_prob = kind(*inputs, temperature).log_prob(action)
    (weight * log_prob).sum().backward()
    return [log_prob.detach(), *(value.grad for value in inputs)]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_half_precision_is_the_softmax_to_half_precision(temperature: float) -> None:
    exact = _log_prob_and_gradients(CatalogueCategorical, temperature, torch.float64)
    half = _log_prob_and_gradients(HalfCatalogueCategorical, temperature, torch.float32)
    for one, other in zip(exact, half, strict=True):
        assert other.dtype == torch.float32
        assert (one - other).norm() < 0.01 * one.norm()


def test_half_precision_is_of_training_only() -> None:
    actor = make_actor("bfloat16", "cpu", num_items=9, history=2, context_sizes=(3,))
    assert {p.dtype for p in actor.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="precision must be"):
        make_actor("float16", "cpu", num_items=9)


# -- methods ----------------------------------------------------------------------------------


def _batch(rows: int = 40) -> TensorDict:
    generator = torch.Generator().manual_seed(3)
    quality = torch.randperm(rows, generator=generator) / rows
    return TensorDict(
        {
            "observation": {
                "history": torch.randint(9, (rows, 2), generator=generator),
                "context": torch.randint(3, (rows, 1), generator=generator),
            },
            "action": torch.randint(9, (rows,), generator=generator),
            "is_hate": (torch.arange(rows) == 5).to(torch.int8),
            "next": {"reward": quality.unsqueeze(-1)},
        },
        batch_size=[rows],
    )


def _gradient(make: Any, batch: TensorDict) -> Tensor:
    torch.manual_seed(0)
    actor = make_actor("float32", "cpu", num_items=9, history=2, context_sizes=(3,))
    loss = make(actor)
    loss(batch)["loss_actor"].backward()
    return torch.cat([p.grad.flatten() for p in loss.parameters() if p.grad is not None])


def _cosine(a: Any, b: Any, batch: TensorDict) -> float:
    return torch.cosine_similarity(_gradient(a, batch), _gradient(b, batch), dim=0).item()


def test_rules_that_are_trained_once_coincide() -> None:
    batch = _batch()
    half = lambda actor: DRPOLoss(actor, kappa=0.5, weighting="uniform")  # noqa: E731
    assert _cosine(CRRLoss, half, batch) == pytest.approx(1, abs=1e-5)
    linear = lambda actor: DRPOLoss(actor, kappa=0.25)  # noqa: E731
    floor = batch["next", "reward"].sort(dim=0, descending=True).values[9].item()  # of ten kept
    positive = lambda actor: RepulsiveLoss(actor, negative_scale=0.0, baseline=floor)  # noqa: E731
    assert _cosine(linear, positive, batch) == pytest.approx(1, abs=1e-5)


def test_marks_say_who_attracts_and_who_repels() -> None:
    batch = _batch()
    quality = batch["next", "reward"].squeeze(-1)
    hated = method("top quarter + hated").mark(batch.clone(), 1.0)["dislike"]
    assert hated.nonzero().flatten().tolist() == [5]
    assert (method("top quarter + worst, taper").mark(batch.clone(), 1.0)["dislike"]).sum() == 11
    signs = method("top quarter + worst, GBPO").mark(batch.clone(), 7.0)["advantage"]
    expected = [1.0 if q >= 0.75 else -7.0 if q <= 0.25 else 0.0 for q in quality.tolist()]
    assert signs.tolist() == expected
    scaled = method("GBPO").mark(batch.clone(), 3.0)["advantage"]
    plain = quality - quality.mean()
    torch.testing.assert_close(scaled, torch.where(plain < 0, 3 * plain, plain))


@pytest.mark.parametrize("name", [m.name for m in METHODS])
def test_every_method_trains_at_every_strength(name: str) -> None:
    chosen = method(name)
    for value in chosen.values:
        batch = _batch() if chosen.mark is None else chosen.mark(_batch(), value)
        gradient = _gradient(lambda actor, v=value: chosen.loss(actor, v), batch)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


# -- the log ----------------------------------------------------------------------------------

TEST_DAYS = {20220507, 20220508, 20220509}


def _write_log(path: Path, shift: int = 0) -> Path:
    """Ten days of a small log; ``shift`` changes what happens on the last three."""
    rng = np.random.default_rng(4)
    rows = 900
    day = rng.integers(0, 10, rows)
    start = pd.Timestamp("2022-04-30", tz="Asia/Shanghai")
    time = start + pd.to_timedelta(day, "D") + pd.to_timedelta(rng.integers(0, 86_400, rows), "s")
    late = day >= 7
    frame = pd.DataFrame(
        {
            "user_id": rng.integers(0, 40, rows),
            "video_id": (rng.integers(0, 60, rows) + shift * late) % 60,
            "date": [int(t.strftime("%Y%m%d")) for t in time],
            "time_ms": [t.value // 10**6 for t in time],
            "play_time_ms": rng.integers(0, 60_000, rows) + 1_000 * shift * late,
            "duration_ms": rng.integers(5_000, 60_000, rows),
            "tab": rng.integers(0, 3, rows),
            **{name: rng.integers(0, 2, rows) for name in ("is_click", "long_view", "is_like")},
            "is_hate": (rng.random(rows) < 0.05).astype(int),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path)
    pd.DataFrame({"video_id": range(60)}).to_parquet(path.with_name("video_features.parquet"))
    return path


def _train(log: Path, part: str, **over: Any) -> dict[str, Any]:
    run = {"steps": 5, "batch_size": 64, "learning_rate": 5e-3}
    given = {"name": "taper", "strength": 1.0, "seeds": [0, 1], "run": run}
    return train(str(log), part, **given | {"precision": "bfloat16", "device": "cpu"} | over)


def test_tuning_never_sees_the_test_days(tmp_path: Path) -> None:
    one, other = _write_log(tmp_path / "a" / "log.parquet"), tmp_path / "b" / "log.parquet"
    _write_log(other, shift=7)
    assert _train(one, "tuning") == _train(other, "tuning")
    assert _train(one, "test")["metrics"] != _train(other, "test")["metrics"]


def test_the_parts_are_the_days_that_they_say(tmp_path: Path) -> None:
    log = _write_log(tmp_path / "log.parquet")
    date = pd.read_parquet(log).drop_duplicates()["date"]
    test = open_split(str(log), "test")
    tuning = open_split(str(log), "tuning")
    assert len(test.rows) == date.isin(TEST_DAYS).sum()
    assert len(tuning.rows) == date.isin({20220504, 20220505, 20220506}).sum()
    assert len(tuning.data.train_items()) == (date < 20220504).sum()
    assert test.data.num_items == tuning.data.num_items == 60  # by the item table
    with pytest.raises(ValueError, match="'test' or 'tuning'"):
        open_split(str(log), "train")


def test_runs_are_reproducible_and_seeds_differ(tmp_path: Path) -> None:
    log = _write_log(tmp_path / "log.parquet")
    torch.manual_seed(99)
    first = _train(log, "test")
    torch.manual_seed(1)
    assert _train(log, "test") == first
    assert first["metrics"][0] != first["metrics"][1]
    assert json.loads(json.dumps(first)) == first


def test_ends_are_chance_and_counts(tmp_path: Path) -> None:
    log = _write_log(tmp_path / "log.parquet")
    found = ends(str(log))
    assert found["random"]["hr@10_best"] == pytest.approx(10 / 60)
    frame = pd.read_parquet(log).drop_duplicates()
    assert found["train_rows"] + found["test_rows"] == len(frame)
    assert found["hated_rows"] == frame["is_hate"][~frame["date"].isin(TEST_DAYS)].sum()


# -- the section ------------------------------------------------------------------------------

#: Lift and hit rate of every method at every strength, unless a test says otherwise.
USUAL = (1.2, 0.2)
FIRST_LOOK = {
    ("BC", 0.0): (0.9, 0.25),
    ("top kappa, uniform", 0.25): (1.3, 0.23),
    ("taper", 1.0): (2.1, 0.235),
    ("global scale", 1.0): (3.1, 0.06),
    ("top quarter + hated", 1.0): (1.3, 0.23),
    ("top quarter + worst, GBPO", 1.0): (1.3, 0.23),
}
NOISE = (-0.01, 0.0, 0.01)


def _metrics(lift: float, hits: float, noise: float) -> dict[str, float]:
    row = dict.fromkeys(TARGET_METRICS, 0.5)
    lift, hits = lift * (1 + noise), hits * (1 + 0.1 * noise)
    return row | {"lift@50": lift, "hr@50_best": hits, "gauc_quality": 0.5 + (lift - 1) / 20}


TARGET_METRICS = (
    "hr@50", "hr@50_best", "hr@50_worst", "lift@50", "ndcg@50_best", "top100_quality",
    "gauc_quality", "gauc_long_view", "gauc_is_click",
)  # fmt: skip


def _results(options: Options, **by_part: dict[tuple[str, float], tuple[float, float]]) -> Any:
    out = {}
    for cell in TARGET.cells(options):
        settings = dict(cell.settings)
        if cell.name == "ends":
            end = _metrics(1.5, 0.15, 0)
            counts = {"train_rows": 9, "test_rows": 9, "items": 9, "hated_rows": 1}
            result: Any = {"random": end, "popularity": end, **counts}
        else:
            known = by_part.get(settings["part"], FIRST_LOOK)
            lift, hits = known.get((settings["name"], settings["strength"]), USUAL)
            noise = NOISE if settings["part"] == "test" else (0.0,)
            result = {"metrics": [_metrics(lift, hits, n) for n in noise], "report": {}}
        out[cell.name] = {"settings": settings, "result": result, "seconds": 1.0}
    return out


@pytest.fixture
def options() -> Options:
    return Options(seeds=3, logs=Path("log.parquet"))


def _verdicts(options: Options, results: Any) -> dict[str, str]:
    return {c.statement[:24]: c.verdict for c in TARGET.section(options, results).claims}


def test_claims_of_a_log_like_the_first_look_hold(options: Options) -> None:
    verdicts = _verdicts(options, _results(options))
    outside = verdicts.pop("no taper beats positive-")
    assert set(verdicts.values()) == {"held"}
    assert outside == "not held"  # the taper's frontier does lie outside here


def test_claims_fail_where_the_numbers_do(options: Options) -> None:
    flat = dict.fromkeys(FIRST_LOOK, (1.7, 0.17)) | {("global scale", 1.0): (3.1, 0.17)}
    flat[("top quarter + hated", 1.0)] = (1.9, 0.19)
    verdicts = _verdicts(options, _results(options, test=flat))
    assert verdicts["BC: lift 0.9 at a hit ra"] == "not held"
    assert verdicts["imitation ranks what use"] == "not held"
    assert verdicts["the signed loss without "] == "held in part"  # highest lift, hits kept
    assert verdicts["explicit dislikes, repel"] == "not held"


def test_settings_are_chosen_on_the_tuning_days(options: Options) -> None:
    good = {("BC", 0.0): (0.9, 0.2), ("taper", 4.0): (1.5, 0.2), ("AWR", 0.3): (1.3, 0.2)}
    lured = good | {("taper", 0.5): (9.0, 0.2), ("AWR", 0.1): (9.0, 0.2)}  # on the test days
    section = TARGET.section(options, _results(options, tuning=good, test=lured))
    assert "To keep 95% of BC's hits: taper, strength 4 (lift 1.5" in section.text
    table = {row[0]: row[1] for row in section.tables[2].rows}
    assert table["taper"] == "4"
    assert table["AWR"] == "0.3"


def test_what_loses_the_hits_is_not_chosen() -> None:
    runs = {
        ("BC", 0.0): [_metrics(0.9, 0.25, 0)],
        ("taper", 4.0): [_metrics(1.5, 0.24, 0)],
        ("taper", 1.0): [_metrics(2.0, 0.23, 0)],
        ("global scale", 1.0): [_metrics(3.1, 0.06, 0)],
    }
    strict, loose = (choices(runs, runs, share) for share in (0.95, 0.9))
    assert strict["taper"].strength == 4.0
    assert loose["taper"].strength == 1.0
    assert strict["global scale"] is None
    assert recommended(loose) == "taper"


def test_areas_are_paired_by_seed_and_corrected() -> None:
    runs = {
        ("positive-only", 0.5): [_metrics(1.2, 0.2, n) for n in NOISE],
        ("taper", 1.0): [_metrics(2.0, 0.2, n) for n in NOISE],
        ("AWR", 0.3): [_metrics(1.2, 0.2, n) for n in NOISE],
    }
    found = frontiers(runs, "lift@50", (1.0, 0.15))
    area = [1e3 * (2.0 * (1 + n) - 1) * (0.2 * (1 + 0.1 * n) - 0.15) for n in NOISE]
    base = [1e3 * (1.2 * (1 + n) - 1) * (0.2 * (1 + 0.1 * n) - 0.15) for n in NOISE]
    assert found["taper"].area.mean == pytest.approx(np.mean(area))
    assert found["taper"].p == pytest.approx(2 * stats.ttest_rel(area, base).pvalue, rel=1e-6)
    assert found["AWR"].p == 1
    assert found["positive-only"].alone.mean == 0


def test_the_figure_draws_every_method(options: Options) -> None:
    from matplotlib.figure import Figure

    figure = TARGET.section(options, _results(options)).figures[0]
    canvas = Figure(figsize=figure.size)
    figure.draw(canvas)
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == [m.name for m in METHODS]


def test_without_a_log_nothing_is_claimed() -> None:
    options = Options()
    assert TARGET.cells(options) == []
    (claim,) = TARGET.section(options, {}).claims
    assert claim.verdict == "not tested"
    assert "--logs" in claim.evidence


def test_cells_are_distinct_json_and_small_when_quick(options: Options) -> None:
    cells = TARGET.cells(options)
    assert len({cell.name for cell in cells}) == len(cells)
    json.dumps([dict(cell.settings) for cell in cells])
    tested = [c for c in cells if c.name.startswith("test-")]
    assert {c.name for c in tested} == {
        cell_name("test", m.name, v) for m in METHODS for v in m.values
    }
    assert all(c.settings["run"] == RUN for c in tested)
    report, tune = (
        tested[0].settings["seeds"],
        {seed for c in cells if c.name.startswith("tuning-") for seed in c.settings["seeds"]},
    )
    assert tune.isdisjoint(report)
    quick = TARGET.cells(Options(quick=True, logs=Path("log.parquet")))
    assert sum(c.settings["run"]["steps"] for c in quick if "run" in c.settings) < 1_000
