"""Every number of the offline table for one policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from torchrl_drpo.evaluation.contexts import (
    bounded_lift,
    check_least,
    context_groups,
    within_contexts,
)
from torchrl_drpo.evaluation.ranking.gauc import RankedGroups
from torchrl_drpo.evaluation.ranking.metrics import (
    hit_rate,
    ndcg,
    reciprocal_rank,
    top_k_quality,
)
from torchrl_drpo.evaluation.ranking.scores import CatalogueScores
from torchrl_drpo.functional.checks import check_finite, check_same_shape

#: Length of the lists whose hits' quality is told.
QUALITY_LIST = 100


def ranking_metrics(
    scores: CatalogueScores,
    quality: Tensor,
    user: Tensor,
    *,
    labels: Mapping[str, Tensor] | None = None,
    context: Tensor | None = None,
    ks: Sequence[int] = (10, 50),
    top: int = QUALITY_LIST,
    best: float = 0.75,
    worst: float = 0.25,
    good: float = 0.5,
    least_worst_hits: float = 0.0,
) -> dict[str, float]:
    """Every number of the offline table, for one policy on one set of held-out rows.

    Args:
        scores: the policy's scores of the held-out rows.
        quality: their quality, a percentile in [0, 1] (or any number, with bounds that suit it),
            shape ``[N]``.
        user: their users' ids, int64 ``[N]``.
        labels: further 0/1 feedback by name (``long_view``, ``click``), each ``[N]``; one
            ``gauc_<name>`` each.
        context: what each choice was made in, any integers, shape ``[N]`` or (a column each for
            tab, country, ...) ``[N, C]``.
        ks: list lengths for hit rate and NDCG.
        top: list length for ``top<k>_quality``.
        best: rows with ``quality >= best`` are the best ones.
        worst: rows with ``quality <= worst`` are the worst ones.
        good: ``gauc_quality`` takes ``quality >= good`` for its positives. At the default, a
            percentile, those are the plays above the median of their duration bucket.
        least_worst_hits: so many worst rows at least count as hit in a lift, whichever they are.
            With 0 a lift over no worst hit is infinite, which says that the rows are too few to
            tell its size. What compares policies by it takes 1: over fewer hits a lift is then
            what one hit would make it, so that it is finite and beats none for want of rows; over
            one hit or more it is the same number.

    Returns:
        ``hr@k`` (which is recall: a row has one item), ``hr@k_best``, ``hr@k_worst``, ``lift@k``
        (the ratio of these two), the same for ``ndcg`` without lift, ``mrr`` of all rows,
        ``top<k>_quality``, and the GAUCs. With ``context`` also ``lift@k_within``,
        the lift at one mix of contexts, and ``hr@k_best_lowest``, the lowest ``hr@k_best`` of a
        context, with ``hr@k_best_lowest_rows``, the number of best rows behind it; see
        :func:`~torchrl_drpo.evaluation.contexts.within_contexts`. And ``gauc_quality_within``, the
        same as ``gauc_quality`` among rows of one user in one context: where most rows of a
        context are poor, scoring all of them low raises ``gauc_quality``, which compares rows of
        several contexts, without telling good from bad in any; ``gauc_best_worst_within`` orders
        the best against the worst rows there, without those between. NaN marks what the
        rows cannot answer (no best row, no user with both classes, no context with both best and
        worst rows, none with 100 best ones, no hit for a lift); a lift over no worst hit is
        infinite. With ``least_worst_hits`` also ``lift@k_worst_hits`` and ``lift@k_worst_rows``
        (and of the lift within contexts ``lift@k_within_worst_hits`` and ``_rows``): how many worst
        rows were hit, in expectation, and how many there are.

    Raises:
        ValueError: if shapes differ, quality is not finite, ``worst >= best``, the context does
            not hold integers, or ``least_worst_hits`` lies below 0.

    Example:
        Three of the four best rows are hit, and neither of the two worst.

        >>> import torch
        >>> better = torch.tensor([0, 0, 0, 5, 5, 5])
        >>> scores = CatalogueScores(torch.zeros(6), better, torch.ones(6).long())
        >>> rows = (scores, torch.tensor([1.0, 1, 1, 1, 0, 0]), torch.arange(6))
        >>> found = ranking_metrics(*rows, ks=(1,))
        >>> found["hr@1_best"], found["hr@1_worst"], found["lift@1"]
        (0.75, 0.0, inf)
        >>> ranking_metrics(*rows, ks=(1,), least_worst_hits=1)["lift@1"]  # .75 over a half
        1.5
    """
    check_same_shape(quality=quality, user=user, log_prob=scores.log_prob)
    check_finite("quality", quality)
    if not worst < best:
        raise ValueError(f"worst must lie below best, got worst={worst} and best={best}")
    check_least(least_worst_hits)
    is_best, is_worst = quality >= best, quality <= worst
    worst_rows = is_worst.sum()
    group = None if context is None else context_groups(context, len(quality))
    out: dict[str, Tensor] = {}
    for k in ks:
        hit, gain = hit_rate(scores, k), ndcg(scores, k)
        out[f"hr@{k}"] = hit.mean()
        out[f"hr@{k}_best"] = hit[is_best].mean()
        out[f"hr@{k}_worst"] = hit[is_worst].mean()
        worst_hits, rates = hit[is_worst].sum(), (out[f"hr@{k}_best"], out[f"hr@{k}_worst"])
        of_one_hit = 1 / worst_rows.double()
        out[f"lift@{k}"] = bounded_lift(*rates, worst_hits, of_one_hit, least_worst_hits)
        if least_worst_hits:
            out |= {f"lift@{k}_worst_hits": worst_hits, f"lift@{k}_worst_rows": worst_rows}
        if group is not None:
            compared = within_contexts(
                hit, is_best, is_worst, group, least_worst_hits=least_worst_hits
            )
            out[f"lift@{k}_within"] = compared.lift
            if least_worst_hits:
                out[f"lift@{k}_within_worst_hits"] = compared.worst_hits
                out[f"lift@{k}_within_worst_rows"] = compared.worst_rows
            out[f"hr@{k}_best_lowest"] = compared.best_lowest
            out[f"hr@{k}_best_lowest_rows"] = compared.best_lowest_rows
        out[f"ndcg@{k}"] = gain.mean()
        out[f"ndcg@{k}_best"] = gain[is_best].mean()
        out[f"ndcg@{k}_worst"] = gain[is_worst].mean()
    out["mrr"] = reciprocal_rank(scores).mean()
    out[f"top{top}_quality"] = top_k_quality(scores, quality, top)
    ranked, is_good = RankedGroups(scores.log_prob, user), quality >= good
    out["gauc_quality"] = ranked.auc(is_good).value
    if group is not None:
        within = ranked.within(group)
        out["gauc_quality_within"] = within.auc(is_good).value
        out["gauc_best_worst_within"] = within.auc(is_best, is_best | is_worst).value
    out |= {f"gauc_{name}": ranked.auc(label).value for name, label in (labels or {}).items()}
    return {name: value.item() for name, value in out.items()}
