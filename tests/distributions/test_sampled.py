"""The sampled softmax: an unbiased normaliser, and a bias of its logarithm that is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.distributions.sampled import SampledCatalogueCategorical, draw_negatives

V, D, REPEATS = 60, 4, 2000


def _policy() -> tuple[CatalogueCategorical, Tensor]:
    """One state for every item that may be logged, and the logarithm of a skewed proposal."""
    g = torch.Generator().manual_seed(3)
    hidden = torch.randn(1, D, generator=g, dtype=torch.float64).expand(V, D)
    items = torch.randn(V, D, generator=g, dtype=torch.float64) * 0.7
    bias = torch.randn(V, generator=g, dtype=torch.float64) * 0.3
    log_q = torch.log_softmax(-torch.arange(1.0, V + 1, dtype=torch.float64).log(), 0)
    return CatalogueCategorical(hidden, items, bias, 0.8), log_q


def _estimates(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Estimated log-probabilities ``[REPEATS, V]``, exact ones, and log q."""
    policy, log_q = _policy()
    g, every, found = torch.Generator().manual_seed(count), torch.arange(V), []
    for _ in range(REPEATS):
        sampled = SampledCatalogueCategorical(
            policy.hidden, policy.items, draw_negatives(log_q, count, g), log_q, policy.bias, 0.8
        )
        found.append(sampled.log_prob(every))
    return torch.stack(found), policy.log_prob(every), log_q


def test_the_normaliser_is_unbiased_and_its_logarithm_as_biased_as_is_said():
    biases = {}
    for count in (100, 400):
        found, exact, log_q = _estimates(count)
        inverse = (-found).exp()  # Z^ / e^z, whose mean is 1 / p
        error = (inverse.mean(0) - (-exact).exp()) / (inverse.std(0) / math.sqrt(REPEATS))
        assert error.abs().max() < 4.5  # of 60 standard normals
        p, q = exact.exp(), log_q.exp()
        others = (p.square() / q).sum() - p.square() / q
        spread = (1 - q) * others - (1 - p).square()
        expected = spread / (2 * count * (1 - q))
        # E log(Z^/Z) with its first-order term, whose mean is 0, taken off: far less noise.
        apart = exact - found
        bias = (torch.expm1(apart) - apart).mean(0)
        torch.testing.assert_close(bias.mean(), expected.mean(), rtol=0.15, atol=0)
        assert bias.mean() > 0  # too high
        biases[count] = float(bias.mean())
    assert biases[100] / biases[400] == pytest.approx(4, rel=0.2)


def test_gradients_are_those_of_the_estimate():
    policy, log_q = _policy()
    negatives = draw_negatives(log_q, 12, torch.Generator().manual_seed(0))
    leaves = [x.detach()[:5].clone().requires_grad_() for x in (policy.hidden,)]
    leaves += [x.detach().clone().requires_grad_() for x in (policy.items, policy.bias)]
    action = torch.tensor([0, 3, 59, int(negatives[0]), 1])

    def estimate(hidden: Tensor, items: Tensor, bias: Tensor) -> Tensor:
        return SampledCatalogueCategorical(hidden, items, negatives, log_q, bias, 0.8).log_prob(
            action
        )

    assert torch.autograd.gradcheck(estimate, leaves)


def test_everything_else_is_exact():
    policy, log_q = _policy()
    negatives = draw_negatives(log_q, 3)
    sampled = SampledCatalogueCategorical(
        policy.hidden, policy.items, negatives, log_q, policy.bias, 0.8
    )
    assert torch.equal(sampled.mode, policy.mode)
    assert torch.equal(sampled.topk(4).values, policy.topk(4).values)
    assert sampled.sample((2,)).shape == (2, V)
    assert sampled.num_items == V


def test_where_every_negative_hits_the_logged_item_its_probability_is_one():
    hidden, items = torch.zeros(2, 3), torch.zeros(4, 3)
    sampled = SampledCatalogueCategorical(
        hidden, items, torch.tensor([1, 1]), torch.full((4,), 0.25).log()
    )
    assert sampled.log_prob(torch.tensor([1, 0])).exp().tolist() == pytest.approx([1, 0.25])


def test_negatives_follow_the_proposal():
    _, log_q = _policy()
    counts = torch.bincount(draw_negatives(log_q, 50_000), minlength=V).double()
    expected = 50_000 * log_q.exp()
    assert ((counts - expected).square() / expected).sum() < 111  # 59 degrees: one in 20,000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"negatives": torch.empty(0, dtype=torch.int64)}, "S at least 1"),
        ({"negatives": torch.zeros(3)}, "item indices"),
        ({"log_proposal": torch.zeros(3)}, "one entry an item"),
        ({"items": torch.zeros(4, 2)}, "one width"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Tensor], message: str):
    given = {
        "hidden": torch.zeros(2, 3),
        "items": torch.zeros(4, 3),
        "negatives": torch.zeros(2, dtype=torch.int64),
        "log_proposal": torch.zeros(4),
    }
    with pytest.raises(ValueError, match=message):
        SampledCatalogueCategorical(**{**given, **change})
    policy = SampledCatalogueCategorical(**given)
    with pytest.raises(ValueError, match=r"\[0, 4\) but holds 4"):
        policy.log_prob(torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="one item index a row"):
        policy.log_prob(torch.zeros(3, 2, dtype=torch.int64))
