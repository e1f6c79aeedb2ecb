"""Ratio objectives: against the published formulas, gradient by gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchrl_drpo.functional.proximal import (
    clipped_surrogate,
    ecpo_surrogate,
    gbpo_surrogate,
    gbpo_weights,
)


def batch(n: int = 200, low: float = -6.0, high: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Advantages, log pi (a leaf) and log pi_old, in float64."""
    generator = torch.Generator().manual_seed(3)
    advantage = torch.randn(n, generator=generator, dtype=torch.float64)
    uniform = torch.rand(2, n, generator=generator, dtype=torch.float64)
    log_prob, old = low + (high - low) * uniform
    return advantage, log_prob.requires_grad_(), old


def gradient(objective: Tensor, log_prob: Tensor) -> Tensor:
    return torch.autograd.grad(objective.sum(), log_prob)[0]


@pytest.mark.parametrize("with_propensity", [True, False])
@pytest.mark.parametrize("high", [0.0, 2.0])  # 2: log-densities above 0, as Gaussians have them
def test_gbpo_is_its_detached_weight_form(with_propensity: bool, high: float):
    advantage, log_prob, old = batch(high=high)
    behavior = old if with_propensity else None
    surrogate = gbpo_surrogate(advantage, log_prob, behavior)
    weights = gbpo_weights(advantage, log_prob, behavior)
    assert not weights.requires_grad
    torch.testing.assert_close(gradient(surrogate, log_prob), weights)
    torch.testing.assert_close(gradient(weights * log_prob, log_prob), weights)


def test_gbpo_weights_are_the_published_minima():
    advantage, log_prob, old = batch()
    pi, ratio = log_prob.detach().exp(), (log_prob.detach() - old).exp()
    positive = ratio.clamp_max(1.0)
    negative = torch.minimum(ratio, pi / (1 - pi))
    expected = advantage * torch.where(advantage >= 0, positive, negative)
    torch.testing.assert_close(gbpo_weights(advantage, log_prob, old), expected)


def test_gbpo_negative_gradient_is_bounded_by_binary_cross_entropy():
    # In the logit of the logged action, |w| (1 - pi) <= pi |A|: what BCE's gradient would be.
    advantage, log_prob, _ = batch()
    pi = log_prob.detach().exp()
    force = gbpo_weights(-advantage.abs(), log_prob).abs() * (1 - pi)
    assert (force <= pi * advantage.abs() + 1e-12).all()


def test_gbpo_complement_is_exact_at_both_ends():
    log_prob = torch.tensor([-1e-12, -40.0], dtype=torch.float64)
    weights = gbpo_weights(-torch.ones(2).double(), log_prob, torch.full((2,), -800.0).double())
    # pi/(1 - pi) = e^-l / (e^-l - 1) style: 1e12 where pi is nearly 1, e^-40 where nearly 0.
    expected = -torch.tensor([1e12, math.exp(-40.0)], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=1e-9, atol=0)


def test_clipped_surrogate_is_ppos():
    advantage, log_prob, old = batch()
    ratio = (log_prob - old).exp()
    published = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    ours = clipped_surrogate(advantage, log_prob, old, clip_epsilon=0.2)
    torch.testing.assert_close(ours, published)
    torch.testing.assert_close(gradient(ours, log_prob), gradient(published, log_prob))
    by_tensor = clipped_surrogate(advantage, log_prob, old, clip_epsilon=torch.tensor(0.2).double())
    torch.testing.assert_close(by_tensor, ours)


def test_clipped_surrogate_has_finite_gradients_where_the_plain_formula_has_nan():
    log_prob = torch.tensor([2000.0, -2000.0], requires_grad=True)
    surrogate = clipped_surrogate(torch.ones(2), log_prob, torch.zeros(2), clip_epsilon=0.2)
    assert torch.equal(gradient(surrogate, log_prob), torch.zeros(2))
    assert surrogate.tolist() == pytest.approx([1.2, 0.0])


def test_ecpo_is_the_published_formula():
    advantage, log_prob, old = batch()
    pi = log_prob.detach().exp()
    raised = torch.where(advantage < 0, torch.maximum(pi / 1.3, old.exp()), old.exp())
    ratio = log_prob.exp() / raised
    published = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    ours = ecpo_surrogate(advantage, log_prob, old, clip_epsilon=0.2, delta=0.1)
    torch.testing.assert_close(ours, published)
    torch.testing.assert_close(gradient(ours, log_prob), gradient(published, log_prob))


def test_ecpo_bounds_what_ppo_leaves_open():
    advantage, old = torch.tensor([-1.0]), torch.tensor([-30.0])
    log_prob = torch.tensor([0.0], requires_grad=True)
    open_ended = gradient(clipped_surrogate(advantage, log_prob, old, clip_epsilon=0.2), log_prob)
    bounded = gradient(ecpo_surrogate(advantage, log_prob, old), log_prob)
    assert open_ended.item() < -1e12
    assert bounded.item() == pytest.approx(-1.3)


def test_ecpo_without_propensities_is_the_signed_gradient():
    advantage, log_prob, _ = batch()
    surrogate = ecpo_surrogate(advantage, log_prob)
    # On positives the ratio is 1; on negatives the old policy is sg pi, above sg pi / 1.3.
    torch.testing.assert_close(surrogate, advantage)
    torch.testing.assert_close(gradient(surrogate, log_prob), advantage)


def test_numbers_out_of_range_are_named():
    zeros = torch.zeros(2)
    with pytest.raises(ValueError, match=r"clip_epsilon must lie in \(0, 1\), got 1.0"):
        clipped_surrogate(zeros, zeros, zeros, clip_epsilon=1.0)
    with pytest.raises(ValueError, match=r"delta .* got 0.0"):
        ecpo_surrogate(zeros, zeros, delta=0.0)
    with pytest.raises(ValueError, match="one shape"):
        gbpo_weights(zeros, torch.zeros(3))
