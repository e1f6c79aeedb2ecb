"""The targets by name; a target's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from torchrl_drpo.reproduction.target import Target

_HERE = "torchrl_drpo.reproduction"
#: By name, the module whose ``TARGET`` it is, in the report's order.
MODULES: dict[str, str] = {
    "table1": f"{_HERE}.simulator.table1.target",
    "divergence": f"{_HERE}.simulator.divergence.target",
    "noise": f"{_HERE}.simulator.noise",
    "ablation": f"{_HERE}.simulator.ablation",
    "sensitivity": f"{_HERE}.simulator.sensitivity",
    "online": f"{_HERE}.simulator.online.target",
    "geometry": f"{_HERE}.simulator.geometry.target",
    "cu1": f"{_HERE}.controlled.cu1.target",
    "du1": f"{_HERE}.controlled.du1.target",
    "kuairand": f"{_HERE}.kuairand.target",
    "uphill_step": f"{_HERE}.simulator.uphill_step",
    "randomised": f"{_HERE}.randomised.target",
    "beyond": f"{_HERE}.simulator.beyond.target",
}
ALL = "all"


def load_targets(names: Sequence[str]) -> list[Target]:
    """The targets of these names, each once, in the order of the report.

    Args:
        names: of targets; ``all`` stands for every one.

    Raises:
        ValueError: if there is no name, or none such.
    """
    if not names:
        raise ValueError(
            f"name a target ({', '.join(MODULES)}), or {ALL}; `drpo reproduce --list` explains them"
        )
    unknown = [name for name in names if name not in MODULES and name != ALL]
    if unknown:
        raise ValueError(
            f"unknown target {', '.join(map(repr, unknown))}; "
            f"choose among {', '.join(MODULES)}, or {ALL}"
        )
    wanted = MODULES if ALL in names else [name for name in MODULES if name in names]
    return [_load(name) for name in wanted]


def _load(name: str) -> Target:
    target: Target = importlib.import_module(MODULES[name]).TARGET
    if target.name != name:
        raise ValueError(f"{MODULES[name]} holds target {target.name!r}, not {name!r}")
    return target
