"""What every objective takes for a signal, and what it refuses: one rule for all of them."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchrl.objectives.common import LossModule

import torchrl_drpo as drpo
from tests.distributed.fake import group_of
from tests.objectives.by_hand import log_prob
from tests.objectives.cases import (
    LOSSES,
    assert_same,
    batch,
    gaussian_actor,
    gradients,
    make,
    run,
    total,
)

N = 12
every_loss = pytest.mark.parametrize("name", LOSSES)
REWARD = ("next", "reward")
#: Losses that look at no reward.
BLIND = ("bc",)
#: Those whose critics regress on it, in units that have no place for 1e7.
CRITICS = ("crr", "drpo q")


def both(name: str, **options: object) -> tuple[LossModule, LossModule]:
    """Two equal losses, at rest."""
    torch.manual_seed(5)
    loss = make(name, **options).eval()
    return loss, copy.deepcopy(loss)


# -- types ----------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("level", ["step", "trajectory"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.half])
def test_clicks_and_counts_are_numbers(name: str, level: str, dtype: torch.dtype):
    if level == "trajectory" and name in CRITICS:
        pytest.skip("trains critics from single steps")
    data = batch(gaussian_actor(), *((N,) if level == "step" else (N, 3)))
    data[REWARD] = (
        (torch.arange(N) % 3 > 1)
        .float()
        .reshape(N, *[1] * (len(data.shape)))
        .expand(*data.shape, 1)
    )
    loss, other = both(name, level=level)
    for mask in (None, torch.arange(N) < N - 2):  # another path of the selection
        if mask is not None:
            data.set("shifted_valid", mask.reshape(N, *[1] * (data.ndim - 1)).expand(data.shape))
        expected = run(loss, data)
        typed = data.copy().set(REWARD, data[REWARD].to(dtype))
        assert_same(run(other, typed), expected, rtol=1e-6, atol=1e-6, check_dtype=False)
        assert run(other, typed)["loss_actor"].dtype == torch.float32


@pytest.mark.parametrize("path", ["reference", "fused"])
@pytest.mark.parametrize("kappa", [0.3, 1.0])
def test_clicks_on_every_path_of_drpo(path: str, kappa: float):
    data = batch(gaussian_actor(), N)
    loss = drpo.DRPOLoss(gaussian_actor(), kappa=kappa, path=path)
    other = drpo.DRPOLoss(copy.deepcopy(loss.actor_network), kappa=kappa)
    other.load_state_dict(loss.state_dict())
    data[REWARD] = torch.arange(N) % 3 == 0
    typed = run(loss, data)
    assert_same(typed, run(other, data.set(REWARD, data[REWARD].float())), rtol=1e-5, atol=1e-6)


def test_whole_numbers_beyond_float32_keep_their_differences():
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    data[REWARD] = 2**30 + torch.arange(N)
    apart = torch.arange(N, dtype=torch.float64) - (N - 1) / 2
    expected = -(apart * log_prob(actor, data).double()).mean()
    found = drpo.RepulsiveLoss(actor)(data)["loss_actor"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in (*BLIND, *CRITICS)])
@pytest.mark.parametrize("masked", [False, True])
def test_a_large_offset_costs_no_digits(name: str, masked: bool):
    data = batch(gaussian_actor(), 40)
    data[REWARD] = (2 * data[REWARD]).round()
    if masked:
        data.set("shifted_valid", torch.arange(40) < 33)
    loss, other = both(name)
    expected = run(loss, data)
    total(expected).backward()
    far = data.copy().set(REWARD, data[REWARD] + 1e7)
    found = run(other, far)
    total(found).backward()
    torch.testing.assert_close(found["loss_actor"], expected["loss_actor"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients(other), gradients(loss), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["topr", "gbpo", "ecpo"])
def test_half_precision_propensities_are_raised_before_their_logarithm(name: str):
    data = batch(gaussian_actor(), N)
    data["propensity"] = data["propensity"].half()
    loss, other = both(name)
    wide = data.copy().set("propensity", data["propensity"].float())
    assert_same(run(loss, data), run(other, wide))


def test_half_precision_is_raised_before_anything_is_subtracted():
    actor, data = gaussian_actor(), batch(gaussian_actor(), 8)
    data[REWARD] = torch.tensor([65504.0] * 2 + [-65504.0] * 6).half()
    wide = data.copy().set(REWARD, data[REWARD].float())
    loss, other = drpo.RepulsiveLoss(actor), drpo.RepulsiveLoss(copy.deepcopy(actor))
    assert_same(loss(data), other(wide))
    advantage = torch.tensor([256.0, 1.0, -256.0] * 2 + [0.0, 0.0])
    data["advantage"] = advantage.bfloat16()
    assert_same(loss(data), other(wide.set("advantage", advantage)))


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in BLIND])
@pytest.mark.parametrize("value", [1e39, -1e300, math.inf, math.nan])
def test_what_float32_cannot_hold_is_named(name: str, value: float):
    data = batch(gaussian_actor(), N)
    data[REWARD] = data[REWARD].double()
    data[REWARD][5] = value
    with pytest.raises(ValueError, match="row 5 holds"):
        run(make(name), data)
    run(make(name), data.set("shifted_valid", torch.arange(N) != 5))  # padding may hold anything


# -- shapes and masks -----------------------------------------------------------------------------


@every_loss
def test_a_row_without_a_batch_dimension_is_told_so(name: str):
    data = batch(gaussian_actor(), N)
    with pytest.raises(ValueError, match="without a batch dimension"):
        run(make(name), data[0])
    with pytest.raises(ValueError, match="got an empty batch"):
        run(make(name), data[:0])
    assert torch.isfinite(run(make(name), data[:1])["loss_actor"])
    if name not in CRITICS:
        with pytest.raises(ValueError, match=r"whole rows of a \[B, T\] batch"):
            run(make(name, level="trajectory"), data)


@every_loss
def test_a_fully_masked_batch_is_refused_unless_other_ranks_may_have_rows(name: str):
    data = batch(gaussian_actor(), N)
    data["action"].fill_(math.nan)
    data.set("shifted_valid", torch.zeros(N, dtype=torch.bool))
    with pytest.raises(ValueError, match=f"all {N} rows .* are masked out"):
        run(make(name), data)
    for ranks, options in ((1, {"check_inputs": False}), (2, {})):
        loss = make(name, **options)
        with group_of(ranks), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rank-local numbers
            out = run(loss, data)
        total(out).backward()
        assert total(out) == 0
        assert all((gradient == 0).all() for gradient in gradients(loss).values())


# -- sampler weights ------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_sampler_weights_are_looked_at(name: str, value: float):
    data = batch(gaussian_actor(), N).set("priority_weight", torch.ones(N))
    data["priority_weight"][4] = value
    with pytest.raises(ValueError, match=r"priority_weight.* at least 0 but row 4 holds"):
        run(make(name), data)
    out = run(make(name), data.set("shifted_valid", torch.arange(N) != 4))
    assert torch.isfinite(total(out))
    loss = make(name)
    loss.use_prioritized_weights = False  # TorchRL's switch
    assert torch.isfinite(total(run(loss, data)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.half])
def test_sampler_weights_of_any_type(dtype: torch.dtype):
    data, weights = batch(gaussian_actor(), N), torch.randint(1, 4, (N,))
    loss, other = both("repulsive")
    expected = run(loss, data.copy().set("priority_weight", weights.float()))
    assert_same(run(other, data.set("priority_weight", weights.to(dtype))), expected)


# -- coefficients ---------------------------------------------------------------------------------

#: A loss, one of its coefficients, numbers that it may have and that it may not.
COEFFICIENTS: dict[str, tuple[str, str, float, tuple[float, ...]]] = {
    "kappa": ("drpo", "kappa", 0.25, (0.0, -0.5, 1.5, math.nan)),
    "kappa of DRPO-Q": ("drpo q", "kappa", 0.25, (0.0, 1.5)),
    "clip_epsilon": ("bppo", "clip_epsilon", 0.1, (0.0, 1.0, math.nan)),
    "reward_scale": ("guided", "reward_scale", 2.0, (0.0, -1.0, math.inf, math.nan)),
}
SETTERS: dict[str, Callable[[float], float | Tensor]] = {
    "number": lambda value: value,
    "tensor": lambda value: torch.tensor(value),
    "NumPy's": lambda value: np.float32(value),
    "float64 of one entry": lambda value: torch.tensor([value], dtype=torch.float64)[0],
}


@pytest.mark.parametrize("which", COEFFICIENTS)
@pytest.mark.parametrize("kind", SETTERS)
def test_a_coefficient_is_checked_however_it_is_set(which: str, kind: str):
    name, key, good, bad = COEFFICIENTS[which]
    loss, given = make(name), SETTERS[kind]
    for value in bad:
        with pytest.raises(ValueError, match=f"{key} must .* got"):
            setattr(loss, key, given(value))
    setattr(loss, key, given(good))
    buffer = dict(loss.named_buffers())[key]
    assert (buffer.item(), buffer.dtype, buffer.shape) == (pytest.approx(good), torch.float32, ())
    with pytest.raises(ValueError, match="must be one number"):
        setattr(loss, key, torch.ones(3))


@pytest.mark.parametrize("which", COEFFICIENTS)
def test_a_coefficient_is_checked_in_a_state(which: str):
    name, key, good, bad = COEFFICIENTS[which]
    loss, outer = make(name), torch.nn.ModuleDict({"loss": make(name)})
    for value in bad:
        for module, prefix in ((loss, ""), (outer, "loss.")):
            state = module.state_dict()
            state[prefix + key] = torch.tensor(value)
            before = {k: v.clone() for k, v in module.state_dict().items()}
            for other in state:
                if state[other].is_floating_point() and other != prefix + key:
                    state[other] = state[other] + 1
            with pytest.raises(ValueError, match=f"{prefix}{key} of the state must"):
                module.load_state_dict(state)
            if not prefix:  # nothing of it was loaded
                torch.testing.assert_close(dict(module.state_dict()), before)
    state = loss.state_dict()
    state[key] = torch.tensor(good)
    loss.load_state_dict(state)
    assert dict(loss.named_buffers())[key].item() == pytest.approx(good)


@pytest.mark.parametrize("options", [{}, {"path": "fused"}, {"weighting": "kl"}])
def test_a_kappa_written_in_place_is_found_at_the_next_step(options: dict):
    loss, data = drpo.DRPOLoss(gaussian_actor(), **options), batch(gaussian_actor(), N)
    loss(data)
    loss.kappa.fill_(2.0)
    with pytest.raises(ValueError, match=r"kappa must lie in \(0, 1\], got 2.0"):
        loss(data)


def test_a_decaying_clip_never_reaches_its_bound():
    loss = drpo.BPPOLoss(gaussian_actor(), clip_epsilon=0.5, clip_decay=1e-30)
    for _ in range(3):
        loss(batch(gaussian_actor(), N))
    assert loss.clip_epsilon > 0
    loss.load_state_dict(loss.state_dict())  # a run that decayed long can be resumed


def test_reduction_none_is_torchrls_default():
    data = batch(gaussian_actor(), N)
    loss, other = both("drpo", reduction=None)
    other.reduction = "mean"
    assert loss.reduction == "mean"
    assert_same(run(loss, data), run(other, data))
