"""What a catalogue policy ranks high: hit rates asked about *quality*, and per-user AUC.

Plain hit rate on a log rewards whoever imitates the logging policy, poor rows included. So the
questions here are asked of the good and of the poor rows apart: a policy should rank what people
liked high (:attr:`best`), what they skipped low (:attr:`worst`), and the ratio of the two hit
rates is its *lift*. No single one of them is the answer: a policy that has lost the good items
too can show a splendid lift, so hit rate on the best rows stands beside it in every table, and
lift within contexts (:mod:`~torchrl_drpo.evaluation.contexts`) where rows have contexts.

Ties are broken at random and the metrics are the exact expectation over that draw, so a policy
with all-equal scores gets precisely what random ranking gets (``k / V``), not rank one.
"""

from torchrl_drpo.evaluation.ranking.buckets import Bucket, frequency_buckets
from torchrl_drpo.evaluation.ranking.by_user import jackknife, without_groups
from torchrl_drpo.evaluation.ranking.gauc import GroupedAUC, RankedGroups, grouped_auc
from torchrl_drpo.evaluation.ranking.metrics import hit_rate, ndcg, top_k_quality
from torchrl_drpo.evaluation.ranking.scores import (
    LOGITS_AT_A_TIME,
    CatalogueScores,
    catalogue_scores,
    scores_from_logits,
    searched_scores,
    static_scores,
)
from torchrl_drpo.evaluation.ranking.table import QUALITY_LIST, ranking_metrics
from torchrl_drpo.evaluation.ranking.weighted import uniform_log_weights, weighted_metrics

__all__ = [
    "LOGITS_AT_A_TIME",
    "QUALITY_LIST",
    "Bucket",
    "CatalogueScores",
    "GroupedAUC",
    "RankedGroups",
    "catalogue_scores",
    "frequency_buckets",
    "grouped_auc",
    "hit_rate",
    "jackknife",
    "ndcg",
    "ranking_metrics",
    "scores_from_logits",
    "searched_scores",
    "static_scores",
    "top_k_quality",
    "uniform_log_weights",
    "weighted_metrics",
    "without_groups",
]
