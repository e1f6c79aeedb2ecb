"""Target ``geometry``: what the simulator's catalogue and its rewards look like."""

from __future__ import annotations

from collections.abc import Sequence

from torchrl_drpo.reproduction.simulator.geometry.section import section
from torchrl_drpo.reproduction.simulator.geometry.world import SCENARIOS, SETTINGS, describe_world
from torchrl_drpo.reproduction.simulator.runs import STREAMS_VERSION
from torchrl_drpo.reproduction.target import Cell, Options, Target


def cells(options: Options) -> Sequence[Cell]:
    """Every setting with every mixture."""
    size = {"log_size": 300, "changes": {"num_items": 300}} if options.quick else {}
    seeds = list(range(2 if options.quick else options.seeds))
    return [
        Cell(
            "geometry",
            f"{setting}.{scenario}",
            describe_world,
            {"setup": {"setting": setting, "scenario": scenario, **size}, "seeds": seeds},
            STREAMS_VERSION,
        )
        for setting in SETTINGS
        for scenario in SCENARIOS
    ]


TARGET = Target("geometry", "the simulator's catalogue and rewards", cells, section)
