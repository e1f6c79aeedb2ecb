"""Differences of two estimates on the same rows: what both share cancels, and with it variance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.estimate import Estimate
from torchrl_drpo.evaluation.off_policy.intervals import (
    skewed_interval,
    skewed_p_value,
    standard_error,
)
from torchrl_drpo.evaluation.off_policy.rows import LoggedRows
from torchrl_drpo.evaluation.statistics import holm


@dataclass(frozen=True)
class Difference:
    """How much better one policy is than another, paired by row.

    Attributes:
        value: the difference of the two estimates.
        standard_error: of the difference itself, below that of two separate estimates.
        low: lower end of its interval.
        high: upper end.
        p_value: two-sided, of no difference, by the interval; NaN where none is known.
    """

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return f"{self.value:+.4g} [{self.low:+.4g}, {self.high:+.4g}]"


def difference(better: Estimate, worse: Estimate, *, confidence: float = 0.95) -> Difference:
    """``better`` minus ``worse``, both made of the same rows in the same order.

    Raises:
        ValueError: for estimates of other rows, or one that has no standard error.

    Example:
        >>> from torchrl_drpo.evaluation.off_policy.estimators import ips, snips
        >>> half = torch.full((400,), 0.5).log()
        >>> rows = LoggedRows(torch.tensor([0.0, 1.0]).repeat(200), half, half)
        >>> print(difference(ips(rows), snips(rows)))
        +0 [+0, +0]
    """
    if better.influence is None or worse.influence is None:
        raise ValueError("the direct method has no standard error, and nor has a difference to it")
    if len(better.influence) != len(worse.influence):
        raise ValueError(
            f"estimates of {len(better.influence)} and {len(worse.influence)} rows; a paired "
            "difference needs the same rows"
        )
    if not _same(better.cluster, worse.cluster):
        raise ValueError(
            "the estimates have other clusters (users, sessions), so they are of other rows, or of "
            "rows in another order; a paired difference needs the same rows"
        )
    apart = better.influence - worse.influence
    error = standard_error(apart, better.cluster)
    value = better.value - worse.value
    low, high = skewed_interval(value, apart, better.cluster, confidence)
    return Difference(value, error, low, high, skewed_p_value(value, apart, better.cluster))


def logging_value(rows: LoggedRows, *, confidence: float = 0.95) -> Estimate:
    """The logging policy's own value, the mean reward: what a candidate is compared with."""
    from torchrl_drpo.evaluation.off_policy.estimators import ips

    own = LoggedRows(
        rows.reward,
        rows.log_behavior,
        rows.log_behavior,
        cluster=rows.cluster,
        density=rows.density,
    )
    found = ips(own, confidence=confidence)
    return Estimate(**{**vars(found), "name": "logging policy"})


def against(
    candidates: Mapping[str, Estimate], reference: Estimate, *, confidence: float = 0.95
) -> dict[str, Difference]:
    """Every candidate minus the reference; p values corrected for their number (Holm 1979)."""
    found = {
        name: difference(each, reference, confidence=confidence)
        for name, each in candidates.items()
    }
    corrected = holm({name: each.p_value for name, each in found.items()})
    return {
        name: Difference(**{**vars(each), "p_value": corrected[name]})
        for name, each in found.items()
    }


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)
