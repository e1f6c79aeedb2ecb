"""Metrics of one row's item in a policy's list: hit rate, NDCG, and the quality of what is hit."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.evaluation.ranking.scores import CatalogueScores
from torchrl_drpo.functional.checks import check_same_shape


def hit_rate(scores: CatalogueScores, k: int) -> Tensor:
    """HR@k of each row: the chance that its item stands among the first ``k``, float64 ``[N]``."""
    _check_k(k)
    return ((k - scores.better).double() / scores.tied).clamp(0.0, 1.0)


def ndcg(scores: CatalogueScores, k: int) -> Tensor:
    r"""NDCG@k of each row with its one relevant item, float64 ``[N]`` in [0, 1].

    :math:`1 / \log_2(1 + \text{rank})` for ranks up to ``k``, else 0; averaged over the places
    that tied items share.

    Example:
        >>> second = CatalogueScores(torch.zeros(1), torch.tensor([1]), torch.tensor([1]))
        >>> ndcg(second, 10)  # 1 / log2(3)
        tensor([0.6309], dtype=torch.float64)
    """
    _check_k(k)
    place = torch.arange(1, k + 1, dtype=torch.float64, device=scores.better.device)
    gain = torch.cat([place.new_zeros(1), (1 / torch.log2(1 + place)).cumsum(0)])
    first, last = scores.better.clamp(max=k), (scores.better + scores.tied).clamp(max=k)
    return (gain[last] - gain[first]) / scores.tied


def reciprocal_rank(scores: CatalogueScores) -> Tensor:
    """1 / rank of each row's item, averaged over the places that tied items share, float64 ``[N]``.

    Example:
        >>> second = CatalogueScores(torch.zeros(1), torch.tensor([1]), torch.tensor([1]))
        >>> reciprocal_rank(second)
        tensor([0.5000], dtype=torch.float64)
    """
    first = scores.better.double() + 1
    return (torch.digamma(first + scores.tied) - torch.digamma(first)) / scores.tied


def top_k_quality(scores: CatalogueScores, quality: Tensor, k: int) -> Tensor:
    """Mean quality of those logged rows whose item the policy ranks among its first ``k``.

    What a user would have felt about the policy's choices, as far as the log can tell. A random
    ranking gets the log's mean quality.

    Args:
        scores: the rows' scores.
        quality: the rows' quality, shape ``[N]``.
        k: length of the policy's list.

    Returns:
        Float64 scalar; NaN where no logged item reaches the first ``k``.
    """
    check_same_shape(quality=quality, log_prob=scores.log_prob)
    hit = hit_rate(scores, k)
    return (hit * quality).sum() / hit.sum()


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
