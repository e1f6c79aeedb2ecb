r"""Ranking metrics as they would be had the logger shown every item alike.

A log tells what was liked of what was shown, and what was shown is somebody's policy: hit rates
praise whoever shows the same. With rows weighted by :math:`1 / \pi_b(a|x)`, each item counts as
often as if items had been drawn uniformly. Self-normalised, so that propensities matter up to a
common factor only.

Source: Schnabel et al. 2016, "Recommendations as treatments", section 3; Yang et al. 2018,
"Unbiased offline recommender evaluation for missing-not-at-random implicit feedback".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchrl_drpo.evaluation.ranking.metrics import hit_rate, ndcg, reciprocal_rank
from torchrl_drpo.evaluation.ranking.scores import CatalogueScores
from torchrl_drpo.functional.checks import check_finite, check_same_shape


def uniform_log_weights(log_propensity: Tensor, num_items: int) -> Tensor:
    r"""Logarithm of :math:`1 / (V \pi_b(a|x))`, whose exponentials average to 1 over the log.

    That of the uniform policy: diagnose them as such.

    Args:
        log_propensity: :math:`\log \pi_b(a|x)` of the logged actions, ``[N]``.
        num_items: V.

    Example:
        >>> uniform_log_weights(torch.tensor([0.5, 0.125]).log(), 4).exp()
        tensor([0.5000, 2.0000])
    """
    return -log_propensity - torch.tensor(float(num_items)).log()


def weighted_metrics(
    scores: CatalogueScores,
    quality: Tensor,
    log_weight: Tensor,
    *,
    ks: Sequence[int] = (10, 50),
    top: int = 100,
    best: float = 0.75,
    worst: float = 0.25,
) -> dict[str, float]:
    """Hit rates, NDCG, lift and top quality with weighted rows.

    Args:
        scores: of the rows.
        quality: ``[N]``.
        log_weight: logarithm of each row's weight, up to a constant, ``[N]``.
        ks: list lengths.
        top: list length of ``top<k>_quality``.
        best: rows with ``quality >= best`` are the best ones.
        worst: rows with ``quality <= worst`` are the worst ones.

    Returns:
        Those of :func:`~torchrl_drpo.evaluation.ranking.ranking_metrics` that are means over rows;
        NaN where no row is asked about.

    Raises:
        ValueError: if shapes differ, or a weight is not finite.

    Example:
        Item 0 was shown nine times as often as item 1, and hit; with weights each counts once.

        >>> one, above = torch.ones(10).long(), torch.tensor([0] * 9 + [1])
        >>> scores = CatalogueScores(torch.zeros(10), above, one)
        >>> log_weight = -torch.tensor([0.9] * 9 + [0.1]).log()
        >>> round(weighted_metrics(scores, torch.ones(10), log_weight, ks=(1,))["hr@1"], 6)
        0.5
    """
    check_same_shape(quality=quality, log_weight=log_weight, log_prob=scores.log_prob)
    check_finite("log_weight", log_weight)
    weight = (log_weight.double() - log_weight.double().max()).exp()
    is_best, is_worst = weight * (quality >= best), weight * (quality <= worst)
    out: dict[str, Tensor] = {}
    for k in ks:
        hit, gain = hit_rate(scores, k), ndcg(scores, k)
        out[f"hr@{k}"] = _mean(hit, weight)
        out[f"hr@{k}_best"] = _mean(hit, is_best)
        out[f"hr@{k}_worst"] = _mean(hit, is_worst)
        out[f"lift@{k}"] = out[f"hr@{k}_best"] / out[f"hr@{k}_worst"]
        out[f"ndcg@{k}"] = _mean(gain, weight)
        out[f"ndcg@{k}_best"] = _mean(gain, is_best)
        out[f"ndcg@{k}_worst"] = _mean(gain, is_worst)
    out["mrr"] = _mean(reciprocal_rank(scores), weight)
    out[f"top{top}_quality"] = _mean(quality.double(), weight * hit_rate(scores, top))
    return {name: value.item() for name, value in out.items()}


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum()
