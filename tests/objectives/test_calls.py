"""The quick ways through a step: none of them may leave out what somebody else relies on."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

import torchrl_drpo as drpo
from tests.objectives.cases import batch, gaussian_actor
from torchrl_drpo.objectives._batch import optional_entry, take
from torchrl_drpo.objectives._policy import distribution_of
from torchrl_drpo.policies.gaussian import DiagonalNormal

N = 12


def test_the_head_s_own_hooks_are_heard():
    loss, heard = drpo.BehaviorCloningLoss(gaussian_actor()), []
    head = loss.actor_network.module[0].module
    handle = head.register_forward_hook(lambda module, inputs, out: heard.append(out[1].shape))
    data = batch(gaussian_actor(), N)
    with_hook = loss(data)["loss_actor"]
    handle.remove()
    assert heard == [torch.Size([N, data["action"].shape[-1]])]
    torch.testing.assert_close(loss(data)["loss_actor"], with_hook)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_policy_is_asked_as_get_dist_asks_it(swapped: bool):
    actor = gaussian_actor()
    data = batch(actor, N)
    if swapped:  # what the head reads need not have the names of the distribution's arguments
        actor[0].out_keys = ["scale", "loc"]
    found, want = distribution_of(actor, data.copy()), actor.get_dist(data.copy())
    assert isinstance(found, DiagonalNormal)
    assert torch.equal(found.loc, want.loc)
    assert torch.equal(found.scale, want.scale)


def test_rho_is_that_of_the_advantages_whatever_a_sampler_s_weights_are():
    actor = gaussian_actor()
    data = batch(actor, N)
    loss = drpo.RepulsiveLoss(actor, taper=drpo.ExponentialTaper())
    plain = loss(data)
    weighted = loss(data.set("priority_weight", torch.rand(N) + 0.5))
    advantage = data["next", "reward"].reshape(N)
    advantage = advantage - advantage.mean()
    rho = -advantage.clamp_max(0).sum() / advantage.clamp_min(0).sum()
    for out in (plain, weighted):
        torch.testing.assert_close(out["negative_mass_ratio"], rho)
    # The effective ratio is that of the weights that act, the sampler's among them.
    dist = actor.get_dist(data.copy())
    distance = ((data["action"] - dist.loc) / dist.scale).square().sum(-1).detach()
    signed = torch.where(advantage < 0, advantage * (-distance).exp(), advantage)
    for out, factor in ((plain, 1.0), (weighted, data["priority_weight"])):
        acting = signed * factor
        effective = -acting.clamp_max(0).sum() / acting.clamp_min(0).sum()
        torch.testing.assert_close(
            out["effective_negative_mass_ratio"], effective, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("rows", [None, torch.tensor([4, 1])])
@pytest.mark.parametrize("keys", [("a", "gone", "b"), ("a", ("n", "c")), ("a", "n")])
def test_taking_rows_is_selecting_and_indexing(keys: tuple, rows: torch.Tensor | None):
    data = TensorDict(
        {"a": torch.rand(5), "b": torch.rand(5, 2), "n": {"c": torch.rand(5, 3)}}, batch_size=[5]
    )
    want = data.select(*keys, strict=False)
    found, want = take(data, keys, rows), want if rows is None else want[rows]
    assert found.batch_size == want.batch_size
    assert set(found.keys(True, True)) == set(want.keys(True, True))
    assert (found == want).all()


def test_an_optional_entry_is_found_under_any_form_of_its_key():
    data = TensorDict({"a": torch.ones(2), "n": {"c": torch.zeros(2)}}, batch_size=[2])
    for key in ("a", ("a",)):
        assert torch.equal(optional_entry(data, key), torch.ones(2))
    for key in (("n", "c"), (("n",), "c")):
        assert torch.equal(optional_entry(data, key), torch.zeros(2))
    for key in ("b", ("b", "c"), ("n", "d")):
        assert optional_entry(data, key) is None
