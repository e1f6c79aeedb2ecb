"""The cell that most simulator targets are made of: one method in one setup, all seeds at once.

Settings are JSON data, so that a cell's identity holds every number that it depends on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torchrl_drpo.functional.controllers import AdaptiveKappa
from torchrl_drpo.functional.tapers import ExponentialTaper
from torchrl_drpo.reproduction.simulator import rules
from torchrl_drpo.reproduction.simulator.rules import Rule
from torchrl_drpo.reproduction.simulator.training import Schedule, train
from torchrl_drpo.reproduction.simulator.worlds import Setup, Worlds
from torchrl_drpo.reproduction.target import Cell, Options

_RULES: dict[str, type[Rule]] = {
    rule.__name__: rule
    for rule in (
        rules.Imitation,
        rules.Signed,
        rules.TopFraction,
        rules.DatasetTop,
        rules.Exponential,
        rules.Asymmetric,
        rules.Proximal,
        rules.ExpectileAdvantage,
        rules.LearnedTop,
        rules.PolicyAdvantage,
        rules.Predicted,
        rules.Uphill,
        rules.UphillAtServing,
        rules.DirectMethod,
    )
}
#: By its name in reports: a rule and its options, as JSON data, at the paper's numbers.
METHODS: dict[str, dict[str, Any]] = {
    "APG": {"rule": "Signed"},
    "BC": {"rule": "Imitation"},
    "CRR": {"rule": "PolicyAdvantage", "temperature": 1.0},
    "BPPO": {"rule": "Proximal", "clip_epsilon": 0.2},
    "AWR": {"rule": "Exponential", "temperature": 1.0},
    "IQL": {"rule": "ExpectileAdvantage", "expectile": 0.9, "inverse_temperature": 3.0},
    "AsymRE": {"rule": "Asymmetric", "negative_weight": 0.1},
    "Adaptive BC": {"rule": "TopFraction", "weighting": "uniform"},
    "DRPO-Exp": {"rule": "TopFraction", "weighting": "exponential", "temperature": 0.05},
    "DRPO": {"rule": "TopFraction"},
    "positive-only": {"rule": "Signed", "negative_scale": 0.0},
    "tapered": {"rule": "Signed", "taper": {"threshold": 1.0}},
}

#: Of every cell that draws worlds: since 2 each part of a seed has a stream of its own.
STREAMS_VERSION = 2
#: By rule, how often what it computes has changed: 2 of CRR asks one critic, not two, for A.
_VERSIONS = {"PolicyAdvantage": 2}


def version_of(method: Mapping[str, Any]) -> int:
    """The version of a method's cells."""
    return STREAMS_VERSION + _VERSIONS.get(method["rule"], 1) - 1


def build_rule(method: Mapping[str, Any]) -> Rule:
    """A fresh rule of a method's JSON description.

    ``taper`` holds the numbers of an ``ExponentialTaper`` and ``kappa``, if it is no number, those
    of an ``AdaptiveKappa``, ``base`` is another method; everything else is the rule's own.

    Raises:
        ValueError: for an unknown rule.
    """
    options = dict(method)
    name = options.pop("rule")
    if name not in _RULES:
        raise ValueError(f"unknown rule {name!r}; expected one of {', '.join(_RULES)}")
    if "base" in options:
        options["base"] = build_rule(options["base"])
    if options.get("taper") is not None:
        options["taper"] = ExponentialTaper(**options["taper"])
    if isinstance(options.get("kappa"), Mapping):
        numbers = dict(options["kappa"])
        if "bounds" in numbers:
            numbers["bounds"] = tuple(numbers["bounds"])
        options["kappa"] = AdaptiveKappa(**numbers)
    return _RULES[name](**options)


def build_setup(setup: Mapping[str, Any]) -> Setup:
    """A setup of its JSON description."""
    options = dict(setup)
    if options.get("shares") is not None:
        options["shares"] = tuple(options["shares"])
    return Setup(**options)


def run_method(
    *,
    method: Mapping[str, Any],
    setup: Mapping[str, Any],
    seeds: Sequence[int],
    schedule: Mapping[str, Any],
    device: str = "cpu",
) -> dict[str, Any]:
    """Trains a method on every seed of a setup.

    Returns:
        ``metrics``: late-window numbers of each seed; ``curves``: (step, mean over seeds);
        ``ends``: rewards of the random policy and of the oracle, of each seed.
    """
    worlds = Worlds(build_setup(setup), seeds, device)
    run = train(worlds, build_rule(method), Schedule(**schedule))
    return {**run.to_json(), "ends": worlds.ends()}


def method_cell(
    target: str,
    name: str,
    method: Mapping[str, Any],
    setup: Mapping[str, Any],
    options: Options,
    *,
    steps: int = 5_000,
    evaluations: int = 20,
) -> Cell:
    """A cell of :func:`run_method` on seeds 0, 1, ...; small where the options say so."""
    setup, schedule = dict(setup), {"steps": steps, "evaluations": evaluations}
    if options.quick:
        setup |= {"log_size": 300, "users": 32}
        setup["changes"] = {"num_items": 300, **setup.get("changes", {})}
        schedule = {"steps": 10, "evaluations": 5, "batch_size": 64}
    settings = {
        "method": dict(method),
        "setup": setup,
        "seeds": list(range(2 if options.quick else options.seeds)),
        "schedule": schedule,
        "device": options.device,
    }
    return Cell(target, name, run_method, settings, version_of(method))
