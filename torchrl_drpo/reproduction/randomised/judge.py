"""What rankings and policies are worth on random ratings, as sums over groups of users.

Every metric is a ratio of two sums over users, so the sums of some groups of users give the metric
on any of these groups together: on those that choose, on those that report, and on all of them but
one, which the jackknife asks for.

Notation   U users who judge, R random ratings of a user at most, V items, G groups of users.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchrl_drpo.reproduction.randomised.ratings import GROUPS, LIKE, Ratings

#: By metric, numerators and denominators ``[2, G]``.
Sums = Mapping[str, Tensor]

#: Length of the lists of like@k; the first is also what a ranking without probabilities serves.
LISTS = (10, 30)
#: Places of a user's random ratings that NDCG looks at.
PLACES = 5
VALUE, GAUC, NDCG = "value", "gauc", f"ndcg@{PLACES}"
METRICS = (VALUE, GAUC, NDCG, *(f"like@{k}" for k in LISTS))


@dataclass(frozen=True)
class Judge:
    """The random ratings, a row a user.

    Attributes:
        user: ids, int64 ``[U]``.
        item: int64 ``[U, R]``, 0 where a user has fewer.
        rating: int64 ``[U, R]``.
        there: whether there is such a rating, bool ``[U, R]``.
        known: items that the user rates in training, bool ``[U, V]``: they are not served again.
        group: int64 ``[U]`` in [0, G).
    """

    user: Tensor
    item: Tensor
    rating: Tensor
    there: Tensor
    known: Tensor
    group: Tensor

    @classmethod
    def of(cls, ratings: Ratings) -> Judge:
        """The judge of a file's random ratings."""
        rows = ratings.judged
        user, row, count = rows.user.unique(return_inverse=True, return_counts=True)
        order = torch.argsort(row, stable=True)
        first = count.cumsum(0) - count
        place = torch.arange(len(order)) - first[row[order]]
        item = torch.zeros(len(user), int(count.max()), dtype=torch.int64)
        rating, there = torch.zeros_like(item), torch.zeros_like(item, dtype=torch.bool)
        where = row[order], place
        item[where], rating[where], there[where] = rows.item[order], rows.rating[order], True
        known = torch.zeros(ratings.num_users, ratings.num_items, dtype=torch.bool)
        known[ratings.train.user, ratings.train.item] = True
        return cls(user, item, rating, there, known[user], ratings.group[user])

    def of_policy(self, log_prob: Tensor) -> Sums:
        """Sums of a policy.

        Args:
            log_prob: of every item for each user, up to a number a user, ``[U, V]``.
        """
        share = log_prob.double().masked_fill(self.known, -torch.inf).softmax(-1)
        return self._sums(log_prob, share.gather(1, self.item))

    def of_ranking(self, score: Tensor) -> Sums:
        """Sums of a ranking, which serves each of its best ten alike.

        Args:
            score: of every item for each user, ``[U, V]``.
        """
        return self._sums(score, self._listed(score, LISTS[0]))

    def _sums(self, score: Tensor, share: Tensor) -> Sums:
        like = (self.rating >= LIKE) & self.there
        own = score.gather(1, self.item)
        other = own.unsqueeze(1)
        # Entry [u, i, j]: whether the user's rating j stands above i, or beside it.
        pairs = self.there.unsqueeze(1) & self.there.unsqueeze(2)
        above, beside = (other > own.unsqueeze(2)) & pairs, (other == own.unsqueeze(2)) & pairs
        auc, counts = _auc(above, beside, like, self.there)
        found, ideal = _dcg(above.sum(2), beside.sum(2), like)
        sums = {
            VALUE: self._by_group(share * self.rating, share),
            GAUC: self._by_group(auc, counts),
            NDCG: self._by_group(found / ideal.clamp(min=1e-12), (ideal > 0).double()),
        }
        for k in LISTS:
            listed = self._listed(score, k)
            sums[f"like@{k}"] = self._by_group(listed * like, listed)
        return sums

    def _listed(self, score: Tensor, k: int) -> Tensor:
        """How likely each random rating's item is among the k best, ties at random, ``[U, R]``."""
        score = score.masked_fill(self.known, -torch.inf)
        least = score.topk(min(k, score.shape[1]), dim=1).values[:, -1:]
        places = k - (score > least).sum(1, keepdim=True)
        share = (places / (score == least).sum(1, keepdim=True)).clamp(max=1)
        own = score.gather(1, self.item)
        return torch.where(own > least, 1.0, torch.where(own == least, share, 0.0)).double()

    def _by_group(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        out = torch.zeros(2, GROUPS, dtype=torch.float64)
        for row, values in zip(out, (numerator, denominator), strict=True):
            if values.ndim == 2:
                values = (values * self.there).sum(1)
            row.index_add_(0, self.group, values.double())
        return out


def metrics_of(sums: Mapping[str, Sequence[Sequence[float]]], groups: slice) -> dict[str, float]:
    """The metrics on the users of some groups together; NaN where nothing is to be divided by.

    Example:
        >>> metrics_of({"value": [[6.0, 4.0, 9.0], [2.0, 1.0, 3.0]]}, slice(0, 2))
        {'value': 3.3333333333333335}
    """
    return {name: ratio(each, groups) for name, each in sums.items()}


def ratio(both: Sequence[Sequence[float]], groups: slice = slice(None)) -> float:
    """One of them, from its numerators and denominators.

    Example:
        >>> ratio([[6.0, 4.0, 9.0], [2.0, 1.0, 3.0]])
        3.1666666666666665
    """
    numerator, denominator = (math.fsum(row[groups]) for row in both)
    return numerator / denominator if denominator else math.nan


def _auc(above: Tensor, beside: Tensor, like: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """AUC of the likes times the ratings, and the ratings, of each user; 0 where it has none."""
    other = there & ~like
    pairs = other.unsqueeze(2) & like.unsqueeze(1)  # [u, a rating that is none, a like]
    won = (above * pairs).sum((1, 2)) + 0.5 * (beside * pairs).sum((1, 2))
    of = pairs.sum((1, 2))
    rows = torch.where(of > 0, there.sum(1), 0).double()
    return rows * won / of.clamp(min=1), rows


def _dcg(above: Tensor, beside: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Discounted likes among the first places, expected over ties, and the most possible."""
    width = like.shape[1]
    discount = 1 / torch.arange(2, width + 2, dtype=torch.float64).log2()
    discount[PLACES:] = 0
    before = torch.cat([discount.new_zeros(1), discount.cumsum(0)])  # of the first n places
    expected = (before[above + beside] - before[above]) / beside.clamp(min=1)
    return (expected * like).sum(1), before[like.sum(1)]
