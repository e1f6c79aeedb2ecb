r"""The tapered signed loss in ATen: the op's specification and CPU path.

    x      = max(0, (D - threshold) / scale)
    taper  = exp(-strength x)  |  1 / (1 + strength x^(order/2))  |  1[D <= threshold]
    weight = A              where A >= 0
             alpha taper A  where A < 0
    loss   = -weight log_prob           slope = d loss / d log_prob = -weight

Strength 0 gives taper 1 whatever D is. A weight of 0 gives loss 0 even where log_prob is -inf:
a sample that is tapered away entirely takes no part.

Source: the family J_w = E[A+ log pi - sg[w(D)] A- log pi] of "Dynamic Remoteness-Aware Policy
Optimization" (2026), the rewrite of arXiv 2602.10430.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TAPERS = ("exponential", "reciprocal", "cutoff")


class Taper(NamedTuple):
    """The plain numbers of a taper; ``kind`` is one of ``TAPERS``."""

    kind: str
    strength: float
    threshold: float
    scale: float
    order: float
    negative_scale: float


def signed_taper(
    log_prob: Tensor,
    advantage: Tensor,
    remoteness: Tensor,
    thresholds: Tensor | None,
    taper: Taper,
) -> tuple[Tensor, Tensor]:
    """Returns ``loss`` and ``slope`` of each row, in the accumulation dtype.

    ``thresholds`` holds one threshold a row and takes the place of ``taper.threshold``.
    """
    dtype = torch.promote_types(log_prob.dtype, torch.float32)
    distance, advantage = remoteness.to(dtype), advantage.to(dtype)
    threshold = taper.threshold if thresholds is None else thresholds.to(dtype)
    factor = _factor(distance, threshold, taper) * taper.negative_scale
    weight = torch.where(advantage < 0, advantage * factor, advantage)
    return torch.where(weight == 0, 0.0, -weight * log_prob.to(dtype)), -weight


def _factor(distance: Tensor, threshold: Tensor | float, taper: Taper) -> Tensor:
    if taper.kind == "cutoff":
        within = (distance <= threshold).to(distance.dtype)
        return torch.where(distance.isnan(), distance, within)
    if taper.strength == 0:
        return torch.ones_like(distance)
    excess = ((distance - threshold) / taper.scale).clamp_min(0.0)
    if taper.kind == "exponential":
        return torch.exp(-taper.strength * excess)
    return 1.0 / (1.0 + taper.strength * excess.pow(taper.order / 2))
