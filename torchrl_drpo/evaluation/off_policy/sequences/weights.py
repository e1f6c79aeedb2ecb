"""What becomes of products of importance weights: of their logarithms, ``[S, T]`` or ``[S]``."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from torchrl_drpo.evaluation.off_policy.diagnostics import Diagnostics, diagnose

#: Above this logarithm the square of a weight, which a standard error needs, nears float64's end.
_LARGEST = 300.0


def plain_weights(log_weight: Tensor) -> Tensor:
    """The weights themselves.

    Raises:
        ValueError: for a weight beyond e^300, of which no estimate has a standard error.

    Example:
        >>> plain_weights(torch.tensor([[0.0, -torch.inf]]))
        tensor([[1., 0.]])
    """
    top = log_weight.max().item()
    if top > _LARGEST:
        row = int((log_weight == top).nonzero()[0, 0])
        raise ValueError(
            f"the weight of row {row} is e^{top:.0f}: the policy does what the logging policy all "
            "but never did, and an unweighted estimate would be that row; compare policies over "
            "the first steps alone, or take a weighted form, and mind its verdict"
        )
    return log_weight.exp()


def ratio_of_means(log_weight: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\sum_s w_s x_s / \sum_s w_s` of each column, and what each row adds to it.

    Weights are scaled by their column's largest, so that none overflows.

    Args:
        log_weight: ``[S, T]``, at least one of each column above ``-inf``.
        values: x, ``[S, T]``.

    Returns:
        The ratios ``[T]``, and their linearisation :math:`w (x - v) / \bar w`, ``[S, T]``, each
        column with mean zero.

    Example:
        >>> weight = torch.tensor([[1.0], [3.0]]).double()
        >>> ratio_of_means(weight.log() + 2000.0, torch.tensor([[0.0], [1.0]]).double())[0]
        tensor([0.7500], dtype=torch.float64)
    """
    weight = (log_weight - log_weight.max(0).values).exp()
    ratio = (weight * values).sum(0) / weight.sum(0)
    return ratio, weight * (values - ratio) / weight.mean(0)


def diagnose_products(
    log_weight: Tensor, cluster: Tensor | None = None, *, unit: str = "session"
) -> Diagnostics:
    """What weights of whole sessions or slates say, ``[S]``, however large they are.

    Raises:
        ValueError: if every weight is 0.
    """
    if not log_weight.max() > -torch.inf:
        raise ValueError(
            f"none of the {len(log_weight)} logged sessions or slates is one that the policy would "
            "go through to its end: there is no overlap, and nothing can be said of its value; ask "
            "of the first steps alone"
        )
    beyond = log_weight.max().item() - _LARGEST
    if beyond <= 0:
        return diagnose(log_weight.exp(), cluster=cluster, unit=unit)
    scaled = diagnose((log_weight - beyond).exp(), cluster=cluster, unit=unit)
    return replace(scaled, mean_weight=math.inf, mean_weight_error=math.inf)
