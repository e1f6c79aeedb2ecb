"""Target ``online``: policies that go on learning from what they serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchrl_drpo.reproduction.simulator.online.results import COMPARED, NUMBERS
from torchrl_drpo.reproduction.simulator.online.section import section
from torchrl_drpo.reproduction.simulator.online.served import run_served
from torchrl_drpo.reproduction.simulator.runs import METHODS, version_of
from torchrl_drpo.reproduction.target import Cell, Options, Target


def cells(options: Options) -> Sequence[Cell]:
    """Every method on the extreme mixture's log, then on what it serves."""
    setup: dict[str, Any] = {"setting": "table", "scenario": "extreme"}
    numbers: dict[str, Any] = dict(NUMBERS)
    if options.quick:
        setup |= {"log_size": 300, "users": 32, "changes": {"num_items": 300}}
        numbers |= {"offline_steps": 4, "online_steps": 16, "serve_every": 4}
        numbers |= {"batch_size": 64, "evaluations": 5}
    settings = {"setup": setup, "seeds": list(range(2 if options.quick else options.seeds))}
    return [
        Cell(
            "online",
            name,
            run_served,
            {"method": METHODS[name], **settings, **numbers, "device": options.device},
            version_of(METHODS[name]),
        )
        for name in COMPARED
    ]


TARGET = Target("online", "offline-to-online learning, and what passes the filter", cells, section)
