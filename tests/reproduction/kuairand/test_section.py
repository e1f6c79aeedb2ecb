"""The section on numbers that bear the claims out and that do not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from torchrl_drpo.reproduction.kuairand.choices import choices, recommended
from torchrl_drpo.reproduction.kuairand.methods import AT_SERVING, METHODS, PATHS, method
from torchrl_drpo.reproduction.kuairand.results import (
    HITS,
    Policy,
    difference,
    frontiers,
    over_users,
    runs_of,
)
from torchrl_drpo.reproduction.kuairand.tables import all_runs
from torchrl_drpo.reproduction.kuairand.target import RUN, TARGET, cell_name
from torchrl_drpo.reproduction.target import Options

#: Lift (within tabs and over all) and hit rate of every policy, unless a test says otherwise.
USUAL = (1.2, 0.2)

FIRST_LOOK = {
    ("BC", 0.0): (0.9, 0.25),
    ("top kappa, uniform", 0.25): (1.3, 0.23),
    ("taper", 1.0): (2.1, 0.235),
    ("global scale", 1.0): (3.1, 0.06),
    ("top quarter + hated", 1.0): (1.3, 0.23),
    ("top quarter + worst, GBPO", 1.0): (1.3, 0.23),
}
TILTED = {("BC-tilt", tau): (1.3 + tau, 0.26) for tau in (0.2, 0.1, 0.06, 0.04)}

NOISE = (-0.01, 0.0, 0.01)
GROUPS = 30


def _metrics(lift: float, hits: float, noise: float) -> dict[str, float]:
    row = dict.fromkeys(TARGET_METRICS, 0.5)
    lift, hits = lift * (1 + noise), hits * (1 + 0.1 * noise)
    order = {"gauc_quality": 0.5 + (lift - 1) / 20, "gauc_quality_within": 0.4 + hits}
    lifts = {"lift@50": lift, "lift@50_within": lift}
    return row | lifts | order | {"hr@50_best": hits, "hr@50_best_lowest": hits - 0.1}


TARGET_METRICS = (
    "hr@50", "hr@50_best", "hr@50_worst", "lift@50", "lift@50_within", "hr@50_best_lowest",
    "hr@50_best_lowest_rows", "gauc_quality", "gauc_quality_within", "gauc_best_worst_within",
)  # fmt: skip


def _without(metrics: dict[str, float], spread: float = 0.001) -> dict[str, list[float]]:
    """Metrics without each group: what a group does, it does to all policies nearly alike."""
    own = 100 * metrics[HITS]
    wave = [spread * math.sin(group) + 1e-4 * math.sin(group * own) for group in range(GROUPS)]
    return {name: [value + w for w in wave] for name, value in metrics.items()}


def _results(options: Options, **by_part: dict[tuple[str, float], tuple[float, float]]) -> Any:
    out = {}
    for cell in TARGET.cells(options):
        settings = dict(cell.settings)
        if cell.name == "ends":
            end = _metrics(1.5, 0.15, 0)
            counts = {"train_rows": 9, "test_rows": 9, "items": 9, "hated_rows": 1}
            result: Any = {"random": end, "popularity": end, **counts}
        elif cell.name.startswith("reward-"):
            result = {"explained_variance": 0.3, "explained_variance_of_state": 0.28}
        else:
            known = by_part.get(settings["part"], FIRST_LOOK)
            test = settings["part"] == "test"
            result = {"paths": {}, "report": {}, "precision": "bfloat16"}
            for name, value in _served(settings["name"], settings["strength"]):
                lift, hits = known.get((name, value), USUAL)
                seeds = [_metrics(lift, hits, n) for n in (NOISE if test else (0.0,))]
                without = _without(_metrics(lift, hits, 0.0)) if test else {}
                found = {"metrics": seeds, "without": without}
                result["paths"].setdefault(name, {})[f"{value:g}"] = found
        out[cell.name] = {"settings": settings, "result": result, "seconds": 1.0}
    return out


def _served(name: str, strength: float) -> list[tuple[str, float]]:
    """The policies of one training."""
    chosen = method(name)
    knobs = chosen.served if strength == chosen.values[0] else ()
    plain = [(name, strength)] if chosen.plain else []
    return plain + [(path.name, value) for path in knobs for value in path.values]


@pytest.fixture
def options() -> Options:
    return Options(seeds=3, logs=Path("log.parquet"))


def _verdicts(options: Options, results: Any) -> dict[str, str]:
    return {c.statement[:24]: c.verdict for c in TARGET.section(options, results).claims}


def test_claims_of_a_log_like_the_first_look_hold(options: Options) -> None:
    verdicts = _verdicts(options, _results(options))
    assert verdicts.pop("in hits and lift within ") == "not held"  # all are positive-only's equals
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
    good = {("BC", 0.0): (0.9, 0.2), ("taper", 4.0): (1.5, 0.2), ("drpo-q", 0.5): (1.3, 0.2)}
    lured = good | {("taper", 0.5): (9.0, 0.2), ("drpo-q", 0.25): (9.0, 0.2)}  # on the test days
    section = TARGET.section(options, _results(options, tuning=good, test=lured))
    assert "To keep 98% of BC's hits: taper, strength 4 (lift within tabs 1.5" in section.text
    table = {row[0]: row[1] for row in section.tables[3].rows}
    assert {row[0]: row[1] for row in section.tables[1].rows}["taper, strength 4"] == "100% 98% 90%"
    assert table["taper"] == "4"
    assert table["drpo-q"] == "0.5"


def test_what_loses_the_hits_is_not_chosen() -> None:
    runs = {
        ("BC", 0.0): Policy([_metrics(0.9, 0.25, 0)]),
        ("taper", 4.0): Policy([_metrics(1.5, 0.246, 0)]),
        ("taper", 1.0): Policy([_metrics(2.0, 0.23, 0)]),
        ("global scale", 1.0): Policy([_metrics(3.1, 0.06, 0)]),
    }
    all_of_them, strict, loose = (choices(runs, runs, share) for share in (1.0, 0.98, 0.9))
    assert strict["taper"].key == ("taper", 4.0)
    assert loose["taper"].key == ("taper", 1.0)
    assert all_of_them["taper"] is strict["global scale"] is None
    assert recommended(loose).key == ("taper", 1.0)
    assert recommended(all_of_them).key == ("BC", 0.0)
    assert recommended(all_of_them, among=AT_SERVING) is None


def test_a_tilt_that_is_better_in_all_four_is_said_to_be(options: Options) -> None:
    tuning = {("BC", 0.0): (0.9, 0.25)} | TILTED | {("BC-tilt", 0.06): (1.6, 0.26)}
    test = {("BC", 0.0): (0.9, 0.25), ("BC-tilt", 0.06): (1.31, 0.26), ("BC-tilt", 0.1): (9, 9)}
    (claim,) = _better(options, tuning, test)
    assert claim.verdict == "held"
    assert claim.evidence.startswith("BC-tilt, tau 0.06, test days: hits less BC's 0.010 ± ")


@pytest.mark.parametrize(
    ("lift", "hits", "verdict"), [(1.1, 0.26, "held in part"), (1.1, 0.2, "not held")]
)
def test_a_tilt_that_is_not_is_not(options: Options, lift, hits, verdict) -> None:
    tuning = {("BC", 0.0): (0.9, 0.25)} | TILTED
    test = {("BC", 0.0): (0.9, 0.25), ("positive-only", 0.5): (1.2, 0.2)}
    (claim,) = _better(options, tuning, test | dict.fromkeys(TILTED, (lift, hits)))
    assert claim.verdict == verdict


def _better(options: Options, tuning: Any, test: Any) -> list[Any]:
    section = TARGET.section(options, _results(options, tuning=tuning, test=test))
    return [c for c in section.claims if c.statement.startswith("a policy that is tilted")]


def test_what_users_do_to_both_cancels_and_what_seeds_do_is_added() -> None:
    user = _without({HITS: 0.26}, spread=0.05)
    other = {HITS: [x - 0.01 + 0.001 * (-1) ** g for g, x in enumerate(user[HITS])]}
    runs = {
        ("BC-tilt", 0.1): Policy([{HITS: 0.26 + n} for n in NOISE], user),
        ("BC", 0.0): Policy([{HITS: 0.25 + 2 * n} for n in NOISE], other),
    }
    found = difference(runs, ("BC-tilt", 0.1), ("BC", 0.0), HITS)
    assert found.users.mean == found.seeds.mean == pytest.approx(0.01)
    spread = np.std([0.001 * (-1) ** g for g in range(GROUPS)])
    half = stats.t.ppf(0.975, GROUPS - 1) * math.sqrt(GROUPS - 1) * spread
    assert found.users.half_width == pytest.approx(half)
    assert over_users(runs, ("BC", 0.0), HITS).half_width > 10 * half
    assert found.both.half_width == pytest.approx(math.hypot(half, found.seeds.half_width))


def test_areas_are_paired_by_seed_and_corrected() -> None:
    runs = {
        ("positive-only", 0.5): Policy([_metrics(1.2, 0.2, n) for n in NOISE]),
        ("taper", 1.0): Policy([_metrics(2.0, 0.2, n) for n in NOISE]),
        ("AWR", 0.3): Policy([_metrics(1.2, 0.2, n) for n in NOISE]),
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
    assert [text.get_text() for text in legend.get_texts()] == list(PATHS)


def test_the_lowest_tab_says_how_sure_and_of_how_many_rows(options: Options) -> None:
    results = _results(options)
    seeds = results["test-taper-1"]["result"]["paths"]["taper"]["1"]["metrics"]
    for seed, rows in zip(seeds, (123, 123, 4010), strict=True):
        seed["hr@50_best_lowest_rows"] = rows
    table = all_runs(runs_of(results, "test"), results["ends"]["result"])
    (row,) = (row for row in table.rows if row[0] == "taper, strength 1")
    cell = dict(zip(table.header, row, strict=True))["HR@50 best, lowest tab ↑"]
    assert cell == "0.135 ± 0.001 ± 0.008 (123 or 4010 rows)"


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
    assert [c.name for c in tested] == [
        cell_name("test", m.name, v) for m in METHODS for v in m.values
    ]
    assert all(c.settings["run"] == RUN for c in tested)
    report, tune = (
        tested[0].settings["seeds"],
        {seed for c in cells if c.name.startswith("tuning-") for seed in c.settings["seeds"]},
    )
    assert tune.isdisjoint(report)
    quick = TARGET.cells(Options(quick=True, logs=Path("log.parquet")))
    assert sum(c.settings["run"]["steps"] for c in quick if "run" in c.settings) < 1_000
