"""What is compared, where, and the names of the cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torchrl_drpo.reproduction.simulator.runs import METHODS

_TAPERED = METHODS["tapered"]
_POSITIVE = METHODS["positive-only"]
UPHILL, DIRECT, POSITIVE = "uphill positive-only", "direct method", "positive-only"


def _at_serving(step: float) -> dict[str, Any]:
    return {"rule": "UphillAtServing", "base": _POSITIVE, "step": step}


#: Ours, then the baselines, by their names in the report.
CANDIDATES: dict[str, Mapping[str, Any]] = {
    UPHILL: {"rule": "Uphill", "base": _POSITIVE},
    "uphill at serving .15": _at_serving(0.15),
    "uphill at serving .3": _at_serving(0.3),
    "uphill at serving .6": _at_serving(0.6),
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
    POSITIVE: _POSITIVE,
    "DRPO": METHODS["DRPO"],
    DIRECT: {"rule": "DirectMethod"},
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
#: The simpler forms of what uphill does.
SIMPLER = (DIRECT, *(name for name in CANDIDATES if name.startswith("uphill at serving")))


class Place(NamedTuple):
    """Where a comparison takes place.

    Attributes:
        setting: ``"table"`` or ``"collapse"``.
        scenario: ``"medium"`` or ``"extreme"``.
        noise: of the observed rewards; ``None`` for the setting's own.
    """

    setting: str
    scenario: str
    noise: float | None = None

    def __str__(self) -> str:
        noise = "" if self.noise is None else f", noise {self.noise:g}"
        return f"{self.setting} {self.scenario}{noise}"


PLACES = tuple(Place(a, b) for a in ("table", "collapse") for b in ("medium", "extreme"))
#: Where a model of the reward has next to nothing to learn from, and the methods that are asked.
NOISY = tuple(Place("table", b, noise) for noise in (0.45, 1.0) for b in ("medium", "extreme"))
IN_NOISE = (UPHILL, "uphill at serving .3", DIRECT, POSITIVE, "DRPO")


def cell_name(method: str, place: Place) -> str:
    """The cell of a method in a place."""
    noise = "" if place.noise is None else f"noise-{place.noise:g}."
    words = method.replace(",", "").replace(" ", "-").replace("'", "")
    return f"{place.setting}.{place.scenario}.{noise}{words}"
