"""The numbers of one training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainerConfig:
    """Numbers of a training run; the defaults are those of arXiv 2602.10430.

    Attributes:
        steps: gradient steps in all.
        batch_size: rows a step.
        learning_rate: of Adam.
        weight_decay: of Adam, decoupled (AdamW) when above 0.
        max_grad_norm: clip the gradient to this norm; ``None`` leaves it.
        warm_up: steps over which the learning rate rises to its value, linearly from nothing.
        decay: how it goes on: constant, or falling to zero at the last step as half a cosine.
        log_every: steps between two log lines.
        evaluate_every: steps between two evaluations; the last step is always evaluated.
        checkpoint_every: steps between two checkpoints; the last step is always saved.
    """

    steps: int = 5_000
    batch_size: int = 320
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    warm_up: int = 0
    decay: Literal["constant", "cosine"] = "constant"
    log_every: int = 50
    evaluate_every: int = 500
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm must be above 0, got {self.max_grad_norm}")
        if self.warm_up < 0:
            raise ValueError(f"warm_up must be at least 0 steps, got {self.warm_up}")

    def rate(self, step: int) -> float:
        """The learning rate of a step, the first of which is 1.

        Of the step alone, so that a run that goes on after a kill needs no schedule's state.

        Example:
            >>> config = TrainerConfig(steps=8, learning_rate=1.0, warm_up=4, decay="cosine")
            >>> [round(config.rate(step), 3) for step in (1, 2, 4, 6, 8)]
            [0.25, 0.5, 1.0, 0.5, 0.0]
        """
        if step <= self.warm_up:
            return self.learning_rate * step / self.warm_up
        if self.decay == "constant":
            return self.learning_rate
        gone = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (1 + math.cos(math.pi * gone)) / 2
