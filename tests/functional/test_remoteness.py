"""Remoteness against torch's own distributions and linear algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, MultivariateNormal

from torchrl_drpo.functional.remoteness import (
    categorical_remoteness,
    gaussian_remoteness,
    sequence_remoteness,
)


def test_gaussian_remoteness_is_the_squared_mahalanobis_distance():
    action, loc = torch.randn(2, 30, 5, dtype=torch.float64)
    scale = torch.rand(5, dtype=torch.float64) + 0.1
    covariance = torch.diag(scale.square())
    offset = (action - loc).unsqueeze(-1)
    expected = (offset.mT @ torch.linalg.solve(covariance, offset)).flatten()
    remoteness = gaussian_remoteness(action, loc, scale)
    torch.testing.assert_close(remoteness, expected)
    torch.testing.assert_close(
        gaussian_remoteness(action, loc, scale, per_dimension=True), expected / 5
    )
    # Neither the normalising constant nor the half of the log-density is in it.
    density = MultivariateNormal(loc, covariance)
    torch.testing.assert_close(
        remoteness, -2 * (density.log_prob(action) - density.log_prob(loc)), rtol=1e-9, atol=1e-9
    )


def test_gaussian_remoteness_has_mean_d_on_policy():
    d, n = 16, 20_000
    loc, scale = torch.randn(d), torch.rand(d) + 0.5
    action = loc + scale * torch.randn(n, d)
    mean = gaussian_remoteness(action, loc.expand(n, d), scale).mean().item()
    assert mean == pytest.approx(d, abs=5 * math.sqrt(2 * d / n))  # chi-square: variance 2 d


def test_categorical_remoteness_is_surprisal():
    policy = Categorical(logits=torch.randn(8, 50))
    action = policy.sample()
    expected = -policy.probs.gather(-1, action.unsqueeze(-1)).squeeze(-1).log()
    torch.testing.assert_close(categorical_remoteness(policy.log_prob(action)), expected)


def test_sequence_remoteness_ignores_padding_and_length():
    token_log_prob = torch.tensor([[-1.0, -2.0, math.nan], [-3.0, -3.0, -3.0], [math.nan] * 3])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]], dtype=torch.bool)
    expected = torch.tensor([1.5, 3.0, 0.0])
    torch.testing.assert_close(sequence_remoteness(token_log_prob, mask), expected)
    torch.testing.assert_close(sequence_remoteness(torch.full((2, 7), -0.5)), torch.full((2,), 0.5))


def test_remoteness_is_detached_and_wide():
    loc = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    remoteness = gaussian_remoteness(torch.randn(4, 3).bfloat16(), loc, torch.ones(3))
    assert remoteness.dtype == torch.float32
    assert not remoteness.requires_grad
    assert not categorical_remoteness(loc[:, 0]).requires_grad
    with pytest.raises(ValueError, match="one shape"):
        gaussian_remoteness(torch.zeros(3, 2), torch.zeros(2), torch.ones(2))
