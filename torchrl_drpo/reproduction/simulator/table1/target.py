"""Target ``table1``: ten methods on two logging mixtures, beside the published table."""

from __future__ import annotations

from collections.abc import Sequence

from torchrl_drpo.reproduction.simulator.runs import METHODS, method_cell
from torchrl_drpo.reproduction.simulator.table1 import closest
from torchrl_drpo.reproduction.simulator.table1.results import SCENARIOS, name_of
from torchrl_drpo.reproduction.simulator.table1.section import section
from torchrl_drpo.reproduction.target import Cell, Options, Target

#: In the order in which they are computed.
COMPARED = (
    "DRPO",
    "Adaptive BC",
    "DRPO-Exp",
    "BC",
    "AWR",
    "IQL",
    "AsymRE",
    "BPPO",
    "APG",
    "CRR",
)


def cells(options: Options) -> Sequence[Cell]:
    """Every method on every mixture, at the paper's hyperparameters."""
    own = [
        method_cell(
            "table1",
            name_of(name, scenario),
            METHODS[name],
            {"setting": "table", "scenario": scenario},
            options,
        )
        for name in COMPARED
        for scenario in SCENARIOS
    ]
    return [*own, *closest.cells(options)]


TARGET = Target("table1", "ten methods on two mixtures, beside the paper's table", cells, section)
