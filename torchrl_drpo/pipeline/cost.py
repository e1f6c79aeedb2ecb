"""``drpo cost``: a training step among many GPUs, on paper."""

from __future__ import annotations

from dataclasses import asdict

from torchrl_drpo.distributed.cost import Step, report
from torchrl_drpo.pipeline.config.cost import CostConfig
from torchrl_drpo.pipeline.terminal import print_json, say


def command(config: CostConfig) -> None:
    """Prints the numbers of one step, a line each."""
    numbers = asdict(config)
    del numbers["json"]
    found = report(Step(**numbers))
    if config.json:
        print_json(found)
        return
    width = max(map(len, found))
    for name, value in found.items():
        shown = f"{value:,.3f}" if name.endswith("ms") else f"{value:,.0f}"
        say(f"{name:<{width}}  {shown:>24}")
