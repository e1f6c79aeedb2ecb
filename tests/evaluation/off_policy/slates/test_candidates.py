"""Enumerated slates of few candidates, and pseudo-inverses over them."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch

from torchrl_drpo.evaluation.off_policy.slates import (
    LoggedSlates,
    SlateWeights,
    ordered_slates,
    plackett_luce_log_probs,
    product_weights,
    pseudo_inverse,
    pseudo_inverse_weights,
    self_normalised_pseudo_inverse,
    slot_moments,
)


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("candidates", "length"), [(4, 1), (5, 3), (3, 3)])
def test_plackett_luce_is_a_distribution_with_the_moments_of_its_slates(
    candidates: int, length: int
) -> None:
    given, every = logits(2, candidates), ordered_slates(candidates, length)
    log_prob = plackett_luce_log_probs(given, every)
    assert len(every) == math.perm(candidates, length)
    own = torch.stack([every, every.flip(0)])  # each row's slates
    torch.testing.assert_close(
        plackett_luce_log_probs(given, own), torch.stack([log_prob[0], log_prob[1].flip(0)])
    )
    found = slot_moments(every, log_prob.sum(-1), candidates)
    for row, weight in enumerate(given.exp().tolist()):
        slot = torch.zeros(length, candidates).double()
        pairs = torch.zeros(length * candidates, length * candidates).double()
        for slate in permutations(range(candidates), length):
            chance, left = 1.0, sum(weight)
            for item in slate:
                chance *= weight[item] / left
                left -= weight[item]
            cells = [at * candidates + item for at, item in enumerate(slate)]
            for one in cells:
                slot.view(-1)[one] += chance
                for other in cells:
                    pairs[one, other] += chance
        torch.testing.assert_close(found.slot[row], slot)
        torch.testing.assert_close(found.pairs[row], pairs)


def test_an_item_that_cannot_be_shown_has_no_chance() -> None:
    given, every = torch.tensor([0.0, 0.0, -torch.inf]), ordered_slates(3, 2)
    probability = plackett_luce_log_probs(given, every).sum(-1).exp()
    assert probability.tolist() == [0.0 if 2 in slate else 0.5 for slate in every.tolist()]


def test_a_product_loggers_closed_form_is_its_pseudo_inverse() -> None:
    length, candidates, n = 3, 3, 27
    every = torch.cartesian_prod(*[torch.arange(candidates)] * length)
    log = {who: logits(length, candidates, seed=i).log_softmax(-1) for i, who in enumerate("eb")}
    joint = log["b"].gather(1, every.T).sum(0)
    pairs = slot_moments(every, joint, candidates).pairs
    slots = {who: each.gather(1, every.T).T for who, each in log.items()}
    closed = product_weights(
        LoggedSlates(torch.ones(n), log_target_slot=slots["e"], log_behavior_slot=slots["b"])
    )
    found = pseudo_inverse_weights(every, log["e"].exp().expand(n, length, candidates), pairs)
    torch.testing.assert_close(found.weight, closed.weight, rtol=1e-9, atol=1e-9)
    assert found.never_logged == 0
    assert (joint.exp() @ found.weight).item() == pytest.approx(1)
    assert (found.weight < 0).any()


def test_slates_that_end_early_have_no_items_beyond() -> None:
    whole = torch.tensor([[0, 1, -1]])
    wanted = torch.tensor([[[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]])
    both = ordered_slates(2, 2)
    small = slot_moments(both, torch.tensor([0.7, 0.3]).log(), 2)
    pairs = torch.zeros(6, 6).double()
    pairs[:4, :4] = small.pairs
    found = pseudo_inverse_weights(whole, wanted, pairs)
    expected = pseudo_inverse_weights(whole[:, :2], wanted[:, :2], small.pairs)
    assert found.weight.item() == pytest.approx(expected.weight.item())
    assert found.weight.item() == pytest.approx(0.5 / 0.7, rel=1e-6)  # one slate or the other


def test_what_the_logging_policy_never_shows_is_said_and_judged() -> None:
    every = ordered_slates(3, 2)
    target = plackett_luce_log_probs(torch.tensor([0.0, 0.0, 3.0]), every).sum(-1)
    behavior = plackett_luce_log_probs(torch.tensor([0.0, 0.0, -torch.inf]), every).sum(-1)
    shown = torch.tensor([[0, 1], [1, 0]]).repeat(200, 1)
    found = pseudo_inverse_weights(
        shown,
        slot_moments(every, target, 3).slot.expand(400, 2, 3),
        slot_moments(every, behavior, 3).pairs,
    )
    assert found.never_logged > 0.5
    estimate = pseudo_inverse(LoggedSlates(torch.ones(400)), found)
    assert estimate.verdict == "meaningless"
    with pytest.raises(ValueError, match="slate 0 shows candidate 2 at position 0"):
        pseudo_inverse_weights(
            torch.tensor([[2, 1]]), torch.ones(1, 2, 3), slot_moments(every, behavior, 3).pairs
        )


def test_weights_are_judged_by_size_and_sign() -> None:
    signs = torch.tensor([3.0, -1.0]).double().repeat(200)  # mean 1
    slates = LoggedSlates(torch.linspace(0, 1, 400))
    found = pseudo_inverse(slates, SlateWeights(signs))
    assert found.diagnostics.mean_weight == 1
    assert found.diagnostics.effective_rows == pytest.approx(400 * 4 / 5)
    assert found.verdict == "usable"
    assert pseudo_inverse(slates, SlateWeights(signs + 1)).verdict == "meaningless"
    with pytest.raises(ValueError, match="the weights have mean -1 where 1 is expected"):
        self_normalised_pseudo_inverse(slates, SlateWeights(signs - 2))
    with pytest.raises(ValueError, match="3 weights for 400 slates"):
        pseudo_inverse(slates, SlateWeights(signs[:3]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ordered_slates(3, 4), r"length must lie in \[1, 3\]"),
        (lambda: ordered_slates(100, 5), "9,034,502,400 slates of 5"),
        (lambda: plackett_luce_log_probs(torch.zeros(3), torch.tensor([[3]])), r"in \[0, 3\)"),
        (lambda: slot_moments(ordered_slates(3, 2), torch.zeros(6), 3), "must sum to 1"),
        (
            lambda: pseudo_inverse_weights(torch.zeros(1, 2), torch.ones(1, 2, 3), torch.eye(5)),
            "expected action",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_enumerated_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
