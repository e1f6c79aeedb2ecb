"""The section on numbers that bear the claims out and that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from torchrl_drpo.reproduction.kuairand.methods import METHODS
from torchrl_drpo.reproduction.kuairand.results import choices, frontiers, recommended
from torchrl_drpo.reproduction.kuairand.target import RUN, TARGET, cell_name
from torchrl_drpo.reproduction.target import Options

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
