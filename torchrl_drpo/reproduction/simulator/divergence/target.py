"""Target ``divergence``: why a signed loss runs away from a fixed log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchrl_drpo.reproduction.simulator.divergence.phantom import run_watched
from torchrl_drpo.reproduction.simulator.divergence.section import section
from torchrl_drpo.reproduction.simulator.divergence.series import SETTINGS, TRAINED
from torchrl_drpo.reproduction.simulator.runs import METHODS, version_of
from torchrl_drpo.reproduction.target import Cell, Options, Target

STEPS, EVERY = 2_500, 125


def cells(options: Options) -> Sequence[Cell]:
    """Positive-only training and APG, both watched, in both settings; extreme mixture."""
    out = []
    for setting in SETTINGS:
        for name in TRAINED:
            setup: dict[str, Any] = {"setting": setting, "scenario": "extreme", "users": 256}
            schedule = {"steps": STEPS, "evaluations": 10}
            if options.quick:
                setup |= {"log_size": 300, "users": 32, "changes": {"num_items": 300}}
                schedule = {"steps": 20, "evaluations": 5, "batch_size": 64}
            settings = {
                "method": METHODS[name],
                "setup": setup,
                "seeds": list(range(2 if options.quick else options.seeds)),
                "schedule": schedule,
                "every": 5 if options.quick else EVERY,
                "device": options.device,
            }
            version = version_of(METHODS[name])
            out.append(Cell("divergence", f"{setting}.{name}", run_watched, settings, version))
    return out


TARGET = Target(
    "divergence", "phantom gradients, the sign rule, on- and off-policy", cells, section
)
