"""Metrics on random ratings, against counting, one user at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.reproduction.randomised.small_ratings import write
from torchrl_drpo.evaluation.ranking import grouped_auc
from torchrl_drpo.reproduction.randomised.judge import GAUC, NDCG, VALUE, Judge, metrics_of, ratio
from torchrl_drpo.reproduction.randomised.ratings import LIKE, Ratings, read_ratings


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Ratings:
    return read_ratings(write(tmp_path_factory.mktemp("ratings") / "ratings.parquet"))


@pytest.fixture(scope="module")
def judge(ratings: Ratings) -> Judge:
    return Judge.of(ratings)


def _found(sums: dict[str, Tensor], groups: slice = slice(None)) -> dict[str, float]:
    return metrics_of({name: both.tolist() for name, both in sums.items()}, groups)


def _rows_of(ratings: Ratings, user: int) -> list[tuple[int, int]]:
    mine = ratings.judged.user == user
    pairs = zip(ratings.judged.item[mine], ratings.judged.rating[mine], strict=True)
    return [(int(item), int(rating)) for item, rating in pairs]


def _unknown(ratings: Ratings, user: int) -> list[int]:
    known = set(ratings.train.item[ratings.train.user == user].tolist())
    return [item for item in range(ratings.num_items) if item not in known]


def _ndcg(scores: np.ndarray, like: np.ndarray) -> float:
    """Of one user, the mean over all orders of tied ratings."""
    best = sum(1 / math.log2(place + 2) for place in range(min(5, like.sum())))
    gains = []
    for order in itertools.permutations(range(len(like))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            first = [like[row] / math.log2(place + 2) for place, row in enumerate(order[:5])]
            gains.append(sum(first) / best)
    return float(np.mean(gains))


@pytest.mark.parametrize("ties", [False, True])
def test_order_within_users_equals_counting(ratings: Ratings, judge: Judge, ties: bool) -> None:
    scores = torch.randn(len(judge.user), ratings.num_items)
    scores = scores.round() if ties else scores
    found = _found(judge.of_policy(scores))
    gains, won, weight = [], 0.0, 0
    for row, user in enumerate(judge.user.tolist()):
        rows = _rows_of(ratings, user)
        own = scores[row][[item for item, _ in rows]].numpy()
        like = np.array([rating >= LIKE for _, rating in rows])
        if like.any():
            gains.append(_ndcg(own, like))
        if like.any() and not like.all():
            pairs = [(a > b) + (a == b) / 2 for a in own[like] for b in own[~like]]
            won, weight = won + len(rows) * np.mean(pairs), weight + len(rows)
    assert found[NDCG] == pytest.approx(np.mean(gains))
    assert found[GAUC] == pytest.approx(won / weight)
    place = torch.searchsorted(judge.user, ratings.judged.user)
    theirs = grouped_auc(
        scores[place, ratings.judged.item], ratings.judged.rating >= LIKE, ratings.judged.user
    )
    assert found[GAUC] == pytest.approx(theirs.value.item())


def test_value_is_that_of_items_drawn_from_the_policy(ratings: Ratings, judge: Judge) -> None:
    scores = torch.randn(len(judge.user), ratings.num_items)
    total = mass = 0.0
    for row, user in enumerate(judge.user.tolist()):
        free = _unknown(ratings, user)
        share = dict(zip(free, scores[row][free].double().softmax(0).tolist(), strict=True))
        total += sum(share[item] * rating for item, rating in _rows_of(ratings, user))
        mass += sum(share[item] for item, _ in _rows_of(ratings, user))
    assert _found(judge.of_policy(scores))[VALUE] == pytest.approx(total / mass)
    # Scores are log-probabilities up to a number a user.
    moved = judge.of_policy(scores + torch.randn(len(scores), 1))
    assert _found(moved)[VALUE] == pytest.approx(total / mass, rel=1e-6)


def test_lists_hold_the_best_unknown_items(ratings: Ratings, judge: Judge) -> None:
    scores = torch.randn(len(judge.user), ratings.num_items)
    likes = ratings_in = rows = 0
    for row, user in enumerate(judge.user.tolist()):
        free = _unknown(ratings, user)
        best = sorted(free, key=lambda item: -scores[row, item])[:10]
        listed = [rating for item, rating in _rows_of(ratings, user) if item in best]
        likes += sum(rating >= LIKE for rating in listed)
        ratings_in, rows = ratings_in + sum(listed), rows + len(listed)
    assert _found(judge.of_policy(scores))["like@10"] == pytest.approx(likes / rows)
    assert _found(judge.of_ranking(scores))[VALUE] == pytest.approx(ratings_in / rows)


def test_a_ranking_without_an_opinion_is_worth_the_mean(ratings: Ratings, judge: Judge) -> None:
    found = _found(judge.of_ranking(torch.zeros(len(judge.user), ratings.num_items)))
    rating = ratings.judged.rating.double()
    # Every user knows as many items, so each unknown one is in a list of ten with one probability.
    assert found[VALUE] == pytest.approx(rating.mean().item())
    assert found["like@10"] == found["like@30"] == pytest.approx((rating >= LIKE).double().mean())
    assert found[GAUC] == 0.5


def test_groups_of_users_add_up_to_all(ratings: Ratings, judge: Judge) -> None:
    scores = torch.randn(len(judge.user), ratings.num_items)
    groups = slice(3, 9)
    mine = (judge.group >= 3) & (judge.group < 9)
    alone = Judge(*(column[mine] for column in (judge.user, judge.item, judge.rating, judge.there,
                                                judge.known, judge.group)))  # fmt: skip
    some = _found(judge.of_policy(scores), groups)
    assert some == pytest.approx(_found(alone.of_policy(scores[mine])))
    assert some != pytest.approx(_found(judge.of_policy(scores)))


def test_nothing_to_divide_by_is_no_number() -> None:
    assert math.isnan(ratio([[0.0], [0.0]]))
