"""Target ``uphill_step``: how far uphill actions should move, on the seeds that chose it.

The seeds are 50 to 53, which no comparison reports. Beside the step, the numbers of the reward
model's fit, by what it explains of rows that it has not seen: no policy is trained for those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchrl_drpo.evaluation.statistics import Interval, mean_interval, paired_interval
from torchrl_drpo.report.formats import signed
from torchrl_drpo.report.tables import Table
from torchrl_drpo.reproduction.simulator.results import late
from torchrl_drpo.reproduction.simulator.runs import (
    METHODS,
    STREAMS_VERSION,
    build_setup,
    run_method,
    version_of,
)
from torchrl_drpo.reproduction.simulator.worlds import Worlds
from torchrl_drpo.reproduction.target import Cell, Claim, Options, Results, Section, Target, verdict
from torchrl_drpo.rewards.bilinear import BilinearReward, fit_bilinear_reward
from torchrl_drpo.rewards.explained import explained_variance
from torchrl_drpo.rewards.folds import assign_folds
from torchrl_drpo.rewards.uphill import out_of_fold

SEEDS = (50, 51, 52, 53)
#: 0 is positive-only learning as it is.
STEPS = (0.0, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 1.0, 2.0)
CHOSEN = 0.3
PLACES = tuple((a, b) for a in ("table", "collapse") for b in ("medium", "extreme"))
DEFAULT = "as it is"
#: One number of the fit at a time: landmarks, ridge, and the length scale in units of its default.
FITS: Mapping[str, Mapping[str, float]] = {
    DEFAULT: {},
    "24 landmarks": {"landmarks": 24},
    "48 landmarks": {"landmarks": 48},
    "192 landmarks": {"landmarks": 192},
    "ridge .3": {"ridge": 0.3},
    "ridge 1": {"ridge": 1.0},
    "ridge 3": {"ridge": 3.0},
    "ridge 10": {"ridge": 10.0},
    "ridge 30": {"ridge": 30.0},
    "ridge 100": {"ridge": 100.0},
    "half the length scale": {"stretch": 0.5},
    "twice the length scale": {"stretch": 2.0},
}
_FOLDS = 5
_SMALL: Mapping[str, Any] = {"log_size": 300, "changes": {"num_items": 300}}


def fit_models(
    *, setup: Mapping[str, Any], seeds: Sequence[int], fits: Mapping[str, Mapping[str, float]]
) -> dict[str, list[float]]:
    """A cell: what models explain of the rows of other folds.

    Args:
        setup: of the worlds.
        seeds: one world each.
        fits: by name, numbers of the fit that differ from the default: ``landmarks``, ``ridge``,
            and ``stretch``, a factor on the length scale.

    Returns:
        By name, the explained variance of each seed.
    """
    logs = Worlds(build_setup(setup), seeds).log
    found: dict[str, list[float]] = {name: [] for name in fits}
    for log in logs.unbind(0):
        rows = log["observation"], log["action"], log["reward"]
        fold = assign_folds(len(log), _FOLDS)
        for name, numbers in fits.items():
            options: dict[str, Any] = dict(numbers)
            if stretch := options.pop("stretch", None):
                usual = float(fit_bilinear_reward(*rows, ridge=1.0).lengthscale)
                options["lengthscale"] = stretch * usual
            models: list[BilinearReward] = []
            for k in range(_FOLDS):
                part = (column[fold != k] for column in rows)
                models.append(fit_bilinear_reward(*part, **options))
                options["ridge"] = float(models[0].ridge)  # the first one's choice, as ever
            predicted, _ = out_of_fold(models, fold, *rows[:2])
            found[name].append(round(float(explained_variance(predicted, rows[2]).share), 6))
    return found


def cells(options: Options) -> Sequence[Cell]:
    """Every step in every place, then the models' fits."""
    steps = [_step_cell(step, *place, options) for step in STEPS for place in PLACES]
    return [*steps, *(_fit_cell(*place, options) for place in PLACES)]


def _step_cell(step: float, setting: str, scenario: str, options: Options) -> Cell:
    base = METHODS["positive-only"]
    method: dict[str, Any] = {"rule": "Uphill", "base": base, "step": step} if step else dict(base)
    setup: dict[str, Any] = {"setting": setting, "scenario": scenario, "users": 512}
    schedule = {"steps": 2_000, "evaluations": 10}
    if options.quick:
        setup |= _SMALL | {"users": 32}
        schedule = {"steps": 5, "evaluations": 5, "batch_size": 64}
    settings = {
        "method": method,
        "setup": setup,
        "seeds": list(SEEDS),
        "schedule": schedule,
        "device": options.device,
    }
    name = _step_name(step, setting, scenario)
    return Cell("uphill_step", name, run_method, settings, version_of(method))


def _fit_cell(setting: str, scenario: str, options: Options) -> Cell:
    setup: dict[str, Any] = {"setting": setting, "scenario": scenario, "users": 2}
    if options.quick:
        setup |= _SMALL
    settings = {
        "setup": setup,
        "seeds": list(SEEDS[:2] if options.quick else SEEDS),
        "fits": {name: dict(numbers) for name, numbers in FITS.items()},
    }
    name = _fit_name(setting, scenario)
    return Cell("uphill_step", name, fit_models, settings, STREAMS_VERSION)


