"""Diagnostics against autograd, brute force and the bounds that theory gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from torchrl_drpo.functional.diagnostics import (
    categorical_score_norm,
    effective_sample_size,
    gaussian_score,
    gaussian_score_norm,
    negative_mass_ratio,
    repulsion_to_attraction,
    taper_active_fraction,
    taper_retention,
)
from torchrl_drpo.functional.remoteness import categorical_remoteness, gaussian_remoteness


def test_effective_sample_size():
    weight = torch.rand(100, dtype=torch.float64)
    by_hand = sum(weight.tolist()) ** 2 / sum(w * w for w in weight.tolist())
    assert effective_sample_size(weight).item() == pytest.approx(by_hand)
    assert effective_sample_size(-weight).item() == pytest.approx(by_hand)
    assert effective_sample_size(torch.full((9,), 1e30)).item() == pytest.approx(9.0)
    assert effective_sample_size(torch.full((9,), 1e-30)).item() == pytest.approx(9.0)
    mask = torch.arange(100) < 40
    assert effective_sample_size(weight, mask) == effective_sample_size(weight[:40])
    assert effective_sample_size(torch.zeros(5)) == 0
    assert effective_sample_size(torch.empty(0)) == 0


def test_negative_mass_ratio():
    assert negative_mass_ratio(torch.tensor([1.0, 3.0, -1.0, -1.0])).item() == 0.5
    assert negative_mass_ratio(torch.tensor([-1.0, -2.0])).item() == math.inf
    assert negative_mass_ratio(torch.zeros(3)).item() == 0.0
    masked = torch.tensor([1.0, -1.0, math.nan])
    assert negative_mass_ratio(masked, torch.tensor([True, True, False])).item() == 1.0


def test_gaussian_score_is_autograds():
    action = torch.randn(20, 4, dtype=torch.float64)
    loc = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    log_scale = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    log_prob = Independent(Normal(loc, log_scale.exp()), 1).log_prob(action)
    expected = torch.autograd.grad(log_prob.sum(), (loc, log_scale))
    for ours, theirs in zip(gaussian_score(action, loc, log_scale.exp()), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    whitened = (expected[0] * log_scale.exp()).norm(dim=-1)
    remoteness = gaussian_remoteness(action, loc, log_scale.exp())
    torch.testing.assert_close(gaussian_score_norm(remoteness), whitened.detach())


def test_the_sign_rule_of_the_variance():
    # A negative at |z| < 1 raises sigma, at |z| > 1 lowers it, and a positive does the reverse.
    z = torch.tensor([[0.2, 3.0]], dtype=torch.float64)
    _, score = gaussian_score(z, torch.zeros(1, 2).double(), torch.ones(2).double())
    assert (-score > 0).tolist() == [[True, False]]
    assert (score > 0).tolist() == [[False, True]]


@pytest.mark.parametrize("num_actions", [2, 3, 64])
def test_categorical_scores_are_bounded(num_actions: int):
    logits = (4 * torch.randn(500, num_actions, dtype=torch.float64)).requires_grad_()
    action = torch.randint(num_actions, (500,))
    log_prob = logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)
    (score,) = torch.autograd.grad(log_prob.sum(), logits)
    norm = categorical_score_norm(categorical_remoteness(log_prob))
    torch.testing.assert_close(score.gather(-1, action.unsqueeze(-1)).squeeze(-1), norm)
    squared = score.square().sum(-1)
    assert (squared >= num_actions / (num_actions - 1) * norm.square() * (1 - 1e-9)).all()
    assert (squared <= 2 * norm.square() * (1 + 1e-9)).all()


def test_on_policy_the_mean_score_has_the_norm_of_the_precision_wherever_the_mean_is():
    # E ||grad_mu log pi||^2 = tr(Sigma^-1), by Gauss-Hermite quadrature (exact for squares).
    nodes, weights = (torch.tensor(t) for t in _gauss_hermite(8))
    scale = torch.tensor([0.3, 2.0], dtype=torch.float64)
    for mean in (0.0, 1e3, -1e6):
        loc = torch.full((8, 2), mean, dtype=torch.float64)
        score, _ = gaussian_score(loc + scale * nodes.unsqueeze(-1), loc, scale)
        expected = (weights.unsqueeze(-1) * score.square()).sum()
        assert expected.item() == pytest.approx((1 / scale.square()).sum().item(), rel=1e-6)


def _gauss_hermite(n: int):
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return nodes, weights / weights.sum()


def test_repulsion_to_attraction_weighs_mass_by_force():
    weight = torch.tensor([1.0, 1.0, -0.5, -0.5, 0.0])
    norm = torch.tensor([1.0, 3.0, 2.0, 6.0, math.inf])
    assert repulsion_to_attraction(weight, norm).item() == pytest.approx(4.0 / 4.0)
    assert repulsion_to_attraction(weight[:2], norm[:2]).item() == 0.0
    assert repulsion_to_attraction(-weight[:2], norm[:2]).item() == math.inf


def test_taper_activity_and_retention_count_negatives_only():
    taper = torch.tensor([1.0, 0.5, 0.25, 0.0, 0.1])
    remoteness = torch.tensor([0.5, 0.9, 2.0, 8.0, 9.0])
    negative = torch.tensor([True, True, True, True, False])
    mask = torch.tensor([True, True, True, False, True])
    assert taper_active_fraction(taper, negative).item() == pytest.approx(3 / 4)
    assert taper_active_fraction(taper, negative, mask).item() == pytest.approx(2 / 3)
    assert taper_active_fraction(taper, torch.zeros(5, dtype=torch.bool)).item() == 0.0
    near, far = taper_retention(taper, remoteness, negative, threshold=1.0)
    assert (near.item(), far.item()) == pytest.approx((0.75, 0.125))
    near, far = taper_retention(taper, remoteness, negative, threshold=1.0, mask=mask)
    assert (near.item(), far.item()) == pytest.approx((0.75, 0.25))
