"""Weight rules: closed forms, and what must hold for every batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from torchrl_drpo.functional.dro_programs import kl_dro_weights, optimistic_dro_weights
from torchrl_drpo.functional.proximal import gbpo_weights
from torchrl_drpo.functional.tapers import exponential_taper
from torchrl_drpo.functional.weights import (
    asymmetric_weights,
    crr_weights,
    exponential_weights,
    signed_weights,
    topr_weights,
)

Rule = Callable[[Tensor, Tensor | None], Tensor]

#: Every rule that looks at the quality alone, as ``rule(quality, mask)``.
RULES: dict[str, Rule] = {
    "optimistic": lambda r, m: optimistic_dro_weights(r, 0.3, m),
    "kl": lambda r, m: kl_dro_weights(r, 0.3, 0.5, m),
    "awr": lambda r, m: exponential_weights(r, temperature=0.5, max_weight=20.0, mask=m),
    "awr normalised": lambda r, m: exponential_weights(r, temperature=2, normalize=True, mask=m),
    "crr": lambda r, m: crr_weights(r, mask=m),
    "crr exponential": lambda r, m: crr_weights(r, mode="exponential", mask=m),
    "asymre": lambda r, m: asymmetric_weights(r, shift=-0.25, negative_weight=0.5, mask=m),
}
SHIFT_INVARIANT = ("optimistic", "kl", "awr normalised", "asymre")
MEAN_ONE = ("optimistic", "kl", "awr normalised")

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
quick = settings(deadline=None, max_examples=60)


def qualities(min_size: int = 1) -> st.SearchStrategy[Tensor]:
    """Batches with ties (steps of 1/8, exact in float32) as often as without."""
    grid = st.integers(-40, 40).map(lambda i: i / 8)
    return st.lists(grid, min_size=min_size, max_size=50).map(
        lambda values: torch.tensor(values, dtype=torch.float64)
    )


@every_rule
@quick
@given(quality=qualities(), seed=st.integers(0, 2**31))
def test_weights_follow_a_permutation_of_the_rows(rule: Rule, quality: Tensor, seed: int):
    order = torch.randperm(len(quality), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(rule(quality[order], None), rule(quality, None)[order])


@every_rule
@quick
@given(quality=qualities(), data=st.data())
def test_a_mask_is_the_same_as_dropping_the_rows(rule: Rule, quality: Tensor, data: st.DataObject):
    kept = data.draw(st.lists(st.booleans(), min_size=len(quality), max_size=len(quality)))
    mask = torch.tensor(kept)
    dirty = torch.where(mask, quality, math.nan)
    weight = rule(dirty, mask)
    assert (weight[~mask] == 0).all()
    if mask.any():
        torch.testing.assert_close(weight[mask], rule(quality[mask], None))


@every_rule
@quick
@given(quality=qualities())
def test_a_batch_given_twice_keeps_its_weights(rule: Rule, quality: Tensor):
    torch.testing.assert_close(rule(quality.repeat(2), None), rule(quality, None).repeat(2))


@every_rule
@quick
@given(quality=qualities())
def test_float32_agrees_with_float64(rule: Rule, quality: Tensor):
    single = rule(quality.float(), None)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), rule(quality, None).double(), rtol=3e-5, atol=1e-6)


@every_rule
def test_half_precision_and_integers_are_weighed_in_float32(rule: Rule):
    quality = torch.tensor([0, 1, 1, 3, 5, 2])
    expected = rule(quality.float(), None)
    for dtype in (torch.int64, torch.bfloat16, torch.float16):
        weight = rule(quality.to(dtype), None)
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, expected)


@every_rule
def test_weights_are_constants(rule: Rule):
    assert not rule(torch.randn(9, requires_grad=True), None).requires_grad


@pytest.mark.parametrize("name", SHIFT_INVARIANT)
@quick
@given(quality=qualities(), shift=st.integers(-64, 64))
def test_a_constant_added_to_all_rewards_changes_nothing(name: str, quality: Tensor, shift: int):
    torch.testing.assert_close(RULES[name](quality + shift, None), RULES[name](quality, None))


@pytest.mark.parametrize("name", MEAN_ONE)
@quick
@given(quality=qualities())
def test_mean_weight_is_one(name: str, quality: Tensor):
    assert RULES[name](quality, None).mean().item() == pytest.approx(1.0, abs=1e-12)


@quick
@given(quality=qualities(), scale=st.sampled_from([0.125, 0.5, 4.0]))
def test_rules_scale_with_the_reward_as_their_formula_says(quality: Tensor, scale: float):
    same = torch.testing.assert_close
    same(RULES["optimistic"](scale * quality, None), RULES["optimistic"](quality, None))
    same(RULES["crr"](scale * quality, None), RULES["crr"](quality, None))
    # A temperature is in units of the reward.
    same(kl_dro_weights(scale * quality, 0.3, 0.5 * scale), kl_dro_weights(quality, 0.3, 0.5))
    same(
        exponential_weights(scale * quality, temperature=scale),
        exponential_weights(quality, temperature=1.0),
    )
    # Signed rules are of degree one.
    same(
        asymmetric_weights(scale * quality, shift=-0.25 * scale),
        scale * asymmetric_weights(quality, shift=-0.25),
    )


@quick
@given(quality=qualities(), kappa=st.floats(0.02, 1.0), temperature=st.floats(1e-3, 1e3))
def test_kl_weights_rise_with_quality_below_the_cap(
    quality: Tensor, kappa: float, temperature: float
):
    ranked = kl_dro_weights(quality.sort().values, kappa, temperature)
    assert (ranked.diff() >= -1e-12).all()
    assert ranked.max() <= 1 / kappa * (1 + 1e-12)
    assert ranked.min() >= 0


def test_everything_masked_gives_zeros():
    nothing = torch.zeros(4, dtype=torch.bool)
    for name, rule in RULES.items():
        assert torch.equal(rule(torch.randn(4), nothing), torch.zeros(4)), name


def test_exponential_weights_neither_overflow_nor_lose_the_cap():
    huge = torch.tensor([-1e6, 0.0, 1e6])
    capped = exponential_weights(huge, temperature=0.05, max_weight=20.0)
    torch.testing.assert_close(capped, torch.tensor([0.0, 1.0, 20.0]))
    normalised = exponential_weights(huge, temperature=0.05, normalize=True)
    torch.testing.assert_close(normalised, torch.tensor([0.0, 0.0, 3.0]))


def test_asymmetric_weights_by_hand():
    # Mean 2, shift -1: baseline 1, advantages -1, 0, 4; negatives weigh a tenth.
    weight = asymmetric_weights(torch.tensor([0.0, 1.0, 5.0]), shift=-1.0, negative_weight=0.1)
    torch.testing.assert_close(weight, torch.tensor([-0.1, 0.0, 4.0]))


def test_signed_weights_are_apg_positive_only_and_everything_between():
    advantage = torch.tensor([1.5, 0.0, -0.5, -2.0])
    taper = torch.tensor([0.1, 0.1, 1.0, 0.25])
    assert torch.equal(signed_weights(advantage), advantage)
    assert torch.equal(signed_weights(advantage, negative_scale=0.0), advantage.clamp_min(0))
    expected = torch.tensor([1.5, 0.0, -0.25, -0.25])
    assert torch.equal(signed_weights(advantage, taper, negative_scale=0.5), expected)


@quick
@given(beta=st.floats(0.0, 3.0), seed=st.integers(0, 2**31))
def test_topr_is_the_exponential_taper_on_surprisal(beta: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    log_prob, behavior = torch.randn(2, 32, generator=generator, dtype=torch.float64) - 3.0
    advantage = torch.randn(32, generator=generator, dtype=torch.float64)
    taper = exponential_taper(-log_prob, strength=beta, scale=1.0, threshold=-behavior)
    torch.testing.assert_close(
        topr_weights(advantage, log_prob, behavior, beta=beta), signed_weights(advantage, taper)
    )
    ratio = (log_prob.exp() / behavior.exp()) ** beta  # the formula as published
    by_hand = advantage.clamp_min(0) - ratio.clamp_max(1.0) * (-advantage).clamp_min(0)
    torch.testing.assert_close(topr_weights(advantage, log_prob, behavior, beta=beta), by_hand)


def test_topr_survives_impossible_actions():
    log_prob = torch.tensor([-math.inf, -math.inf])
    weight = topr_weights(torch.tensor([1.0, -1.0]), log_prob, torch.tensor([-1.0, -1.0]))
    torch.testing.assert_close(weight, torch.tensor([1.0, 0.0]))
    plain = topr_weights(torch.tensor([1.0, -1.0]), log_prob, torch.zeros(2), beta=0.0)
    torch.testing.assert_close(plain, torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("rule", [topr_weights, gbpo_weights])
def test_rules_on_ratios_mask_rows(rule: Callable[..., Tensor]):
    advantage, log_prob = torch.tensor([1.0, -1.0, 5.0]), torch.tensor([-1.0, -2.0, math.nan])
    mask = torch.tensor([True, True, False])
    whole = rule(advantage, log_prob, torch.full((3,), -1.5), mask=mask)
    cut = rule(advantage[:2], log_prob[:2], torch.full((2,), -1.5))
    torch.testing.assert_close(whole, torch.cat([cut, torch.zeros(1)]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: exponential_weights(r, temperature=0.0), "temperature must be .* got 0.0"),
        (lambda r: exponential_weights(r, temperature=1.0, max_weight=-1.0), "max_weight .* -1.0"),
        (lambda r: crr_weights(r, mode="soft"), "mode must be 'binary' or 'exponential'"),
        (lambda r: asymmetric_weights(r, shift=math.inf), "shift must be a finite number, got inf"),
        (lambda r: asymmetric_weights(r, negative_weight=-0.1), "negatives .* got -0.1"),
        (lambda r: topr_weights(r, r, r, beta=-1.0), "beta .* got -1.0"),
        (lambda r: topr_weights(r, r, r[:2]), r"behavior_log_prob \(2,\)"),
        (lambda r: crr_weights(r, mask=torch.ones(2, dtype=torch.bool)), r"mask \(2,\)"),
    ],
)
def test_bad_input_is_named(call: Callable[[Tensor], Tensor], message: str):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(3))
