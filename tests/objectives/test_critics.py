"""DRPO-Q and CRR: critics against TorchRL's IQLLoss and against formulas by hand."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.objectives import IQLLoss, SoftUpdate

import torchrl_drpo as drpo
from tests.objectives.by_hand import check, log_prob
from tests.objectives.cases import (
    Actor,
    batch,
    critic,
    gaussian_actor,
    gradients,
    total,
    value_network,
)

N = 40


@pytest.fixture
def actor() -> Actor:
    return gaussian_actor()


@pytest.fixture
def data() -> TensorDict:
    return batch(gaussian_actor(), N)


class TestCritics:
    """The critics' losses and signals against TorchRL's IQLLoss."""

    @staticmethod
    def pair(signal: str = "advantage", **options: Any) -> tuple[drpo.DRPOQLoss, IQLLoss, Actor]:
        actor, value = gaussian_actor(), value_network()
        critics = [critic(actor), critic(actor)]
        ours = drpo.DRPOQLoss(
            actor, critics, value, signal=signal, expectile=0.8, gamma=0.9, **options
        )
        theirs = IQLLoss(actor, copy.deepcopy(critics), copy.deepcopy(value), expectile=0.8)
        theirs.make_value_estimator(gamma=0.9)
        SoftUpdate(ours, tau=0.1)
        SoftUpdate(theirs, tau=0.1)
        return ours, theirs, actor

    def test_critic_losses_are_torchrls(self, data: TensorDict):
        ours, theirs, _ = self.pair()
        out, expected = ours(data), theirs(data.clone())
        torch.testing.assert_close(out["loss_qvalue"], expected["loss_qvalue"])
        torch.testing.assert_close(out["loss_value"], expected["loss_value"])
        total(out).backward()
        (expected["loss_qvalue"] + expected["loss_value"]).backward()
        for name in ("value_network_params", "qvalue_network_params"):
            mine = sorted(p.grad.norm().item() for p in getattr(ours, name).parameters())
            whole = getattr(theirs, name)
            if name.startswith("q"):  # theirs are stacked, ours lie side by side
                stacked = [g for p in whole.parameters() for g in p.grad.unbind(0)]
            else:
                stacked = [p.grad for p in whole.parameters()]
            assert mine == pytest.approx(sorted(g.norm().item() for g in stacked), rel=1e-4)

    def test_masked_steps_train_no_critic(self, data: TensorDict):
        ours, theirs, _ = self.pair()
        mask = torch.rand(N) < 0.5
        dirty = data.clone()
        dirty["observation"][~mask] = math.nan
        dirty["next", "reward"][~mask] = math.inf
        out = ours(dirty.set("shifted_valid", mask))
        expected = theirs(data[mask])
        torch.testing.assert_close(out["loss_qvalue"], expected["loss_qvalue"])
        torch.testing.assert_close(out["loss_value"], expected["loss_value"])

    @pytest.mark.parametrize("signal", ["q", "advantage"])
    def test_the_signal_takes_the_rewards_place(self, data: TensorDict, signal: str):
        ours, _, actor = self.pair(signal, kappa=0.25)
        quality = torch.stack(
            [c(data.copy())["state_action_value"] for c in ours.qvalue_network.members]
        )
        quality = quality.amin(0)
        if signal == "advantage":
            quality = quality - ours.value_network(data.copy())["state_value"]
        plain = drpo.DRPOLoss(actor, kappa=0.25)
        expected = plain(data.copy().set(("next", "reward"), quality.detach()))
        out = ours(data)
        for key, value in expected.items():
            torch.testing.assert_close(out[key], value)

    def test_each_loss_trains_its_own_network(self, data: TensorDict):
        ours, _, _ = self.pair()
        for loss, network in (
            ("loss_actor", "actor"),
            ("loss_qvalue", "qvalue"),
            ("loss_value", "value"),
        ):
            ours.zero_grad()
            ours(data)[loss].backward()
            touched = {k.split("_")[0] for k, g in gradients(ours).items() if g.abs().sum() > 0}
            assert touched == {network}

    def test_a_bandit_needs_no_next_observation(self, actor: Actor, data: TensorDict):
        loss = drpo.DRPOQLoss(actor, critic(actor), value_network(), gamma=0.0)
        SoftUpdate(loss, tau=0.1)
        assert ("next", "observation") not in loss.in_keys
        out = loss(data.exclude(("next", "observation")))
        reward = data["next", "reward"].squeeze(-1)
        members = loss.qvalue_network.members
        regression = sum(
            torch.nn.functional.smooth_l1_loss(m(data.copy())["state_action_value"][:, 0], reward)
            for m in members
        )
        torch.testing.assert_close(out["loss_qvalue"], regression)

    @pytest.mark.parametrize("functional", [True, False])
    def test_targets_follow_by_polyak_averaging(self, actor: Actor, functional: bool):
        loss = drpo.DRPOQLoss(
            actor, critic(actor), value_network(), num_qvalue_nets=1, functional=functional
        )
        if functional:
            SoftUpdate(loss, tau=0.5)  # not stepped; without one, looking at targets warns
        if functional:
            online, target = (
                list(loss.get_submodule(name).values(True, True))
                for name in ("qvalue_network_params", "target_qvalue_network_params")
            )
        else:
            online, target = (
                list(net.parameters()) for net in (loss.qvalue_network, loss.target_qvalue_network)
            )
        before = [t.clone() for t in target]
        with torch.no_grad():
            for parameter in online:
                parameter += 1.0
        loss.update_targets(tau=0.25)
        for old, new in zip(before, target, strict=True):
            torch.testing.assert_close(new.data, old.data + 0.25)

    @pytest.mark.parametrize("estimate", ["mean", "max"])
    def test_crr_compares_with_the_policys_own_actions(self, data: TensorDict, estimate: str):
        actor = gaussian_actor()
        loss = drpo.CRRLoss(
            actor, critic(actor), mode="exponential", estimate=estimate, num_samples=3, gamma=0.0
        )
        SoftUpdate(loss, tau=0.1)
        torch.manual_seed(4)
        own = actor.get_dist(data.select("observation")).sample((3,))

        def smallest(action: Tensor) -> Tensor:
            rows = data.select("observation").set("action", action)
            values = [m(rows.copy())["state_action_value"] for m in loss.qvalue_network.members]
            return torch.stack(values).amin(0).squeeze(-1)

        values = torch.stack([smallest(a) for a in own])
        compared = values.mean(0) if estimate == "mean" else values.amax(0)
        weight = (smallest(data["action"]) - compared).exp().clamp_max(20.0).detach()
        torch.manual_seed(4)
        check(loss, actor, data, -(weight * log_prob(actor, data)).mean())

    def test_crr_bootstraps_from_the_policys_next_actions(self, data: TensorDict):
        actor = gaussian_actor()
        with torch.no_grad():
            actor[0].module.log_std.fill_(-5.0)  # nearly deterministic: sigma is e^-5
        loss = drpo.CRRLoss(actor, critic(actor), num_qvalue_nets=1, gamma=0.5, loss_function="l2")
        SoftUpdate(loss, tau=0.1)
        (member,) = loss.qvalue_network.members
        following = data["next"].select("observation")
        following["action"] = actor.get_dist(following.copy()).mean
        bootstrap = member(following)["state_action_value"].detach()
        alive = (~data["next", "terminated"]).float()
        target = data["next", "reward"] + 0.5 * alive * bootstrap
        expected = (member(data.copy())["state_action_value"] - target).square().mean()
        torch.testing.assert_close(loss(data)["loss_qvalue"], expected, rtol=0.02, atol=0.0)

    def test_critics_may_write_under_another_key(self, actor: Actor, data: TensorDict):
        torch.manual_seed(2)
        usual = [critic(actor), critic(actor)]
        renamed = [TensorDictModule(c.module, c.in_keys, ["q"]) for c in usual]
        losses = []
        for critics in (usual, renamed):
            loss = drpo.DRPOQLoss(actor, critics, value_network(), signal="q", gamma=0.0)
            SoftUpdate(loss, tau=0.1)
            if critics is renamed:
                with pytest.raises(KeyError, match="reads its state_action_value from"):
                    loss(data)
                loss.set_keys(state_action_value="q")
            losses.append(loss(data)["loss_actor"])
        assert losses[0] == losses[1]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda a: drpo.CRRLoss(a, critic(a), gamma=1.0), r"gamma must lie in \[0, 1\), got 1"),
            (lambda a: drpo.CRRLoss(a, critic(a), num_qvalue_nets=0), "num_qvalue_nets .* got 0"),
            (lambda a: drpo.CRRLoss(a, [critic(a)]), "expected 2 critics"),
            (lambda a: drpo.CRRLoss(a, num_samples=0), "num_samples .* got 0"),
            (lambda a: drpo.CRRLoss(a, estimate="best"), "estimate must be"),
            (lambda a: drpo.CRRLoss(a, critic(a), level="trajectory"), "weighs steps"),
            (lambda a: drpo.DRPOQLoss(a, critic(a), value_network(), signal="v"), "signal must be"),
            (lambda a: drpo.DRPOQLoss(a, critic(a), value_network(), expectile=0.0), "expectile"),
        ],
    )
    def test_numbers_out_of_range_are_named(self, make: Callable[[Actor], Any], message: str):
        with pytest.raises(ValueError, match=message):
            make(gaussian_actor())
