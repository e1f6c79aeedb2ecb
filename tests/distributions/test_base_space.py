"""The base space of every distribution that TorchRL ships, and of some of torch's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributions as D
from torch import Tensor
from torch.distributions import Distribution
from torchrl.modules import distributions as shipped

from torchrl_drpo.distributions import SemanticIDCategorical
from torchrl_drpo.distributions.base_space import choices, is_discrete, whitened

B, K = 5, 3
LOC, SCALE = torch.randn(B, K), torch.rand(B, K) + 0.2
LOGITS = torch.randn(B, 7)
SEEN = torch.rand(B, 7) < 0.6


def z_of(raw: Tensor) -> Tensor:
    """By hand, in float64, of a value in the base space."""
    return (raw.double() - LOC.double()) / SCALE.double()


def squashed(low: float, high: float) -> tuple[Distribution, Tensor, Tensor]:
    raw = torch.randn(B, K, dtype=torch.float64)
    action = low + (high - low) * (raw.tanh() + 1) / 2
    return shipped.TanhNormal(LOC, SCALE, low=low, high=high), action.float(), z_of(raw)


def plain(dist: Distribution) -> tuple[Distribution, Tensor, Tensor]:
    action = torch.randn(B, K)
    return dist, action, z_of(action)


def correlated(make: type) -> tuple[Distribution, Tensor, Tensor]:
    """Whitening is up to a rotation, so it is the squares that are compared."""
    factor, diagonal = torch.randn(K, 2), torch.rand(K) + 0.5
    covariance = factor @ factor.T + diagonal.diag()
    if make is D.LowRankMultivariateNormal:
        dist = make(LOC, factor, diagonal)
    else:
        dist = make(LOC, covariance)
    action = torch.randn(B, K)
    apart = (action - LOC).double()
    square = torch.einsum("bi,ij,bj->b", apart, covariance.double().inverse(), apart)
    return dist, action, square.sqrt().unsqueeze(-1)


#: Distributions that are Gaussian somewhere, an action, and by hand how far it is in sigmas.
GAUSSIAN = {
    "IndependentNormal": lambda: plain(shipped.IndependentNormal(LOC, SCALE)),
    "TanhNormal": lambda: squashed(-1.0, 1.0),
    "TanhNormal, other bounds": lambda: squashed(0.0, 10.0),
    "TruncatedNormal": lambda: plain(shipped.TruncatedNormal(LOC, SCALE, low=-9.0, high=9.0)),
    "Normal": lambda: plain(D.Normal(LOC, SCALE)),
    "Independent of Independent": lambda: plain(
        D.Independent(D.Independent(D.Normal(LOC, SCALE), 1), 1)
    ),
    "LogNormal": lambda: (D.LogNormal(LOC, SCALE), LOC.exp() * 2, z_of(LOC + math.log(2))),
    "MultivariateNormal": lambda: correlated(D.MultivariateNormal),
    "LowRankMultivariateNormal": lambda: correlated(D.LowRankMultivariateNormal),
}
#: Discrete distributions, and how many choices an action is.
DISCRETE = {
    "MaskedCategorical": (lambda: shipped.MaskedCategorical(logits=LOGITS, mask=SEEN), 1),
    "MaskedCategorical, sparse": (
        lambda: shipped.MaskedCategorical(logits=LOGITS, indices=torch.tensor([[1, 2, 5]] * B)),
        1,
    ),
    "MaskedOneHotCategorical": (
        lambda: shipped.MaskedOneHotCategorical(logits=LOGITS, mask=SEEN),
        1,
    ),
    "OneHotCategorical": (lambda: shipped.OneHotCategorical(logits=LOGITS), 1),
    "Ordinal": (lambda: shipped.Ordinal(LOGITS), 1),
    "OneHotOrdinal": (lambda: shipped.OneHotOrdinal(LOGITS), 1),
    "LLMMaskedCategorical": (lambda: shipped.LLMMaskedCategorical(LOGITS, SEEN), 1),
    "Categorical": (lambda: D.Categorical(logits=LOGITS), 1),
    "torch's OneHotCategorical": (lambda: D.OneHotCategorical(logits=LOGITS), 1),
    "many at once": (
        lambda: D.Independent(D.Categorical(logits=torch.randn(B, K, 4)), 1),
        K,
    ),
    "semantic IDs": (lambda: SemanticIDCategorical(torch.randn(B, K, 4)), K),
}
#: Neither: what may lie under them cannot be measured.
NEITHER = {
    "Delta": lambda: (shipped.Delta(LOC), LOC),
    "TanhDelta": lambda: (shipped.TanhDelta(LOC), LOC.tanh()),
    "Beta": lambda: (D.Independent(D.Beta(SCALE, SCALE), 1), torch.rand(B, K)),
    "HalfNormal": lambda: (D.HalfNormal(SCALE), SCALE),
    "Laplace": lambda: (D.Laplace(LOC, SCALE), LOC),
    "RelaxedOneHotCategorical": lambda: (
        D.RelaxedOneHotCategorical(torch.tensor(0.5), logits=LOGITS),
        LOGITS.softmax(-1),
    ),
}


def test_every_distribution_that_torchrl_ships_has_its_place():
    classes = {
        name
        for name in dir(shipped)
        if isinstance(getattr(shipped, name), type)
        and issubclass(getattr(shipped, name), Distribution)
    }
    placed = {name.split(",")[0] for name in (*GAUSSIAN, *DISCRETE, *NEITHER)}
    assert classes <= placed, "decide what remoteness means for it, and list it above"


@pytest.mark.parametrize("name", GAUSSIAN)
def test_gaussians_are_measured_in_their_base_space(name: str):
    dist, action, expected = GAUSSIAN[name]()
    z = whitened(dist, action)
    torch.testing.assert_close(
        z.square().sum(-1).double(), expected.square().sum(-1), rtol=2e-4, atol=1e-5
    )
    assert not is_discrete(dist, action)


def test_a_draw_of_a_gaussian_has_a_chi_square_law():
    for name in ("IndependentNormal", "TanhNormal", "TanhNormal, other bounds"):
        dist, _, _ = GAUSSIAN[name]()
        distance = whitened(dist, dist.sample((4_000,))).square().sum(-1)
        assert distance.mean().item() == pytest.approx(K, abs=0.1)  # variance 2 d, of 20,000 draws


def test_half_precision_is_raised_before_anything_is_subtracted():
    loc = torch.tensor([[256.0]], dtype=torch.bfloat16)
    dist = D.Normal(loc, torch.ones_like(loc))
    assert whitened(dist, torch.tensor([[257.0]])).item() == 1.0


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_actions_count_their_choices(name: str):
    make, count = DISCRETE[name]
    dist = make()
    action = dist.sample()
    for stored in (action, action.float()) if "OneHot" in name else (action,):
        assert whitened(dist, stored) is None
        assert is_discrete(dist, stored)
    found = choices(dist)
    assert (found == count) if isinstance(found, int) else (found == count).all()


def test_masked_levels_and_positions_are_no_choices():
    levels = torch.tensor([[True, True, False], [True, False, False]])
    assert choices(SemanticIDCategorical(torch.randn(2, 3, 4), levels)).tolist() == [2, 1]
    dist = shipped.LLMMaskedCategorical(torch.randn(2, 3, 4), levels)
    assert choices(dist).sum(-1).tolist() == [2, 1]


@pytest.mark.parametrize("name", NEITHER)
def test_what_is_neither_is_not_taken_for_either(name: str):
    dist, action = NEITHER[name]()
    assert whitened(dist, action) is None
    assert not is_discrete(dist, action)
