"""The numbers behind ``uphill`` and the ``-q`` objectives of policies over item vectors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UphillConfig:
    """Numbers of the reward model that uphill and the -q objectives follow.

    Attributes:
        uphill_step: how far uphill moves actions, in units of their norm; .3 was best on the
            simulator.
        folds: of the cross-fitting; all rows of a user lie in one.
        landmarks: states that span the model; more follow finer detail, and cost time.
        max_rows: fit to so many training rows at most, drawn at random; all rows are judged.
    """

    uphill_step: float = 0.3
    folds: int = 5
    landmarks: int = 96
    max_rows: int = 500_000

    def __post_init__(self) -> None:
        if not 0 <= self.uphill_step < float("inf"):
            raise ValueError(
                f"uphill_step must be a finite number of at least 0, got {self.uphill_step}"
            )
        for name, least in (("folds", 2), ("landmarks", 1), ("max_rows", 10)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
