"""Rankings that only count: what followed what, and which items have users in common.

No policy should be believed that does not beat them: on two Amazon samples counting equals
published sequential models. Scores are sparse, and so is the work: no ``[N, V]`` is ever held.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from torchrl_drpo.evaluation.ranking.scores import CatalogueScores

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: Rows of histories and items: ``(history [n, L], action [n])``, -1 where a history has no item.
Rows = Iterable[tuple[Tensor, Tensor]]
#: Items whose neighbours are found together.
_ITEMS_AT_A_TIME = 1024


def cooccurrences(rows: Rows, num_items: int) -> csr_array:
    """How many rows show item j to somebody whose history holds item i.

    Args:
        rows: training rows, a block at a time.
        num_items: size V of the catalogue.

    Returns:
        Counts float64 ``[V, V]``, sparse; an item of a history counts once a row.

    Example:
        >>> history, action = torch.tensor([[-1, 0], [0, 0], [2, 0]]), torch.tensor([1, 1, 0])
        >>> cooccurrences([(history, action)], 3).toarray().astype(int).tolist()
        [[1, 2, 0], [0, 0, 0], [1, 0, 0]]
    """
    from scipy.sparse import csr_array

    counts = csr_array((num_items, num_items), dtype=np.float64)
    for history, action in rows:
        counts = counts + _indicator(history, num_items).T @ _chosen(action, num_items)
    return csr_array(counts)


def item_neighbours(user: Tensor, item: Tensor, num_items: int, neighbours: int = 100) -> csr_array:
    r"""Cosine similarity of items by the users that they have in common.

    .. math:: s_{ij} = |U_i \cap U_j| / \sqrt{|U_i| |U_j|}, \quad i \neq j

    Args:
        user: of each training row, int64 ``[N]``.
        item: likewise.
        num_items: size V of the catalogue.
        neighbours: so many of the most similar are kept for each item.

    Returns:
        float64 ``[V, V]``, sparse: row i holds the neighbours of item i.

    Source: Sarwar, Karypis, Konstan and Riedl 2001, "Item-based collaborative filtering
    recommendation algorithms", with binary ratings.
    """
    from scipy.sparse import csr_array, vstack

    pairs = np.unique(np.stack([user.numpy(), item.numpy()]), axis=1)
    shape = (int(pairs[0].max()) + 1 if pairs.size else 1, num_items)
    seen = csr_array((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape=shape)
    users = np.asarray(seen.sum(axis=0)).ravel()
    scale = 1 / np.sqrt(np.maximum(users, 1))
    by_item = csr_array(seen.T)
    parts = []
    for first in range(0, num_items, _ITEMS_AT_A_TIME):
        block = csr_array(by_item[first : first + _ITEMS_AT_A_TIME] @ seen)
        row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        similarity = block.data * scale[first + row] * scale[block.indices]
        similarity[block.indices == first + row] = 0.0
        order = np.lexsort((block.indices, -similarity, row))
        place = np.arange(len(order)) - block.indptr[row[order]]
        kept = order[(place < neighbours) & (similarity[order] > 0)]
        entries = (similarity[kept], (row[kept], block.indices[kept]))
        parts.append(csr_array(entries, shape=block.shape))
    return csr_array(vstack(parts))


def history_scores(
    table: csr_array, popularity: Tensor, rows: Rows, step: float = 1.0
) -> CatalogueScores:
    """Ranks items by the sum of a table's rows over the items of a history.

    Items of one sum, those of none above all, are ranked by popularity.

    Args:
        table: non-negative scores ``[V, V]``: row i is what item i of a history speaks for.
        popularity: how often each item was logged in training, ``[V]``.
        rows: held-out rows, a block at a time.
        step: the least by which two different sums differ; popularity decides below it.

    Returns:
        The scores of all rows; the log-probability is that of the normalised sums.
    """
    count = popularity.double().numpy()
    share = step * (count + 1) / (count.max(initial=0) + 2)  # in (0, step)
    ascending = np.sort(share)
    total = share.sum()
    parts = [_scores(table, share, ascending, total, *block) for block in rows]
    return CatalogueScores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _scores(
    table: csr_array,
    share: np.ndarray,
    ascending: np.ndarray,
    total: float,
    history: Tensor,
    action: Tensor,
) -> CatalogueScores:
    found = (_indicator(history, len(share)) @ table).tocsr()
    row = np.repeat(np.arange(len(action)), np.diff(found.indptr))
    target = action.numpy()
    own_share = share[target]
    key = found.data + share[found.indices]
    mine = found.indices == target[row]
    spoken = np.bincount(row[mine], weights=found.data[mine], minlength=len(action))
    own = spoken + own_share

    def counted(condition: np.ndarray) -> np.ndarray:
        return np.bincount(row[condition], minlength=len(action))

    better, tied = counted(key > own[row]), counted((key == own[row]) & ~mine)
    # Of items that nothing speaks for, only the popular stand above one of their own kind.
    alone = spoken == 0
    above = len(share) - np.searchsorted(ascending, own_share, side="right")
    equal = len(share) - np.searchsorted(ascending, own_share, side="left") - above
    above -= counted(share[found.indices] > own_share[row])
    equal -= counted((share[found.indices] == own_share[row]) & ~mine) + 1
    better, tied = better + np.where(alone, above, 0), tied + np.where(alone, equal, 0) + 1
    whole = np.bincount(row, weights=found.data, minlength=len(action)) + total
    return CatalogueScores(
        torch.from_numpy(np.log(own / whole)),
        torch.from_numpy(better.astype(np.int64)),
        torch.from_numpy(tied.astype(np.int64)),
    )


def _indicator(history: Tensor, num_items: int) -> csr_array:
    """1 where a row's history holds an item, ``[n, V]``."""
    from scipy.sparse import csr_array

    there = history >= 0
    row = torch.arange(len(history)).unsqueeze(1).expand_as(history)[there]
    pairs = np.unique(np.stack([row.numpy(), history[there].numpy()]), axis=1)
    return csr_array(
        (np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape=(len(history), num_items)
    )


def _chosen(action: Tensor, num_items: int) -> csr_array:
    from scipy.sparse import csr_array

    place = np.arange(len(action))
    return csr_array((np.ones(len(action)), (place, action.numpy())), (len(action), num_items))
