"""A run that cannot learn must not end like one that did."""

from __future__ import annotations

import warnings

#: Batches without any weight, one after the other, that are told of: one alone is chance.
IDLE_STEPS = 20


class IdleWatch:
    """Counts the training steps in a row in which every row had weight 0."""

    def __init__(self) -> None:
        self.steps = 0
        self._told = False

    def count(self, idle: bool, owner: str, advice: str) -> None:
        """Takes note of a step, and warns of many idle ones, once."""
        self.steps = self.steps + 1 if idle else 0
        if self.steps < IDLE_STEPS or self._told:
            return
        self._told = True
        warnings.warn(
            f"{owner} has had nothing to learn from in {IDLE_STEPS} batches in a row: every row "
            f"has weight 0, as where all rewards are equal{advice}; the policy stays as it is",
            stacklevel=2,
        )
