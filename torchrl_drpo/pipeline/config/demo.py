"""The settings of ``drpo demo``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torchrl_drpo.pipeline.config.trainer import TrainerConfig


@dataclass(frozen=True)
class DemoConfig:
    """Simulate a noisy recommendation log and learn from it with BC, the signed loss and DRPO.

    Attributes:
        output: folder for demo.png and demo.json.
        seeds: worlds (catalogue, users, log, initial policy), each with every method.
        scenario: logging mixture: "extreme" (90% random) or "medium".
        setting: simulator setting: "table" or "collapse".
        log_size: logged rows a world.
        users: held-out users that policies are evaluated on.
        workers: processes to train in, one thread each.
        quick: a small run (1 seed, 300 steps) that shows that everything works.
        json: print the results as JSON instead of a table.
        train: numbers of the training runs.
    """

    output: Path = Path("runs/demo")
    seeds: int = 3
    scenario: Literal["extreme", "medium"] = "extreme"
    setting: Literal["table", "collapse"] = "table"
    log_size: int = 3_000
    users: int = 1_024
    workers: int = min(2, os.cpu_count() or 1)
    quick: bool = False
    json: bool = False
    train: TrainerConfig = field(default_factory=lambda: TrainerConfig(evaluate_every=250))

    def __post_init__(self) -> None:
        for name in ("seeds", "log_size", "users", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def resolved(self) -> DemoConfig:
        """This configuration with ``quick`` spelled out."""
        if not self.quick:
            return self
        small = replace(self.train, steps=300, evaluate_every=50)
        return replace(self, seeds=1, users=256, train=small)
