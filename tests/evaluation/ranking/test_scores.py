"""Scores of logged items against the whole catalogue, in blocks and at once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrl_drpo.evaluation.ranking import (
    catalogue_scores,
    hit_rate,
    scores_from_logits,
    static_scores,
)


@given(
    score=st.lists(st.integers(0, 6), min_size=1, max_size=12), data=st.data(), k=st.integers(1, 15)
)
@settings(max_examples=60, deadline=None)
def test_a_static_ranking_equals_the_same_scores_on_every_row(score, data, k) -> None:
    score = torch.tensor(score, dtype=torch.float32)
    target = torch.tensor(data.draw(st.lists(st.integers(0, len(score) - 1), min_size=1)))
    static = static_scores(score, target)
    dense = scores_from_logits(score.expand(len(target), -1), target)
    for ours, theirs in zip(static, dense, strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(hit_rate(static, k), hit_rate(dense, k))


def test_blocks_of_rows_do_not_change_the_scores() -> None:
    hidden, items, bias = torch.randn(37, 8), torch.randn(50, 8), torch.randn(50)
    target = torch.randint(50, (37,))
    logits = (hidden @ items.T + bias).double()
    one_by_one = catalogue_scores(hidden, items, target, bias=bias, logits_at_a_time=1)
    at_once = catalogue_scores(hidden, items, target, bias=bias)
    exact = scores_from_logits(logits, target)
    for scores in (one_by_one, at_once):
        assert torch.equal(scores.better, exact.better)
        assert torch.equal(scores.tied, exact.tied)
        torch.testing.assert_close(scores.log_prob.double(), exact.log_prob, atol=1e-5, rtol=1e-5)


def test_temperature_flattens_the_log_prob_and_keeps_the_ranks() -> None:
    hidden, items, target = torch.randn(5, 4), torch.randn(9, 4), torch.randint(9, (5,))
    warm = catalogue_scores(hidden, items, target, temperature=2.0)
    logits = (hidden @ items.T) / 2
    expected = logits.log_softmax(-1)[torch.arange(5), target]
    torch.testing.assert_close(warm.log_prob, expected)
    assert torch.equal(warm.better, catalogue_scores(hidden, items, target).better)


def test_no_policy_gradient_is_kept() -> None:
    items = torch.randn(6, 3, requires_grad=True)
    scores = catalogue_scores(torch.randn(4, 3), items, torch.zeros(4, dtype=torch.long))
    assert not scores.log_prob.requires_grad


def test_a_diverged_policy_is_an_error_and_not_a_perfect_rank() -> None:
    logits = torch.randn(4, 5)
    logits[2, 1] = math.nan
    with pytest.raises(ValueError, match="row 2 holds nan"):
        scores_from_logits(logits, torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="logits must be finite"):
        catalogue_scores(torch.full((1, 2), math.inf), torch.ones(3, 2), torch.tensor([0]))


@pytest.mark.parametrize("item", [-1, 5])
def test_items_outside_the_catalogue_are_named(item: int) -> None:
    target = torch.tensor([0, item])
    with pytest.raises(ValueError, match=rf"\[0, 5\) but row 1 holds {item}"):
        scores_from_logits(torch.randn(2, 5), target)
    with pytest.raises(ValueError, match=rf"\[0, 5\) but row 1 holds {item}"):
        static_scores(torch.zeros(5), target)
