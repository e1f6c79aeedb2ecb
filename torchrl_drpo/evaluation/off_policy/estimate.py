"""An estimate of a policy's value: the number, its interval, and what it rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from torchrl_drpo.evaluation.off_policy.diagnostics import Diagnostics, Verdict
from torchrl_drpo.evaluation.off_policy.intervals import (
    cluster_sums,
    gamma_interval,
    skewed_interval,
    standard_error,
)

Kind = Literal["hall", "gamma", "none"]
#: Fewer effective events than this, and the normal interval of a sum of clicks is too narrow.
FEW_EVENTS = 200.0
#: Where a greater share of the rows (or clusters) has an event, events are not rare: what bounds
#: their spread is then the number of rows, and a Poisson count would be far too wide.
RARE = 0.2


@dataclass(frozen=True)
class Estimate:
    """The value of a policy, estimated from rows that another one logged.

    Attributes:
        name: the estimator.
        value: the estimate, in units of the reward.
        standard_error: of it; NaN where none is known (the direct method).
        low: lower end of the interval.
        high: upper end.
        confidence: its nominal coverage.
        interval: how it was made.
        diagnostics: what the estimate rests on.
        influence: each row's deviation, ``[N]`` with mean zero, by which estimates on the same rows
            are compared; ``None`` where none is known.
        cluster: ids of what varies as a whole, ``[N]``.
    """

    name: str
    value: float
    standard_error: float
    low: float
    high: float
    confidence: float
    interval: Kind
    diagnostics: Diagnostics
    influence: Tensor | None = field(default=None, repr=False, compare=False)
    cluster: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def verdict(self) -> Verdict:
        """Whether the number means anything."""
        return self.diagnostics.verdict

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.4g} ({self.verdict})"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] ({self.verdict})"

    def to_json(self) -> dict[str, Any]:
        """As strict JSON data; what is not a finite number is ``None``."""
        numbers = {
            name: value if math.isfinite(value) else None
            for name in ("value", "standard_error", "low", "high")
            for value in [getattr(self, name)]
        }
        return {
            "estimator": self.name,
            **numbers,
            "confidence": self.confidence,
            "interval": self.interval,
            **self.diagnostics.to_json(),
        }


def estimate_of(
    name: str,
    value: float,
    influence: Tensor,
    diagnostics: Diagnostics,
    *,
    cluster: Tensor | None = None,
    confidence: float = 0.95,
) -> Estimate:
    """An estimate with the interval that its rows' skewness bends, over clusters where given."""
    low, high = skewed_interval(value, influence, cluster, confidence)
    return Estimate(
        name,
        value,
        standard_error(influence, cluster),
        low,
        high,
        confidence,
        "hall",
        diagnostics,
        influence,
        cluster,
    )


def with_gamma_interval(estimate: Estimate, events: Tensor, largest: float) -> Estimate:
    """The same with the interval for rare events, where events are few and rare.

    Args:
        estimate: a mean of ``events``.
        events: weighted rewards of the rows, at least 0, ``[N]``.
        largest: the most that a row could add.
    """
    units = cluster_sums(events, estimate.cluster)
    total, squares = units.sum().item(), units.square().sum().item()
    many = squares > 0 and total * total / squares >= FEW_EVENTS
    if many or (units > 0).double().mean().item() > RARE:
        return estimate
    low, high = gamma_interval(units, largest, len(events), estimate.confidence)
    changes = {"low": low, "high": high, "interval": "gamma"}
    return Estimate(**{**vars(estimate), **changes})
