"""Rankings that nobody trains, which a policy has to beat before it is worth a thought."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from torchrl_drpo.evaluation.ranking import CatalogueScores
from torchrl_drpo.evaluation.ranking.counting import (
    Rows,
    cooccurrences,
    history_scores,
    item_neighbours,
)
from torchrl_drpo.pipeline.numbered import Numbering
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.scores import ROWS_SCORED, popularity_scores, random_scores

#: Training rows that pairs are counted in, evenly chosen from a longer log.
COUNTED_ROWS = 2_000_000
#: Share of the training rows, the latest, whose popularity is the recent one.
RECENT = 0.1
_HISTORY = ("observation", "history")


def baseline_scores(
    data: SplitLog,
    numbering: Numbering,
    held_out: Callable[[], Rows],
    target: Tensor,
    num_items: int,
) -> dict[str, CatalogueScores]:
    """Scores by name: random, popularity, recent popularity, co-occurrence and item-knn.

    The last two read histories, the third times; where a log has none they are left out.

    Args:
        data: the log; its training rows are counted.
        numbering: to the numbers of the items that are ranked.
        held_out: walks the held-out rows' histories and items, a block at a time; called for
            every ranking that reads them, as they may be more than memory holds.
        target: these items once more, ``[N]``.
        num_items: how many items are ranked.
    """
    train = data.log.split("train")
    logged = numbering.items[data.train_items()]
    found = {
        "random": random_scores(num_items, target),
        "popularity": popularity_scores(logged[logged >= 0], num_items, target),
    }
    if data.log.schema.time is not None:
        time = train.column("time")
        latest = time >= time.kthvalue(max(1, int((1 - RECENT) * len(time)))).values
        recent = logged[latest & (logged >= 0)]
        found["recent-popularity"] = popularity_scores(recent, num_items, target)
    if not data.log.schema.by_user:
        return found
    popularity = torch.bincount(logged[logged >= 0], minlength=num_items)
    pairs = cooccurrences(_counted(data, numbering), num_items)
    found["co-occurrence"] = history_scores(pairs, popularity, held_out())
    every = slice(None, None, _stride(len(train)))
    user, item = train.column("user")[every], logged[every]
    alike = item_neighbours(user[item >= 0], item[item >= 0], num_items)
    found["item-knn"] = history_scores(alike, popularity, held_out(), step=1e-9)
    return found


def history_rows(blocks: Iterator) -> Iterator[tuple[Tensor, Tensor]]:
    """Histories and items of blocks of rows."""
    for block in blocks:
        yield block[_HISTORY], block["action"]


def _stride(rows: int) -> int:
    return max(1, -(-rows // COUNTED_ROWS))


def _counted(data: SplitLog, numbering: Numbering) -> Iterator[tuple[Tensor, Tensor]]:
    train = data.log.split("train")
    every = torch.arange(0, len(train), _stride(len(train)))
    for index in every.split(ROWS_SCORED):
        rows = numbering.apply(train[index])
        known = rows["action"] >= 0
        yield rows[_HISTORY][known], rows["action"][known]
