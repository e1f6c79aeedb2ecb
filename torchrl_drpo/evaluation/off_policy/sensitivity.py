r"""How far an estimate could move if the propensities are wrong by a factor.

Propensities that were fitted are wrong by an unknown amount. Where every weight may be off by any
factor :math:`g_i \in [1/G, G]` of its own, an estimate lies between two bounds, and a comparison
that holds at G = 1.5 survives propensities that are half as large again as fitted, or two thirds.
The bounds are those of the rows at hand; sampling error comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.rows import LoggedRows


@dataclass(frozen=True)
class WeightBounds:
    """Where an estimate lies if each weight is wrong by a factor of at most ``factor``.

    Attributes:
        low: the least value.
        high: the largest.
        factor: G, at least 1.
        estimator: which estimate.
    """

    low: float
    high: float
    factor: float
    estimator: str

    def __str__(self) -> str:
        return f"[{self.low:.4g}, {self.high:.4g}] for weights within a factor of {self.factor:g}"


def weight_bounds(
    rows: LoggedRows,
    factor: float,
    *,
    estimator: Literal["IPS", "SNIPS", "DR", "SNDR"] = "SNIPS",
) -> WeightBounds:
    r"""The extreme values of an estimate over all factors :math:`g \in [1/G, G]^N`, exactly.

    For IPS and DR each term takes its own worst factor. For SNIPS, :math:`\sum g w r / \sum g w` is
    a linear-fractional function: at its maximum all rewards above a threshold have G and all below
    1/G, so the N + 1 thresholds are all there is to try (Charnes and Cooper 1962; as in the
    sensitivity model of Zhao, Small and Bhattacharya 2019). SNDR adds that of the residuals to the
    model's value.

    Args:
        rows: with ``prediction`` and ``value`` for DR and SNDR.
        factor: G, at least 1.
        estimator: which.

    Raises:
        ValueError: for a factor below 1, an unknown estimator, or no overlap.

    Example:
        >>> half = torch.full((2,), 0.5).log()
        >>> rows = LoggedRows(torch.tensor([0.0, 1.0]), half, half)
        >>> print(weight_bounds(rows, 2.0))
        [0.2, 0.8] for weights within a factor of 2
    """
    if not 1 <= factor < torch.inf:
        raise ValueError(f"factor must be a finite number of at least 1, got {factor}")
    if estimator not in ("IPS", "SNIPS", "DR", "SNDR"):
        raise ValueError(f"no bounds for {estimator!r}; there are IPS, SNIPS, DR and SNDR")
    doubly = estimator in ("DR", "SNDR")
    reward = rows.residual() if doubly else rows.reward
    base = rows.need("value", "V^ under the policy").mean().item() if doubly else 0.0
    if not (rows.log_ratio > -torch.inf).any():
        raise ValueError("the policy takes none of the logged actions: there is nothing to bound")
    if estimator in ("IPS", "DR"):
        weight = rows.log_ratio.exp()
        if not weight.isfinite().all():
            row = int(weight.argmax())
            raise ValueError(
                f"the weight of row {row} is e^{rows.log_ratio[row].item():.0f}, which no float "
                "holds; ask for the bounds of SNIPS or SNDR, which are of ratios"
            )
        terms = weight * reward
        both = torch.stack([terms * factor, terms / factor])
        low, high = both.amin(0).mean().item(), both.amax(0).mean().item()
    else:
        weight = (rows.log_ratio - rows.log_ratio.max()).exp()
        high = _largest_ratio(weight, reward, factor)
        low = -_largest_ratio(weight, -reward, factor)
    return WeightBounds(base + low, base + high, factor, estimator)


def _largest_ratio(weight: Tensor, reward: Tensor, factor: float) -> float:
    """The largest sum(g w r) / sum(g w); prefixes of the rewards, best first, have the factor."""
    best, order = reward.sort(descending=True)
    w = weight[order]
    # Rows in front of the threshold weigh G^2 times as much as those behind: the scale cancels.
    gain = factor * factor - 1
    zero = w.new_zeros(1)
    mass = w.sum() + gain * torch.cat([zero, w.cumsum(0)])
    total = (w * best).sum() + gain * torch.cat([zero, (w * best).cumsum(0)])
    return (total / mass).max().item()
