r"""Whether fitted propensities are right on the whole: what was logged against what was predicted.

If the model is the logging policy, the logged action is one more draw of it, and the propensities
of logged actions are spread as those of its own draws are. Tenths of the draws, by propensity, are
then tenths of the log: where a bin holds 15% of the draws' probability and 10% of the log, its
propensities are half as large again as they should be. Every draw of every row is one (row, action)
pair, taken in proportion to its predicted probability, so that this is the comparison of observed
with predicted frequencies over all N V pairs, without making them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    r"""Observed against predicted, by bins of propensity with about equal predicted shares.

    Attributes:
        log_propensity: mean of the predicted logarithms in each bin, ascending.
        predicted: share of the model's probability in each bin.
        observed: share of the logged actions in it.
        error: expected calibration error, half of :math:`\sum_b |observed_b - predicted_b|`, in
            [0, 1]: the share of the rows that lie in the wrong bin.
        error_by_chance: what it would be on average if the model were the logging policy.
    """

    log_propensity: tuple[float, ...]
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    error: float
    error_by_chance: float

    @property
    def excess(self) -> tuple[float, ...]:
        """By which factor each bin's propensities are too large, predicted over observed."""
        pairs = zip(self.predicted, self.observed, strict=True)
        return tuple(p / o if o else math.inf for p, o in pairs)

    def __str__(self) -> str:
        return (
            f"{self.error:.1%} of the rows lie in the wrong tenth of propensity "
            f"({self.error_by_chance:.1%} would by chance)"
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def calibrate(logged: Tensor, drawn: Tensor, bins: int = 10) -> Calibration:
    """Compares log-propensities of logged actions with those of the model's draws.

    Args:
        logged: log-probability of the logged action under a model that has not seen it, ``[N]``.
        drawn: log-probabilities of draws of that model at the same rows, ``[k, N]``.
        bins: at most so many; propensities that are all alike fit into one.

    Example:
        >>> half = torch.full((100,), 0.5).log()
        >>> calibrate(half, half.repeat(2, 1)).observed
        (1.0,)
    """
    logged, drawn = logged.double().reshape(-1), drawn.double().reshape(-1, logged.numel())
    drawn = drawn.contiguous()
    ordered = drawn.flatten().sort().values
    places = (torch.arange(1, bins) * len(ordered)) // bins
    # Propensities that differ by rounding are one: a bin ends above its last value.
    edges = torch.unique(ordered[places] + 1e-6)
    edges = edges[edges < ordered[-1]]
    of_drawn, of_logged = torch.bucketize(drawn, edges), torch.bucketize(logged, edges)
    count = len(edges) + 1
    predicted = torch.bincount(of_drawn.flatten(), minlength=count).double() / drawn.numel()
    observed = torch.bincount(of_logged, minlength=count).double() / len(logged)
    mean = torch.zeros_like(predicted).index_add_(0, of_drawn.flatten(), drawn.flatten())
    spread = (_variance_of_a_row(of_drawn, count) * (1 + 1 / len(drawn)) / len(logged)).sqrt()
    return Calibration(
        tuple((mean / predicted / drawn.numel()).tolist()),
        tuple(predicted.tolist()),
        tuple(observed.tolist()),
        (observed - predicted).abs().sum().item() / 2,
        math.sqrt(2 / math.pi) * spread.sum().item() / 2,
    )


def _variance_of_a_row(of_drawn: Tensor, bins: int) -> Tensor:
    """Of "lies in bin b", between draws at one row and averaged over the rows, ``[bins]``.

    Rows whose state alone decides the bin have none: there chance cannot move the error either.
    One draw a row says nothing of that, and all spread is then taken for chance.
    """
    draws = len(of_drawn)
    share = torch.stack([(of_drawn == each).double().mean(0) for each in range(bins)])
    if draws == 1:
        share = share.mean(1, keepdim=True)
    return (share * (1 - share)).mean(1) * draws / max(1, draws - 1)
