from __future__ import annotations

import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchrl_drpo.evaluation.contexts import BEST_ROWS_NEEDED, within_contexts
from torchrl_drpo.evaluation.ranking import ranking_metrics, scores_from_logits, static_scores


def by_pandas(frame: pd.DataFrame, columns: list[str], least: int) -> tuple[float, ...]:
    """Lift within contexts, lowest hit rate, contexts compared, their rows, those of the lowest.

    And hits of worst rows in the contexts compared, and these rows.
    """
    above = below = hits = 0.0
    contexts = rows = poor = 0
    served = []
    for _, group in frame.groupby(columns):
        best, worst = group.loc[group["best"], "hit"], group.loc[group["worst"], "hit"]
        if len(best) and len(worst):
            above += len(group) * best.mean()
            below += len(group) * worst.mean()
            contexts, rows = contexts + 1, rows + len(group)
            hits, poor = hits + worst.sum(), poor + len(worst)
        if len(best) >= least:
            served.append((best.mean(), -len(best)))
    lift = above / below if below else (math.inf if above else math.nan)
    lowest, behind = min(served, default=(math.nan, 0))
    return lift, lowest, contexts, rows, -behind, hits, poor


@given(st.integers(0, 2**31 - 1), st.integers(1, 150), st.integers(1, 3), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_one_pass_equals_a_loop_over_the_contexts(seed, rows, columns, values) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(-(2**62), 2**62, values)  # any integers will do
    quality = rng.random(rows)
    frame = pd.DataFrame(
        {
            "hit": rng.integers(0, 3, rows) / 2,
            "best": quality > 0.7,
            "worst": quality < 0.3,
            **{f"c{i}": rng.choice(ids, rows) for i in range(columns)},
        }
    )
    names = [f"c{i}" for i in range(columns)]
    context = torch.tensor(frame[names].to_numpy())
    hit, best, worst = (torch.tensor(frame[c].to_numpy()) for c in ("hit", "best", "worst"))
    found = within_contexts(hit, best, worst, context, best_rows_needed=3)
    expected = by_pandas(frame, names, 3)
    assert [one.item() for one in found] == pytest.approx(expected, nan_ok=True)
    if columns == 1:
        flat = within_contexts(hit, best, worst, context[:, 0], best_rows_needed=3)
        assert [a.item() for a in flat] == pytest.approx(expected, nan_ok=True)


@given(st.integers(0, 2**31 - 1), st.integers(1, 60), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_worst_hit_that_is_wanting_is_one_of_any_worst_row(seed, rows, values) -> None:
    """The lift without a hit is that over the mean of what each single hit would make of it."""
    rng = np.random.default_rng(seed)
    quality, context = torch.tensor(rng.random(rows)), torch.tensor(rng.integers(0, values, rows))
    best, worst = quality > 0.6, quality < 0.4
    hit = torch.tensor(rng.random(rows)).lt(torch.where(worst, 0.05, 0.6)).double()
    plain = within_contexts(hit, best, worst, context)
    bounded = within_contexts(hit, best, worst, context, least_worst_hits=1)
    if plain.worst_hits >= 1 or math.isnan(plain.lift):
        torch.testing.assert_close(bounded.lift, plain.lift, rtol=0, atol=0, equal_nan=True)
        return
    assert plain.lift == math.inf
    inverse = []
    for row in worst.nonzero().flatten():
        one = hit.clone()
        one[row] = 1.0
        found = within_contexts(one, best, worst, context)
        inverse += [1 / found.lift.item()] if found.worst_hits == 1 else []
    assert len(inverse) == plain.worst_rows
    assert bounded.lift.item() == pytest.approx(1 / np.mean(inverse), rel=1e-12)


def simpson() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # In context 0 all rows rank first, in context 1 all rank last. Two of three best rows are of
    # context 0, two of three worst rows of context 1: lift (2/3) / (1/3) over all, 1 within each.
    hit = torch.tensor([True, True, True, False, False, False])
    logits = torch.tensor([[2.0, 1.0, 0.0]]).expand(6, 3)
    quality = torch.tensor([1.0, 1, 0, 1, 0, 0])
    return logits, torch.where(hit, 0, 2), quality, (~hit).long()


def test_a_lift_of_two_that_lies_between_the_contexts_is_one_within_them() -> None:
    logits, target, quality, context = simpson()
    scores = scores_from_logits(logits, target)
    user = torch.arange(6)
    got = ranking_metrics(scores, quality, user, context=context, ks=(1,))
    assert got["lift@1"] == 2.0
    assert got["lift@1_within"] == 1.0
    same = ranking_metrics(scores, quality, user, context=torch.full((6,), 9), ks=(1,))
    assert same["lift@1_within"] == same["lift@1"] == 2.0  # one context leaves nothing to compare


def test_a_context_weighs_as_all_its_rows_do() -> None:
    # Context 0: best 1, worst 1/2, five rows, two of them neither. Context 1: best 0, worst 1.
    hit = torch.tensor([1.0, 1, 0, 0, 1, 0, 1])
    best = torch.tensor([1, 0, 0, 0, 0, 1, 0]).bool()
    worst = torch.tensor([0, 1, 1, 0, 0, 0, 1]).bool()
    context = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    assert within_contexts(hit, best, worst, context).lift.item() == (5 * 1 + 2 * 0) / (2.5 + 2)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_ties_have_the_hit_rates_that_are_expected_over_all_orders(k: int) -> None:
    logits = torch.tensor(
        [[1.0, 1, 0, 0], [1, 1, 1, 1], [0, 2, 2, 0], [3, 1, 1, 1], [0, 0, 5, 5], [2, 2, 2, 0]]
    )
    target, context = torch.tensor([0, 2, 1, 3, 0, 3]), torch.tensor([4, 4, 4, 8, 8, 8])
    best = [True, False, True, True, False, False]
    orders = list(permutations(range(4)))
    rates = {}
    for place, kind in ((c, b) for c in (4, 8) for b in (True, False)):
        rows = [i for i in range(6) if context[i] == place and best[i] is kind]
        hits = Fraction(0)
        for order in orders:
            for row in rows:
                by_score = sorted(range(4), key=lambda i: (-logits[row, i].item(), order[i]))
                hits += target[row].item() in by_score[:k]
        rates[place, kind] = hits / (len(orders) * len(rows))
    expected = (rates[4, True] + rates[8, True]) / (rates[4, False] + rates[8, False])
    quality = torch.tensor(best).float()
    scores = scores_from_logits(logits, target)
    got = ranking_metrics(scores, quality, torch.arange(6), context=context, ks=(k,))
    assert got[f"lift@{k}_within"] == pytest.approx(float(expected))


def test_a_random_ranking_is_worth_the_same_in_every_context() -> None:
    quality, context = torch.rand(3000), torch.randint(4, (3000, 2))
    scores = static_scores(torch.zeros(1000), torch.randint(1000, (3000,)))
    user = torch.zeros(3000, dtype=torch.long)
    got = ranking_metrics(scores, quality, user, context=context // 2, ks=(10, 50))
    for k in (10, 50):
        assert got[f"lift@{k}_within"] == pytest.approx(1.0)
        assert got[f"hr@{k}_best_lowest"] == pytest.approx(k / 1000)


def test_the_lowest_context_is_one_with_enough_best_rows() -> None:
    few = BEST_ROWS_NEEDED - 1
    context = torch.tensor([0] * few + [1] * (few + 1) + [2] * (few + 1))
    hit = torch.cat([torch.zeros(few), torch.arange(few + 1) < 30, torch.arange(few + 1) < 20])
    best = torch.ones(len(hit), dtype=torch.bool)
    found = within_contexts(hit, best, ~best, context)
    assert found.best_lowest.item() == pytest.approx(0.2)
    assert found.best_lowest_rows.item() == few + 1
    assert math.isnan(found.lift.item())  # no context has a worst row
    only_few = context == 0
    none = within_contexts(hit[only_few], best[only_few], best[only_few], context[only_few])
    assert math.isnan(none.best_lowest.item())
    assert none.best_lowest_rows.item() == 0


def test_a_lift_within_over_no_worst_hit_is_infinite_and_of_no_rows_unknown() -> None:
    hit, best = torch.tensor([1.0, 0.0]), torch.tensor([True, False])
    context = torch.zeros(2, dtype=torch.long)
    assert within_contexts(hit, best, ~best, context).lift.item() == math.inf
    for shape in ((0,), (0, 2)):
        empty = within_contexts(hit[:0], best[:0], best[:0], torch.zeros(shape, dtype=torch.long))
        assert math.isnan(empty.lift.item())
        assert math.isnan(empty.best_lowest.item())
        assert (empty.contexts.item(), empty.rows.item()) == (0, 0)


def test_rows_without_contexts_have_the_metrics_that_they_had() -> None:
    logits, target, quality, context = simpson()
    scores, user = scores_from_logits(logits, target), torch.arange(6)
    plain = ranking_metrics(scores, quality, user, ks=(1,))
    more = ranking_metrics(scores, quality, user, context=context, ks=(1,))
    assert more.keys() - plain.keys() == {
        "lift@1_within", "hr@1_best_lowest", "hr@1_best_lowest_rows",
        "gauc_quality_within", "gauc_best_worst_within",
    }  # fmt: skip
    np.testing.assert_equal({name: more[name] for name in plain}, plain)


@pytest.mark.parametrize(
    ("context", "given"),
    [
        (torch.zeros(2), r"torch.float32 \[2\]"),
        (torch.zeros(3, dtype=torch.long), r"torch.int64 \[3\]"),
        (torch.zeros(1, 2, dtype=torch.long), r"torch.int64 \[1, 2\]"),
        (torch.zeros(2, 0, dtype=torch.long), r"torch.int64 \[2, 0\]"),
        (torch.zeros(2, 1, 1, dtype=torch.long), r"torch.int64 \[2, 1, 1\]"),
        (torch.tensor(0), r"torch.int64 \[\]"),
    ],
)
def test_a_context_that_is_none_is_an_error(context: Tensor, given: str) -> None:
    scores = static_scores(torch.zeros(9), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=rf"\[2\] or \[2, columns\], got {given}; number raw"):
        ranking_metrics(scores, torch.rand(2), torch.tensor([0, 1]), context=context)


def test_the_rest_of_the_input_is_checked_too() -> None:
    hit, best, context = torch.ones(2), torch.ones(2, dtype=torch.bool), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="one shape"):
        within_contexts(hit, best[:1], best, context)
    with pytest.raises(ValueError, match="hit must be finite but row 1 holds nan"):
        within_contexts(torch.tensor([0.0, math.nan]), best, best, context)
    with pytest.raises(ValueError, match="best_rows_needed must be at least 1, got 0"):
        within_contexts(hit, best, best, context, best_rows_needed=0)
    with pytest.raises(ValueError, match="least_worst_hits must be finite and at least 0, got -1"):
        within_contexts(hit, best, best, context, least_worst_hits=-1)
