"""How a policy scores the logged item of each row, against the whole catalogue."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.distributions.code_trie import TrieCategorical
from torchrl_drpo.functional.checks import check_finite, check_policy

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

    def take(self, rows: Tensor) -> CatalogueScores:
        """The scores of some rows."""
        return CatalogueScores(*(column[rows] for column in self))


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
    check_policy("the catalogue's logits", lse)
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


def searched_scores(
    dist: TrieCategorical, target: Tensor, longest: int, *, beam: int | None = None
) -> CatalogueScores:
    """Scores logged items by the lists that a search over semantic IDs finds.

    The log-probability is exact. An item that is not in its row's list counts as the catalogue's
    last: what a search does not find is not served, and its rank is not known. So hit rates and
    NDCG at up to ``longest`` are those of what is served, and a reciprocal rank is at most
    ``1 / longest`` too low.

    Args:
        dist: the policy at rows, ``[N]``.
        target: the logged items, int64 in ``[0, V)``, shape ``[N]``.
        longest: length of the lists; the catalogue's size, if that is smaller.
        beam: of :meth:`TrieCategorical.topk`, 0 for the exact ranking.

    Returns:
        The :class:`CatalogueScores` of all rows; no gradient flows.

    Raises:
        ValueError: for a target outside the catalogue, or logits that are not finite.
    """
    _check_target(target, dist.num_items)
    with torch.no_grad():
        log_prob = dist.log_prob(target)
        check_policy("the policy's log-probabilities", log_prob)
        found = dist.topk(min(longest, dist.num_items), beam=beam)
    own = found.indices == target.unsqueeze(-1)
    value = found.values.masked_fill(~own, -torch.inf).amax(-1, keepdim=True)
    there = own.any(-1)
    better = (found.values > value).sum(-1)
    tied = (found.values == value).sum(-1)
    return CatalogueScores(
        log_prob=log_prob,
        better=torch.where(there, better, dist.num_items - 1),
        tied=torch.where(there, tied, 1),
    )


def static_scores(score: Tensor, target: Tensor) -> CatalogueScores:
    """Scores rows under a ranking that is the same for everyone (popularity, or all-equal).

    Args:
        score: unnormalised log-scores of the items, shape ``[V]``; all-equal is a random ranking.
        target: the logged items, int64 in ``[0, V)``, shape ``[N]``.

    Returns:
        The :class:`CatalogueScores` of all rows, in O((N + V) log V) and without ``[N, V]``.

    Example:
        >>> from torchrl_drpo.evaluation.ranking import hit_rate
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


def _check_target(target: Tensor, num_items: int) -> None:
    outside = (target < 0) | (target >= num_items)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"target must lie in [0, {num_items}) but row {row} holds {int(target[row])}; "
            "catalogue ids are zero-based, so encode raw ids with the log's catalogue first"
        )
