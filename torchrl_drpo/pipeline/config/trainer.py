"""The numbers of one training run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainerConfig:
    """Numbers of a training run; the defaults are those of arXiv 2602.10430.

    Attributes:
        steps: gradient steps in all.
        batch_size: rows a step.
        learning_rate: of Adam.
        weight_decay: of Adam, decoupled (AdamW) when above 0.
        max_grad_norm: clip the gradient to this norm; ``None`` leaves it.
        log_every: steps between two log lines.
        evaluate_every: steps between two evaluations; the last step is always evaluated.
        checkpoint_every: steps between two checkpoints; the last step is always saved.
    """

    steps: int = 5_000
    batch_size: int = 320
    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    log_every: int = 50
    evaluate_every: int = 500
    checkpoint_every: int = 1_000

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "evaluate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