def _step_name(step: float, setting: str, scenario: str) -> str:
    return f"{setting}.{scenario}.step-{step:g}"


def _fit_name(setting: str, scenario: str) -> str:
    return f"{setting}.{scenario}.fits"


def section(options: Options, results: Results) -> Section:
    """Rewards by step, what the fit's numbers are worth, and whether .3 was well chosen."""
    text = (
        f"Uphill positive-only by the step of its actions, on seeds {SEEDS[0]} to {SEEDS[-1]}, "
        f"which chose {CHOSEN:g}; step 0 is positive-only learning. Below, what the reward model "
        "explains of rows that it has not seen, with one number of its fit changed at a time: 96 "
        "landmarks, the best of the ridges 1, 3, 10 and 30 on a fifth of the rows, .7 of the "
        "states' median distance as length scale are the defaults."
    )
    return Section(
        "The step of uphill actions",
        text,
        tables=[_steps_table(results), _fits_table(results)],
        claims=_claims(results),
    )


def _rewards(results: Results, step: float) -> list[list[float]]:
    """``[place][seed]``."""
    return [late(results, _step_name(step, *place)) for place in PLACES]


def _by_seed(results: Results, step: float) -> list[float]:
    """A seed's mean over the places."""
    columns = zip(*_rewards(results, step), strict=True)
    return [sum(column) / len(column) for column in columns]


def _steps_table(results: Results) -> Table:
    rows = []
    for step in STEPS:
        cells = [str(mean_interval(values)) for values in _rewards(results, step)]
        lost = paired_interval(_by_seed(results, step), _by_seed(results, CHOSEN))
        rows.append([f"{step:g}", *cells, "" if step == CHOSEN else signed(lost)])
    return Table(
        "Retrieved reward by step",
        ["step", *map(" ".join, PLACES), f"all, minus step {CHOSEN:g}"],
        rows,
        emphasis=[STEPS.index(CHOSEN)],
        note="All: a seed's mean over the four places, paired by seed.",
    )


def _fits(results: Results, name: str) -> list[list[float]]:
    """Explained variance, ``[place][seed]``."""
    return [results[_fit_name(*place)]["result"][name] for place in PLACES]


def _fits_table(results: Results) -> Table:
    rows = [[name, *(str(mean_interval(v)) for v in _fits(results, name))] for name in FITS]
    return Table(
        "Explained variance by the fit's numbers", ["fit", *map(" ".join, PLACES)], rows, [0]
    )


def _claims(results: Results) -> list[Claim]:
    steps = STEPS[1:]
    gains = {
        step: paired_interval(_by_seed(results, step), _by_seed(results, 0.0))
        for step in steps
        if step <= 0.6
    }
    ahead = _ahead(results, steps)
    better = _better_fits(results)
    where = "this project"
    return [
        Claim(
            f"Step {CHOSEN:g} is the best, or within the interval of the best",
            where,
            verdict([not lead.above() for _, lead in ahead.values()]),
            "; ".join(
                f"{place}: best {best:g}, {signed(lead)} over {CHOSEN:g}"
                for place, (best, lead) in ahead.items()
            )
            + "; intervals hold together for all other steps",
        ),
        Claim(
            "Every step from .1 to .6 is better than none",
            where,
            verdict([gain.above() for gain in gains.values()]),
            "; ".join(f"{step:g} {signed(gain)}" for step, gain in gains.items()),
        ),
        Claim(
            "No other number of the fit explains more than the default, beyond the seeds' spread",
            where,
            verdict([not better]),
            f"more: {'; '.join(better) or 'none'}",
        ),
    ]


def _ahead(results: Results, steps: Sequence[float]) -> dict[str, tuple[float, Interval]]:
    """By place, and over all of them: the best step, and what it has above the chosen one."""
    rewards = {
        " ".join(place): {step: late(results, _step_name(step, *place)) for step in steps}
        for place in PLACES
    }
    rewards["all"] = {step: _by_seed(results, step) for step in steps}
    found = {}
    for place, by_step in rewards.items():
        best = max(by_step, key=lambda step, by=by_step: mean_interval(by[step]).mean)
        lead = paired_interval(by_step[best], by_step[CHOSEN], comparisons=len(steps) - 1)
        found[place] = best, lead
    return found


def _better_fits(results: Results) -> list[str]:
    """Fits that explain more than the default in some place, and by how much."""
    usual = _fits(results, DEFAULT)
    return [
        f"{name} ({' '.join(place)} {signed(lead)})"
        for name in FITS
        if name != DEFAULT
        for place, found, base in zip(PLACES, _fits(results, name), usual, strict=True)
        if (lead := paired_interval(found, base, comparisons=len(FITS) - 1)).above()
    ]


TARGET = Target(
    "uphill_step", "how far uphill actions move: the seeds that chose .3", cells, section
)
