"""What holds for every batch, whatever is in it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.objectives.cases import (
    LOSSES,
    NUM_ITEMS,
    SAMPLING,
    batch,
    categorical_actor,
    gaussian_actor,
)

N = 40


#: All but the one that draws actions of its own.
LAWFUL = [n for n in LOSSES if n not in SAMPLING]
#: All that see rewards through a baseline or an order; DRPO-Q's critics regress on them.
SHIFT_INVARIANT = [n for n in LAWFUL if n != "drpo q"]
quick = settings(deadline=None, max_examples=8)


@pytest.mark.parametrize("name", LAWFUL)
@quick
@given(seed=st.integers(0, 10_000))
def test_order_copies_and_skipping_do_not_matter(name: str, seed: int):
    torch.manual_seed(seed)
    actor = gaussian_actor()
    data = batch(actor, 20, seed=seed)  # kappa 0.3, 0.4 and 0.5 of 20 and of 40: no rounding
    loss = LOSSES[name](actor).eval()
    expected = loss(data)["loss_actor"]
    order = torch.randperm(20)
    torch.testing.assert_close(loss(data[order])["loss_actor"], expected, rtol=1e-4, atol=1e-5)
    loss.skip_filtered = False
    torch.testing.assert_close(loss(data)["loss_actor"], expected, rtol=1e-6, atol=1e-6)
    whole_batch_only = "groups" in name or "dislikes" in name  # their counts round
    spread = name in ("repulsive taper", "ecpo", "guided", "drpo", "drpo negatives", "drpo q")
    if not whole_batch_only and not spread:  # a sample deviation divides by N - 1
        twice = loss(torch.cat([data, data]))["loss_actor"]
        torch.testing.assert_close(twice, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SHIFT_INVARIANT)
@quick
@given(seed=st.integers(0, 10_000), shift=st.floats(-8, 8))
def test_a_constant_added_to_all_rewards_does_not_matter(name: str, seed: int, shift: float):
    torch.manual_seed(seed)
    actor = gaussian_actor().double()
    data = batch(actor, 20, seed=seed).apply(lambda t: t.double() if t.is_floating_point() else t)
    loss = LOSSES[name](actor).double().eval()
    expected = loss(data)["loss_actor"]
    data["next", "reward"] += shift
    torch.testing.assert_close(loss(data)["loss_actor"], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LAWFUL)
def test_float32_agrees_with_float64(name: str):
    torch.manual_seed(0)
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    loss = LOSSES[name](actor).eval()
    single = loss(data)
    wide = loss.double()(data.apply(lambda t: t.double() if t.is_floating_point() else t))
    for key, value in single.items():
        torch.testing.assert_close(value.double(), wide[key].double(), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("crr", "drpo q")])
def test_item_indices_may_carry_a_last_dimension_of_one(name: str):
    torch.manual_seed(0)
    actor = categorical_actor()
    data = batch(actor, N)
    assert data["action"].max() < NUM_ITEMS
    loss = LOSSES[name](actor).eval()
    expected = loss(data)["loss_actor"]
    data["action"] = data["action"].unsqueeze(-1)
    assert loss(data)["loss_actor"] == expected
