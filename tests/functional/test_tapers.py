"""Tapers: their formulas, their limits and the anchor parametrisation."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchrl_drpo.functional.tapers import (
    ExponentialTaper,
    HardCutoff,
    ReciprocalTaper,
    exponential_taper,
    hard_cutoff,
    reciprocal_taper,
)

quick = settings(deadline=None, max_examples=100)
TAPERS = [
    ExponentialTaper(strength=2.0, scale=3.0, threshold=1.0),
    ReciprocalTaper(order="linear", strength=2.0, scale=3.0, threshold=1.0),
    ReciprocalTaper(order="quadratic", strength=2.0, scale=3.0, threshold=1.0),
    ReciprocalTaper(order=3, strength=2.0, scale=3.0, threshold=1.0),
    HardCutoff(threshold=1.0),
]
every_taper = pytest.mark.parametrize("taper", TAPERS, ids=repr)


@quick
@given(
    remoteness=st.floats(0, 1e3),
    strength=st.floats(0, 50),
    scale=st.floats(1e-2, 1e3),
    threshold=st.floats(0, 50),
)
def test_tapers_equal_their_formulas(
    remoteness: float, strength: float, scale: float, threshold: float
):
    x = max((remoteness - threshold) / scale, 0.0)
    at = torch.tensor(remoteness, dtype=torch.float64)
    numbers = {"strength": strength, "scale": scale, "threshold": threshold}
    assert exponential_taper(at, **numbers).item() == pytest.approx(math.exp(-strength * x))
    linear = reciprocal_taper(at, order="linear", **numbers).item()
    assert linear == pytest.approx(1 / (1 + strength * math.sqrt(x)))
    quadratic = reciprocal_taper(at, order="quadratic", **numbers).item()
    assert quadratic == pytest.approx(1 / (1 + strength * x))
    assert hard_cutoff(at, threshold=threshold).item() == float(remoteness <= threshold)


@every_taper
def test_tapers_are_one_up_to_the_threshold_then_fall(taper: Callable[[Tensor], Tensor]):
    weight = taper(torch.linspace(0, 1e4, 10_001, requires_grad=True))
    assert not weight.requires_grad
    assert (weight[:2] == 1).all()
    assert (weight[2:] < 1).all()
    assert (weight.diff() <= 0).all()
    assert (weight >= 0).all()


@every_taper
def test_tapers_at_the_ends_of_the_numbers(taper: Callable[[Tensor], Tensor]):
    weight = taper(torch.tensor([math.inf, math.nan, 3.4e38]))
    assert weight[0] == 0
    assert weight[1].isnan()  # a broken remoteness must not pass for a distant sample
    assert weight[2] < 1e-6
    short = taper(torch.tensor([0.0, 2.0], dtype=torch.bfloat16))
    assert short.dtype == torch.float32


@every_taper
def test_levels_of_guarantee(taper: Callable[[Tensor], Tensor]):
    far = torch.tensor([1e6, 1e8, 1e10], dtype=torch.float64)
    weight = taper(far)
    order = getattr(taper, "order", None)
    order = {"linear": 1, "quadratic": 2, None: math.inf}.get(order, order)
    assert weight[-1] < 1e-4  # L0: w -> 0
    vanishing = (weight * far.sqrt())[-1] < 1e-3  # L1: the force of a negative vanishes
    bounded = (weight * far)[-1] < 1e2  # L2: the loop gain of a reused negative is bounded
    fast = (weight * far**4)[-1] == 0  # L3: whatever the power
    assert (vanishing, bounded, fast) == (order > 1, order >= 2, order == math.inf)


def test_strength_zero_is_the_signed_loss_even_infinitely_far():
    remoteness = torch.tensor([0.0, 1e30, math.inf])
    assert torch.equal(ExponentialTaper(strength=0.0)(remoteness), torch.ones(3))
    assert torch.equal(ReciprocalTaper(strength=0.0)(remoteness), torch.ones(3))


@pytest.mark.parametrize("anchor", [0.01, 0.37, 0.9, 1.0])
@pytest.mark.parametrize("order", ["linear", "quadratic", 0.5, 4])
def test_the_anchor_is_the_weight_one_scale_beyond_the_threshold(anchor: float, order: object):
    at = torch.tensor([2.0, 5.0], dtype=torch.float64)
    exponential = ExponentialTaper.from_anchor(anchor, scale=3.0, threshold=2.0)
    assert exponential.strength == pytest.approx(-math.log(anchor))
    reciprocal = ReciprocalTaper.from_anchor(anchor, order=order, scale=3.0, threshold=2.0)
    assert reciprocal.strength == pytest.approx(1 / anchor - 1)
    for taper in (exponential, reciprocal):
        assert taper(at).tolist() == pytest.approx([1.0, anchor])


def test_a_threshold_may_differ_from_row_to_row():
    threshold = torch.tensor([0.0, 2.0, 9.0])
    weight = exponential_taper(torch.full((3,), 4.0), strength=1.0, scale=1.0, threshold=threshold)
    torch.testing.assert_close(weight, torch.tensor([math.exp(-4), math.exp(-2), 1.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExponentialTaper(strength=-1.0), "strength .* got -1.0"),
        (lambda: ExponentialTaper(scale=0.0), "scale .* got 0.0"),
        (lambda: ReciprocalTaper(threshold=math.nan), "threshold .* got nan"),
        (lambda: ReciprocalTaper(order="cubic"), "order .* 'cubic'"),
        (lambda: ReciprocalTaper(order=0), "order .* got 0"),
        (lambda: ExponentialTaper.from_anchor(0.0), r"anchor must lie in \(0, 1\], got 0.0"),
        (lambda: ReciprocalTaper.from_anchor(1.5), r"anchor must lie in \(0, 1\], got 1.5"),
        (lambda: HardCutoff(math.inf), "threshold .* got inf"),
    ],
)
def test_numbers_out_of_range_are_named(make: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        make()
