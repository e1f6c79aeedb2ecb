"""What is written down of P policies while they train, as JSON data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from torchrl_drpo.objectives import CollapseEvents


class Watch:
    """Three kinds of events for each of P policies, apart, as JSON data.

    Args:
        references: reward of positive-only training, one a policy.
        **options: of :class:`~torchrl_drpo.objectives.CollapseEvents`.
    """

    def __init__(self, references: Sequence[float], **options: Any) -> None:
        self._events = [CollapseEvents(reference, **options) for reference in references]

    def update(self, step: int, **signals: Tensor) -> None:
        """Takes note of an evaluation; every signal has one entry a policy."""
        for index, events in enumerate(self._events):
            events.update(step, **{name: values[index] for name, values in signals.items()})

    def happened(self) -> list[dict[str, int]]:
        """For each policy the step at which each kind was first certain."""
        return [{e.kind: e.step for e in events.happened.values()} for events in self._events]


class Record:
    """Evaluations of arms x seeds policies, as JSON data."""

    def __init__(self, arms: int, seeds: int) -> None:
        self._shape = (arms, seeds)
        self.steps: list[int] = []
        self.metrics: dict[str, list[list[list[float | None]]]] = {}

    def add(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        """Appends an evaluation; every metric has one entry a policy."""
        self.steps.append(step)
        for name, values in metrics.items():
            rows = values.double().reshape(self._shape).tolist()
            self.metrics.setdefault(name, []).append([[_number(v) for v in row] for row in rows])


def _number(value: float) -> float | None:
    """Seven digits; ``None`` for what JSON has no number for."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
