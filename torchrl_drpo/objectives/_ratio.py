"""Which probability ratio a rule reads: that of the whole action, or the mean of its choices'."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from torchrl_drpo.objectives._remoteness import choices_in
from torchrl_drpo.objectives._weighting import Scored

RatioKind = Literal["product", "geometric_mean"]


def check_ratio_kind(kind: str) -> None:
    """Raises ``ValueError`` for an unknown kind."""
    if kind not in ("product", "geometric_mean"):
        raise ValueError(f"ratio must be 'product' or 'geometric_mean', got {kind!r}")


def ratio_exponent(kind: RatioKind, scored: Scored) -> Tensor | int:
    r"""The T in :math:`(\pi/\pi_{old})^{1/T}`: 1, or how many choices each scored action is.

    A product of T ratios leaves any fixed clip range as T grows, the geometric mean does not. Its
    logarithm is log pi / T, so a rule is given that in place of log pi.

    Source: Zheng et al. 2025, "Group Sequence Policy Optimization" (arXiv 2507.18071).
    """
    if kind == "product":
        return 1
    dist, log_prob = scored.dist, scored.log_prob
    return choices_in(dist, log_prob, scored.batch, scored.mask, scored.action)
