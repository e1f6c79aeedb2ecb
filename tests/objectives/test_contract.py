"""TorchRL's LossModule contract, held by every objective: what a batch means to it.

Keys, masks, weights, reductions, errors; ``test_modules.py`` has what the module itself must do.
"""

from __future__ import annotations

import copy
import math
from dataclasses import fields

import pytest
import torch
from tensordict.utils import unravel_key
from torchrl.objectives.common import LossModule

from tests.objectives.cases import (
    ACTORS,
    LOSSES,
    SAMPLING,
    STEPS_ONLY,
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
fixed_losses = pytest.mark.parametrize("name", [n for n in LOSSES if n not in SAMPLING])


@every_loss
def test_outputs_are_the_declared_ones_and_only_losses_have_gradients(name: str):
    loss = make(name)
    out = run(loss, batch(gaussian_actor(), N))
    assert list(dict.fromkeys(loss.out_keys)) == list(loss.out_keys)
    assert set(out.keys()) == set(loss.out_keys)
    for key, value in out.items():
        assert value.shape == ()
        assert value.requires_grad is key.startswith("loss"), key
        assert torch.isfinite(value), key


@every_loss
def test_in_keys_are_enough(name: str):
    loss, data = make(name), batch(gaussian_actor(), N)
    loss.eval()
    assert_same(run(loss, data.select(*loss.in_keys)), run(loss, data))


@every_loss
def test_dispatch_without_a_tensordict(name: str):
    loss, data = make(name), batch(gaussian_actor(), N)
    loss.eval()
    expected = run(loss, data.select(*loss.in_keys))
    arguments = {}
    for key in loss.in_keys:
        joined = key if isinstance(key, str) else "_".join(key)
        arguments[joined] = data.get(key)
    torch.manual_seed(1)
    values = loss(**arguments)
    values = values if isinstance(values, tuple) else (values,)
    for key, value in zip(loss.out_keys, values, strict=True):
        torch.testing.assert_close(value, expected[key])


@every_loss
def test_every_entry_can_be_renamed(name: str):
    loss, data = make(name), batch(gaussian_actor(), N)
    loss.eval()
    expected = run(loss, data.select(*loss.in_keys))
    own = ("state_action_value", "value", "quality" if "reward" in _accepted(loss) else "")
    critics = getattr(loss, "qvalue_network", None) is not None
    for field in fields(loss.default_keys):
        if field.name in own or (critics and field.name == "action"):
            continue  # written by the loss's own networks, or read by them under their own name
        old = getattr(loss.tensor_keys, field.name)
        new = ("renamed", field.name)
        if data.get(old, None) is not None:
            data.rename_key_(old, new)
        loss.set_keys(**{field.name: new})
        assert getattr(loss.tensor_keys, field.name) == new
        if unravel_key(old) not in loss.actor_network.in_keys:
            assert unravel_key(old) not in loss.in_keys
    assert_same(run(loss, data.select(*loss.in_keys, strict=False)), expected)
    with pytest.raises(ValueError, match="nonsense is not an accepted"):
        loss.set_keys(nonsense="x")


def _accepted(loss: LossModule) -> set[str]:
    return {field.name for field in fields(loss.default_keys)}


@every_loss
def test_the_callers_batch_is_left_alone(name: str):
    loss, data = make(name), batch(gaussian_actor(), N)
    before, keys = data.clone(), set(data.keys(True, True))
    data.lock_()
    total(run(loss, data)).backward()
    assert set(data.keys(True, True)) == keys
    assert (data == before).all()
    assert not any(value.requires_grad for value in data.values(True, True))


@every_loss
def test_reductions(name: str):
    data = batch(gaussian_actor(), N)
    torch.manual_seed(0)
    actor = gaussian_actor()
    outs = {}
    for reduction in ("none", "sum", "mean"):
        torch.manual_seed(3)
        loss = make(name, copy.deepcopy(actor), reduction=reduction)
        outs[reduction] = run(loss, data)
    for key in outs["none"].keys():  # noqa: SIM118
        if key.startswith("loss"):
            assert outs["none"][key].shape == (N,)
            torch.testing.assert_close(outs["none"][key].sum(), outs["sum"][key])
    divisor = (outs["sum"]["loss_actor"] / outs["mean"]["loss_actor"]).item()
    assert 1 <= round(divisor) <= N
    assert divisor == pytest.approx(round(divisor), rel=1e-4)  # rows, or the quota K
    with pytest.raises(ValueError, match="reduction must be"):
        make(name, reduction="median")


@fixed_losses
@pytest.mark.parametrize("shape", [(N,), (4, 3)])
def test_masked_rows_are_as_good_as_absent(name: str, shape: tuple[int, ...]):
    loss, data = make(name), batch(gaussian_actor(), *shape)
    loss.eval()
    mask = torch.rand(shape) < 0.6
    kept = data[mask]
    expected = run(loss, kept)
    total(expected).backward()
    expected_gradients = gradients(loss)
    loss.zero_grad()
    dirty = data.apply(
        lambda t: (
            t.masked_fill(~mask.reshape(*shape, *[1] * (t.ndim - len(shape))), math.nan)
            if t.is_floating_point()
            else t
        )
    )
    for key in (("collector", "mask"), "shifted_valid"):
        out = run(loss, dirty.copy().set(key, mask.unsqueeze(-1)))
        assert_same(out, expected, rtol=1e-5, atol=1e-6)
        loss.zero_grad()
        total(out).backward()
        torch.testing.assert_close(gradients(loss), expected_gradients, rtol=1e-4, atol=1e-6)
    loss.loss_mask_key = ("mine", "valid")
    assert_same(
        run(loss, dirty.copy().set(("mine", "valid"), mask)), expected, rtol=1e-5, atol=1e-6
    )


@fixed_losses
def test_sampler_weights_count_as_copies(name: str):
    if name == "drpo q":
        pytest.skip("its critics' losses divide by the weights, its quota does not see them")
    loss, data = make(name), batch(gaussian_actor(), N)
    loss.eval()
    weights = torch.randint(1, 4, (N,)).float()
    each = make(name, copy.deepcopy(loss.actor_network), reduction="none")
    each.load_state_dict(loss.state_dict())
    per_row = run(each.eval(), data)["loss_actor"]
    out = run(loss, data.copy().set("priority_weight", weights))["loss_actor"]
    # sum(p w l) / sum(p m): against the plain mean, whose mass is found by the sum.
    plain = run(loss, data)["loss_actor"]
    if (per_row == 0).any():  # a filter: mass is not one a row
        loss_sum = (weights * per_row).sum()
        assert torch.sign(out) == torch.sign(loss_sum)
        assert out.abs() <= loss_sum.abs()
    else:
        torch.testing.assert_close(out, (weights * per_row).sum() / weights.sum())
        torch.testing.assert_close(plain, per_row.mean())


@every_loss
@pytest.mark.parametrize("level", ["step", "trajectory"])
def test_every_kind_of_policy(name: str, level: str):
    if level == "trajectory" and name in STEPS_ONLY:
        pytest.skip("trains critics from single steps")
    for kind, make_actor in ACTORS.items():
        if kind == "catalogue" and name in STEPS_ONLY:
            continue  # the critics of these tests read flat states
        actor = make_actor()
        loss, data = make(name, actor, level=level), batch(actor, 24, 3)
        data.set("shifted_valid", torch.rand(24, 3) < 0.8)
        total(run(loss, data)).backward()
        for key, gradient in gradients(loss).items():
            assert torch.isfinite(gradient).all(), (kind, key)
        assert any((gradient != 0).any() for gradient in gradients(loss).values()), kind


@every_loss
def test_bad_batches_are_named(name: str):
    loss, data = make(name), batch(gaussian_actor(), N)
    with pytest.raises(ValueError, match="empty batch"):
        loss(data[:0])
    with pytest.raises(KeyError, match="reads its action from"):
        loss(data.exclude("action"))
    if name == "bc":
        return
    with pytest.raises(KeyError, match=r"reads its (reward|quality) from .*set_keys\("):
        loss(data.exclude(("next", "reward")))
    broken = data.clone()
    broken["next", "reward"][3] = math.nan
    with pytest.raises(
        ValueError, match=r"('next', 'reward').* must be finite but row 3 holds nan"
    ):
        loss(broken)
    wide = data.clone().set(("next", "reward"), torch.zeros(N, 2))
    with pytest.raises(ValueError, match=r"must have shape \(12,\) or \(12, 1\).*got \(12, 2\)"):
        loss(wide)
