"""Scoring catalogue policies, and the rankings that need no policy, on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from torchrl_drpo.distributions.code_trie import TrieCategorical
from torchrl_drpo.evaluation.quality_bounds import QualityBounds
from torchrl_drpo.evaluation.ranking import (
    LOGITS_AT_A_TIME,
    QUALITY_LIST,
    CatalogueScores,
    catalogue_scores,
    jackknife,
    ranking_metrics,
    searched_scores,
    static_scores,
)
from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.pipeline.rows import HeldOut

#: Called with what is done, how much of it, and of how much.
Progress = Callable[[str, int, int], None]
#: Held-out rows whose states are computed together.
ROWS_SCORED = 8192
#: Prefixes that a search keeps for each place of its lists.
PREFIXES = 2


def counted_rows(
    blocks: Iterable[TensorDictBase], name: str, rows: int, progress: Progress
) -> Iterator[TensorDictBase]:
    """The same blocks; ``progress`` is told of ``name`` how many of the rows were dealt with."""
    done = 0
    for block in blocks:
        yield block
        done += len(block)
        progress(name, done, rows)


@torch.no_grad()
def policy_scores(
    actor: nn.Module,
    blocks: Iterable[TensorDictBase],
    logits_at_a_time: int = LOGITS_AT_A_TIME,
    longest: int = QUALITY_LIST,
) -> CatalogueScores:
    """How an actor over items scores the logged items of rows against the full catalogue.

    Args:
        actor: an actor of any kind of policy; its training mode is left as it was.
        blocks: TED rows with the actor's inputs and ``action``, a block at a time.
        logits_at_a_time: see :func:`~torchrl_drpo.evaluation.ranking.catalogue_scores`.
        longest: of policies over semantic IDs, length of the lists that are searched, at least
            that of any list that is asked about; see
            :func:`~torchrl_drpo.evaluation.ranking.searched_scores`.

    Returns:
        The scores of all rows in order, on the CPU.
    """
    training = actor.training
    actor.eval()
    device = next(actor.parameters()).device
    parts = []
    for block in blocks:
        inputs = block.select(*actor.in_keys, "action").to(device)
        dist = actor.get_dist(inputs)
        if isinstance(dist, TrieCategorical):
            scores = searched_scores(dist, inputs["action"], longest, beam=PREFIXES * longest)
        else:
            scores = catalogue_scores(
                dist.hidden,
                dist.items,
                inputs["action"],
                bias=dist.bias,
                temperature=dist.temperature,
                logits_at_a_time=logits_at_a_time,
            )
        parts.append([column.cpu() for column in scores])
    actor.train(training)
    return CatalogueScores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def popularity_scores(logged: Tensor, num_items: int, target: Tensor) -> CatalogueScores:
    """Scores of the ranking by how often items were logged in training.

    Args:
        logged: item indices of the training rows, int64.
        num_items: size of the catalogue.
        target: logged items of the held-out rows, int64 ``[N]``.

    Example:
        >>> logged = torch.tensor([2, 2, 0])
        >>> popularity_scores(logged, 4, torch.tensor([2, 0, 1])).mean_rank()
        tensor([1.0000, 2.0000, 3.5000], dtype=torch.float64)
    """
    count = torch.bincount(logged.flatten(), minlength=num_items)
    return static_scores(count.double().add(1).log(), target)  # +1: unseen items keep a score


def random_scores(num_items: int, target: Tensor) -> CatalogueScores:
    """Scores of a ranking drawn at random: all items tie, and ties have exact expectations."""
    return static_scores(torch.zeros(num_items, dtype=torch.double), target)


def held_out_intervals(
    scores: CatalogueScores,
    rows: HeldOut,
    bounds: QualityBounds | None = None,
    ks: Sequence[int] = (10, 50),
) -> dict[str, Interval]:
    """:func:`held_out_metrics` with 95% intervals over users; over rows where there are none.

    Numbers of rows are what they are and have no interval.
    """
    found = jackknife(
        lambda some: held_out_metrics(scores.take(some), rows.take(some), bounds, ks), rows.unit
    )
    counts = [name for name in found if name.removesuffix("_warm").endswith("_lowest_rows")]
    return found | {name: found[name]._replace(half_width=math.nan) for name in counts}


def held_out_metrics(
    scores: CatalogueScores,
    rows: HeldOut,
    bounds: QualityBounds | None = None,
    ks: Sequence[int] = (10, 50),
    least_worst_hits: float = 0.0,
) -> dict[str, float]:
    """:func:`~torchrl_drpo.evaluation.ranking.ranking_metrics` of held-out rows.

    Args:
        scores: of the rows.
        rows: their columns.
        bounds: of the quality; percentiles' by default.
        ks: list lengths.
        least_worst_hits: so many worst rows at least count as hit in a lift.

    Returns:
        The metrics of all rows; and, where some rows are of items that training never showed, the
        same of the others, their names ending in ``_warm``.
    """
    bounds = bounds or QualityBounds()
    found = ranking_metrics(
        scores,
        rows.quality,
        rows.user,
        labels=rows.labels,
        context=rows.context,
        ks=ks,
        best=bounds.best,
        worst=bounds.worst,
        good=bounds.good,
        least_worst_hits=least_worst_hits,
    )
    if rows.warm is None or bool(rows.warm.all()) or not bool(rows.warm.any()):
        return found
    some = rows.warm.nonzero().squeeze(1)
    of_warm = scores.take(some), replace(rows.take(some), warm=None)
    warm = held_out_metrics(*of_warm, bounds, ks, least_worst_hits)
    return found | {f"{name}_warm": value for name, value in warm.items()}
