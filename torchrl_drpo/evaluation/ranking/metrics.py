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

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.evaluation.contexts import context_groups, within_contexts
from torchrl_drpo.functional.checks import check_finite, check_same_shape

#: Logits held at one time while a catalogue is scored (64 MiB of float32).
LOGITS_AT_A_TIME = 2**24


class CatalogueScores(NamedTuple):
    """How a policy scores the logged item of each row, against the whole catalogue.

    Attributes:
        log_prob: log-probability of the logged item, in nats, shape ``[N]``.
        better: number of items scored strictly above it, in ``[0, V)``, int64 ``[N]``.
        tied: number of items with its very score, itself included, in ``[1, V]``, int64 ``[N]``.
    """

    log_prob: Tensor
    better: Tensor
    tied: Tensor

    def mean_rank(self) -> Tensor:
        """Expected one-based rank of the logged item, float64 ``[N]`` in ``[1, V]``."""
        return self.better.double() + (self.tied.double() + 1) / 2


class GroupedAUC(NamedTuple):
    """A row-weighted average of per-group AUCs, and how much data stood behind it.

    Attributes:
        value: the average, float64 scalar in [0, 1]; NaN where no group holds both classes.
        groups: number of groups with both classes, int64 scalar.
        rows: number of rows in those groups, int64 scalar.
    """

    value: Tensor
    groups: Tensor
    rows: Tensor


def scores_from_logits(logits: Tensor, target: Tensor) -> CatalogueScores:
    """Ranks the target of each row among all columns of ``logits``.

    Args:
        logits: scores of every item, normalised or not, shape ``[N, V]``.
        target: the logged item of each row, int64 in ``[0, V)``, shape ``[N]``.

    Returns:
        The :class:`CatalogueScores` of the targets.

    Raises:
        ValueError: if a target lies outside the catalogue, or a row's logits hold a NaN (whose
            comparisons are all false, which would look like a perfect rank).

    Example:
        >>> scores = scores_from_logits(torch.tensor([[0.0, 2.0, 1.0, 1.0]]), torch.tensor([2]))
        >>> scores.better.item(), scores.tied.item(), scores.mean_rank().item()
        (1, 2, 2.5)
    """
    _check_target(target, logits.shape[-1])
    own = logits.gather(-1, target.unsqueeze(-1))
    lse = torch.logsumexp(logits, -1)  # NaN wherever the row holds one
    check_finite("the catalogue's logits", lse, hint="has the policy diverged?")
    return CatalogueScores(
        log_prob=own.squeeze(-1) - lse,
        better=(logits > own).sum(-1),
        tied=(logits == own).sum(-1),
    )


