"""The section, on numbers that bear the claims out and that do not; and what is asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.reproduction.randomised.small_ratings import frame, write
from torchrl_drpo.cli import main
from torchrl_drpo.reproduction.randomised.judge import METRICS, NDCG
from torchrl_drpo.reproduction.randomised.methods import METHODS, OPPONENTS
from torchrl_drpo.reproduction.randomised.ratings import CHOOSING_GROUPS, GROUPS
from torchrl_drpo.reproduction.randomised.results import (
    chosen,
    differences,
    over_users,
    runs_of,
    winner,
)
from torchrl_drpo.reproduction.randomised.target import TARGET
from torchrl_drpo.reproduction.target import Options

SEEDS = 4
#: What each method is worth, unless a test says otherwise; of the first look's order.
WORTH = {
    "random": 0.3,
    "popularity": 0.35,
    "item mean": 0.45,
    "reward model alone": 0.46,
    "BC": 0.4,
    "positive-only": 0.5,
    "DRPO": 0.5,
    "tapered": 0.5,
    "DRPO-Q": 0.44,
    "BC, tilted": 0.56,
    "positive-only, tilted": 0.58,
    "DRPO, tilted": 0.57,
    "conditioned": 0.575,
    "conditioned, tilted": 0.57,
    "conditioned, from all": 0.57,
}


def _sums(worth: float, rng: np.random.Generator) -> dict[str, list[list[float]]]:
    """Every metric ``worth`` on choosing and reporting users, with some noise over users."""
    noise = rng.normal(size=GROUPS) * 0.005
    return {name: [[10 * (worth + e) for e in noise.tolist()], [10.0] * GROUPS] for name in METRICS}


def _results(worth: dict[str, float], file: str = "small") -> dict[str, Any]:
    out = {}
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        runs = []
        for method in METHODS.values():
            for place, value in enumerate(method.values):  # the first value is the best
                mine = worth[method.name] - 0.01 * place
                sums = _sums(mine, rng)
                runs.append(
                    {"method": method.name, "value": value, "step": 30, "looks": [mine],
                     "sums": sums}
                )  # fmt: skip
        facts = dict.fromkeys(
            ("users", "items", "train_rows", "judged_rows", "choosing_users", "reporting_users",
             "known_pairs", "unknown_users"), 7,
        )  # fmt: skip
        result = {"facts": facts, "explained_variance": 0.25, "runs": runs}
        out[f"{file}-{seed}"] = {"settings": {"name": file}, "result": result}
    return out


def _verdicts(worth: dict[str, float]) -> list[str]:
    options = Options(ratings=(Path("small.parquet"),))
    return [claim.verdict for claim in TARGET.section(options, _results(worth)).claims]


def test_claims_of_numbers_like_the_first_look_hold() -> None:
    assert set(_verdicts(WORTH)) == {"held"}


def test_claims_fail_where_an_opponent_wins() -> None:
    verdicts = _verdicts(WORTH | {"tapered": 0.7})
    assert verdicts[:7] == ["not held"] * 7  # there is no new winner, so it is above nobody
    assert "held" in verdicts[7:]  # a tilt may still be above its base


def test_a_claim_holds_in_part_where_one_opponent_is_level() -> None:
    verdicts = _verdicts(WORTH | {"tapered": 0.58 - 1e-6})
    assert verdicts[0] == "held"
    assert set(verdicts[1:7]) == {"held in part"}


def test_the_reporting_users_choose_neither_values_nor_the_winner() -> None:
    results = _results(WORTH)
    for record in results.values():
        for run in record["result"]["runs"]:
            if run["method"] == "random":  # splendid with those who report
                for numerator, _ in run["sums"].values():
                    numerator[CHOOSING_GROUPS:] = [9.9] * (GROUPS - CHOOSING_GROUPS)
    best = chosen(runs_of(results.values()))
    assert winner(best).method == "positive-only, tilted"
    assert best["positive-only, tilted"].value == METHODS["positive-only, tilted"].values[0]
    assert best["random"].interval(NDCG).mean == pytest.approx(0.99)


def test_differences_are_students_and_the_jackknifes() -> None:
    best = chosen(runs_of(_results(WORTH).values()))
    mine, other = best["BC, tilted"], best["BC"]
    found = differences(mine, [other, best["DRPO"]], NDCG)["BC"]
    gaps = np.subtract(mine.seeds(NDCG), other.seeds(NDCG))
    low, high = stats.t.interval(0.95, SEEDS - 1, gaps.mean(), stats.sem(gaps))
    assert found.seeds.mean == pytest.approx(gaps.mean())
    assert found.seeds.half_width == pytest.approx((high - low) / 2)
    p = stats.ttest_1samp(gaps, 0).pvalue
    assert p <= found.p <= 2 * p
    # Groups weigh the same here, so the jackknife is the t interval of their mean differences.
    numerators = [
        np.mean([np.array(sums[NDCG][0]) for sums in run.sums], axis=0)[CHOOSING_GROUPS:] / 10
        for run in (mine, other)
    ]
    each = numerators[0] - numerators[1]
    low, high = stats.t.interval(0.95, len(each) - 1, each.mean(), stats.sem(each))
    assert found.users.half_width == pytest.approx((high - low) / 2)
    assert not math.isnan(over_users(NDCG, mine).half_width)


def test_the_section_names_every_opponent_and_file() -> None:
    options = Options(ratings=(Path("one.parquet"), Path("two.parquet")))
    results = _results(WORTH, "one") | _results(WORTH, "two")
    section = TARGET.section(options, results)
    assert len(section.tables) == 6
    assert [figure.name for figure in section.figures] == ["randomised_one", "randomised_two"]
    assert [row[0] for row in section.tables[1].rows] == list(OPPONENTS)
    assert "**one**" in section.text


# -- the command --------------------------------------------------------------------------------


def _reproduce(*arguments: object) -> int:
    return main(["reproduce", *map(str, arguments), "--workers", "1"])


def test_a_quick_run_goes_from_files_to_claims(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "coat" / "ratings.parquet")
    given = ["randomised", "--ratings", file, "--quick", "--output", tmp_path / "out", "--json"]
    assert _reproduce(*given) == 0
    claims = json.loads(capsys.readouterr().out)["claims"]
    assert {claim["statement"].split(":")[0] for claim in claims} == {"coat"}
    assert (tmp_path / "out/quick/figures/randomised_coat.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["randomised"], "target randomised needs --ratings <file>"),
        (["randomised", "--ratings", "nowhere.csv"], "ratings: there is no file nowhere.csv"),
        (["randomised", "--ratings", "{a}", "{b}"], "two files are called 'same'"),
        (["randomised", "--ratings", "{bad}"], "has rating 9 in row 0"),
    ],
)
def test_bad_ratings_end_with_code_2_and_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {
        "a": write(tmp_path / "same.csv"),
        "b": write(tmp_path / "same" / "ratings.parquet"),
        "bad": write(tmp_path / "bad.csv", frame().assign(rating=9)),
    }
    given = [each.format(**names) for each in arguments]
    assert _reproduce(*given, "--output", tmp_path / "out") == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_ratings_it_is_not_tested() -> None:
    assert TARGET.cells(Options()) == []
    section = TARGET.section(Options(), {})
    assert [claim.verdict for claim in section.claims] == ["not tested"]


@pytest.mark.slow
def test_on_coat_a_policy_with_a_critic_or_a_condition_is_above_all_others(
    real_logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coat = real_logs / "coat" / "ratings.parquet"
    given = ["randomised", "--ratings", coat, "--seeds", 4, "--output", tmp_path, "--json"]
    assert _reproduce(*given) == 0
    claims = json.loads(capsys.readouterr().out)["claims"]
    held = {claim["statement"] for claim in claims if claim["verdict"] == "held"}
    assert "coat: a tilted or a quality-conditioned policy wins on the choosing users" in held
    assert any(each.endswith("is above every opponent in gauc, over seeds") for each in held)
