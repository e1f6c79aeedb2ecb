"""Target ``beyond``: what beats DRPO, on seeds that nothing was chosen on.

Every variant is on the table, in both settings and both scenarios: no baseline is represented by
one arbitrary strength, and none was dropped after a look. What was chosen elsewhere (the step of
the uphill actions, .3) was chosen on seeds 50 to 53; the seeds here are 100 and up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchrl_drpo.reproduction.simulator.beyond.section import section
from torchrl_drpo.reproduction.simulator.runs import METHODS, run_method, version_of
from torchrl_drpo.reproduction.target import Cell, Options, Target

#: No seed of any other target, nor of the looks that chose a variant, is this large.
FIRST_FRESH_SEED = 100
SETUPS = tuple((a, b) for a in ("table", "collapse") for b in ("medium", "extreme"))
_TAPERED = METHODS["tapered"]
_POSITIVE = METHODS["positive-only"]

#: Ours, then the baselines, by their names in the report; in the order of computation.
CANDIDATES: dict[str, Mapping[str, Any]] = {
    "uphill positive-only": {"rule": "Uphill", "base": _POSITIVE},
    "uphill tapered": {"rule": "Uphill", "base": _TAPERED},
    "uphill Adaptive BC": {"rule": "Uphill", "base": METHODS["Adaptive BC"]},
    "taper-Q": {"rule": "Predicted", "base": {**_TAPERED, "quality": "predicted_reward"}},
    "DRPO-Q, cross-fitted": {
        "rule": "Predicted",
        "base": {**METHODS["DRPO"], "quality": "predicted_reward"},
    },
    "tapered": _TAPERED,
    "DRPO, kappa at least .2": {"rule": "TopFraction", "kappa": {"bounds": [0.2, 1.0]}},
    "DRPO, exact kl weights": {"rule": "TopFraction", "weighting": "kl", "temperature": 0.05},
    "DRPO, tapered rejects": {"rule": "TopFraction", "taper": {"threshold": 1.0}},
    "log's top tenth": {"rule": "DatasetTop", "kappa": 0.1},
}
BASELINES: dict[str, Mapping[str, Any]] = {
    "positive-only": _POSITIVE,
    "DRPO": METHODS["DRPO"],
    "Adaptive BC": METHODS["Adaptive BC"],
    "AWR, beta .1": {"rule": "Exponential", "temperature": 0.1},
    "IQL, inverse temperature 10": {**METHODS["IQL"], "inverse_temperature": 10.0},
    "global scale .1": {"rule": "Signed", "negative_scale": 0.1},
    "global scale .3": {"rule": "Signed", "negative_scale": 0.3},
    "DRPO-Exp": METHODS["DRPO-Exp"],
    "IQL, inverse temperature 3": METHODS["IQL"],
    "AsymRE": METHODS["AsymRE"],
    "AWR, beta 1": METHODS["AWR"],
    "BC": METHODS["BC"],
    "BPPO": METHODS["BPPO"],
    "APG": METHODS["APG"],
    "CRR": METHODS["CRR"],
}
#: The curves are flat from 1,500 steps on, and fall after that where they move at all.
STEPS = 2_000


def cells(options: Options) -> Sequence[Cell]:
    """Every method in every setup, on fresh seeds."""
    names = ["uphill positive-only", *BASELINES, *CANDIDATES]
    return [
        _cell(name, setting, scenario, options)
        for name in dict.fromkeys(names)
        for setting, scenario in SETUPS
    ]


def _cell(name: str, setting: str, scenario: str, options: Options) -> Cell:
    setup: dict[str, Any] = {"setting": setting, "scenario": scenario, "users": 512}
    schedule = {"steps": STEPS, "evaluations": 10}
    count = options.fresh_seeds
    if options.quick:
        setup |= {"log_size": 300, "users": 32, "changes": {"num_items": 300}}
        schedule, count = {"steps": 5, "evaluations": 5, "batch_size": 64}, 2
    method = dict((CANDIDATES | BASELINES)[name])
    settings = {
        "method": method,
        "setup": setup,
        "seeds": list(range(FIRST_FRESH_SEED, FIRST_FRESH_SEED + count)),
        "schedule": schedule,
        "device": options.device,
    }
    return Cell(
        "beyond", cell_name(name, setting, scenario), run_method, settings, version_of(method)
    )


def cell_name(method: str, setting: str, scenario: str) -> str:
    """The cell of a method in a setup."""
    return f"{setting}.{scenario}.{method.replace(',', '').replace(' ', '-')}".replace("'", "")


TARGET = Target(
    "beyond",
    "what beats DRPO and every baseline, on fresh seeds, both settings, both scenarios",
    cells,
    lambda options, results: section(options, results, CANDIDATES, BASELINES, SETUPS, cell_name),
)