def catalogue_scores(
    hidden: Tensor,
    items: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    logits_at_a_time: int = LOGITS_AT_A_TIME,
) -> CatalogueScores:
    """Scores logged items against the full catalogue, a block of rows at a time.

    Args:
        hidden: states, shape ``[N, D]``.
        items: item embeddings, shape ``[V, D]``.
        target: the logged items, int64 in ``[0, V)``, shape ``[N]``.
        bias: one number an item, shape ``[V]``.
        temperature: the policy's softmax temperature, above 0.
        logits_at_a_time: bound on the logits held together; at least one row is always scored.

    Returns:
        The :class:`CatalogueScores` of all rows; no gradient flows.

    Raises:
        ValueError: see :func:`scores_from_logits`.

    Example:
        >>> items = torch.eye(3)
        >>> catalogue_scores(items, items, torch.tensor([0, 1, 0])).better
        tensor([0, 0, 1])
    """
    if hidden.shape[:1] != target.shape:
        raise ValueError(
            f"expected one target a row, got hidden {tuple(hidden.shape)} "
            f"and target {tuple(target.shape)}"
        )
    # Rows are cut, never items: a logit must be bitwise the same on both sides of a comparison.
    rows = max(1, logits_at_a_time // items.shape[0])
    parts = []
    with torch.no_grad():
        for block, wanted in zip(hidden.split(rows), target.split(rows), strict=True):
            dist = CatalogueCategorical(block, items, bias=bias, temperature=temperature)
            parts.append(scores_from_logits(dist.logits, wanted))
    return CatalogueScores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def static_scores(score: Tensor, target: Tensor) -> CatalogueScores:
    """Scores rows under a ranking that is the same for everyone (popularity, or all-equal).

    Args:
        score: unnormalised log-scores of the items, shape ``[V]``; all-equal is a random ranking.
        target: the logged items, int64 in ``[0, V)``, shape ``[N]``.

    Returns:
        The :class:`CatalogueScores` of all rows, in O((N + V) log V) and without ``[N, V]``.

    Example:
        >>> random = static_scores(torch.zeros(1_000), torch.tensor([3, 14]))
        >>> hit_rate(random, 50)
        tensor([0.0500, 0.0500], dtype=torch.float64)
    """
    _check_target(target, score.shape[0])
    check_finite("score", score)
    ascending = score.sort().values
    own = score[target]
    upto = torch.searchsorted(ascending, own, right=True)
    below = torch.searchsorted(ascending, own)
    return CatalogueScores(own - torch.logsumexp(score, 0), score.shape[0] - upto, upto - below)


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


def grouped_auc(score: Tensor, label: Tensor, group: Tensor) -> GroupedAUC:
    """GAUC: the AUC of ``score`` against ``label`` within each group, averaged over rows.

    Groups (users) that hold one class only say nothing about order and are left out. Tied scores
    count half, as in the Mann-Whitney statistic. Sorted once; no loop over groups.

    Args:
        score: higher means more preferred, finite, shape ``[N]``.
        label: ``True`` (or 1) for positives, shape ``[N]``.
        group: any integer id, shape ``[N]``.

    Returns:
        The :class:`GroupedAUC`.

    Raises:
        ValueError: if shapes differ or a score is not finite.

    Example:
        >>> score = torch.tensor([0.9, 0.1, 0.3, 0.3, 7.0])
        >>> label = torch.tensor([1, 0, 1, 0, 1])
        >>> grouped_auc(score, label, torch.tensor([5, 5, 8, 8, 9])).value  # (2 * 1 + 2 * .5) / 4
        tensor(0.7500, dtype=torch.float64)
    """
    check_same_shape(score=score, label=label, group=group)
    check_finite("score", score)
    group = torch.unique(group, return_inverse=True)[1]
    by_score = score.argsort()
    order = by_score[group[by_score].argsort(stable=True)]  # by group, then by score
    score, group, positive = score[order], group[order], (label[order] > 0).double()

    size = torch.bincount(group)
    start = size.cumsum(0) - size
    fresh = torch.ones_like(group, dtype=torch.bool)
    fresh[1:] = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    run = fresh.cumsum(0) - 1
    length = torch.bincount(run)
    middle = (length.cumsum(0) - length) + (length + 1).double() / 2  # shared by a run of ties
    rank = middle[run] - start[group]

    pos = torch.bincount(group, weights=positive, minlength=size.numel())
    rank_sum = torch.bincount(group, weights=rank * positive, minlength=size.numel())
    both = (pos > 0) & (pos < size)
    pos, rank_sum, size = pos[both], rank_sum[both], size[both]
    auc = (rank_sum - pos * (pos + 1) / 2) / (pos * (size - pos))
    return GroupedAUC((auc * size).sum() / size.sum(), both.sum(), size.sum())


def ranking_metrics(
    scores: CatalogueScores,
    quality: Tensor,
    user: Tensor,
    *,
    labels: Mapping[str, Tensor] | None = None,
    context: Tensor | None = None,
    ks: Sequence[int] = (10, 50),
    top: int = 100,
    best: float = 0.75,
    worst: float = 0.25,
    good: float = 0.5,
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

    Returns:
        ``hr@k``, ``hr@k_best``, ``hr@k_worst``, ``lift@k`` (their ratio), the same for ``ndcg``
        without lift, ``top<k>_quality``, and the GAUCs. With ``context`` also ``lift@k_within``,
        the lift at one mix of contexts, and ``hr@k_best_lowest``, the lowest ``hr@k_best`` of a
        context; see :func:`~torchrl_drpo.evaluation.contexts.within_contexts`. NaN marks what the
        rows cannot answer (no best row, no user with both classes, no context with both best and
        worst rows, none with 100 best ones); a lift over no worst hit is infinite.

    Raises:
        ValueError: if shapes differ, quality is not finite, ``worst >= best``, or the context does
            not hold integers.
    """
    check_same_shape(quality=quality, user=user, log_prob=scores.log_prob)
    check_finite("quality", quality)
    if not worst < best:
        raise ValueError(f"worst must lie below best, got worst={worst} and best={best}")
    is_best, is_worst = quality >= best, quality <= worst
    group = None if context is None else context_groups(context, len(quality))
    out: dict[str, Tensor] = {}
    for k in ks:
        hit, gain = hit_rate(scores, k), ndcg(scores, k)
        out[f"hr@{k}"] = hit.mean()
        out[f"hr@{k}_best"] = hit[is_best].mean()
        out[f"hr@{k}_worst"] = hit[is_worst].mean()
        out[f"lift@{k}"] = out[f"hr@{k}_best"] / out[f"hr@{k}_worst"]
        if group is not None:
            within = within_contexts(hit, is_best, is_worst, group)
            out[f"lift@{k}_within"] = within.lift
            out[f"hr@{k}_best_lowest"] = within.best_lowest
        out[f"ndcg@{k}_best"] = gain[is_best].mean()
        out[f"ndcg@{k}_worst"] = gain[is_worst].mean()
    out[f"top{top}_quality"] = top_k_quality(scores, quality, top)
    for name, label in {"quality": quality >= good, **(labels or {})}.items():
        out[f"gauc_{name}"] = grouped_auc(scores.log_prob, label, user).value
    return {name: value.item() for name, value in out.items()}


def _check_target(target: Tensor, num_items: int) -> None:
    outside = (target < 0) | (target >= num_items)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"target must lie in [0, {num_items}) but row {row} holds {int(target[row])}; "
            "catalogue ids are zero-based, so encode raw ids with the log's catalogue first"
        )


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
