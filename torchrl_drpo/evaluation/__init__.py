"""What a policy is worth: ranking and simulator metrics, and statistics over seeds."""

from torchrl_drpo.evaluation.contexts import WithinContexts, within_contexts
from torchrl_drpo.evaluation.quality_bounds import QualityBounds
from torchrl_drpo.evaluation.ranking import (
    CatalogueScores,
    GroupedAUC,
    catalogue_scores,
    grouped_auc,
    hit_rate,
    ndcg,
    ranking_metrics,
    scores_from_logits,
    static_scores,
    top_k_quality,
)
from torchrl_drpo.evaluation.simulator import (
    action_distance,
    evaluate_policy,
    oracle_reward,
    random_reward,
    raw_reward,
    retrieved_reward,
)
from torchrl_drpo.evaluation.statistics import (
    Interval,
    corrected_p_values,
    holm,
    late_window,
    mean_interval,
    paired_interval,
    paired_p_value,
    student_t_quantile,
)

__all__ = [
    "CatalogueScores",
    "GroupedAUC",
    "Interval",
    "QualityBounds",
    "WithinContexts",
    "action_distance",
    "catalogue_scores",
    "corrected_p_values",
    "evaluate_policy",
    "grouped_auc",
    "hit_rate",
    "holm",
    "late_window",
    "mean_interval",
    "ndcg",
    "oracle_reward",
    "paired_interval",
    "paired_p_value",
    "random_reward",
    "ranking_metrics",
    "raw_reward",
    "retrieved_reward",
    "scores_from_logits",
    "static_scores",
    "student_t_quantile",
    "top_k_quality",
    "within_contexts",
]
