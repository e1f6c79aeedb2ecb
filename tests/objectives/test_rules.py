"""Each objective against its published formula, written down again with torch's own pieces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict

import torchrl_drpo as drpo
from tests.objectives.by_hand import advantage, check, log_prob
from tests.objectives.cases import (
    Actor,
    batch,
    categorical_actor,
    gaussian_actor,
)

N = 40


@pytest.fixture
def actor() -> Actor:
    return gaussian_actor()


@pytest.fixture
def data() -> TensorDict:
    return batch(gaussian_actor(), N)


class TestFormulas:
    def test_behaviour_cloning(self, actor: Actor, data: TensorDict):
        check(drpo.BehaviorCloningLoss(actor), actor, data, -log_prob(actor, data).mean())

    @pytest.mark.parametrize("temperature", [0.05, 1.0])
    def test_awr(self, actor: Actor, data: TensorDict, temperature: float):
        weight = (advantage(data) / temperature).exp().clamp_max(20.0)
        expected = -(weight * log_prob(actor, data)).mean()
        check(drpo.AWRLoss(actor, temperature=temperature), actor, data, expected)

    def test_awr_self_normalised(self, actor: Actor, data: TensorDict):
        weight = torch.softmax(advantage(data) / 0.5, 0)
        expected = -(weight * log_prob(actor, data)).sum()
        loss = drpo.AWRLoss(actor, temperature=0.5, max_weight=None, self_normalize=True)
        check(loss, actor, data, expected)

    @pytest.mark.parametrize("shift", [-0.5, 0.0])
    def test_asymre(self, actor: Actor, data: TensorDict, shift: float):
        signed = advantage(data) - shift
        weight = torch.where(signed < 0, 0.1 * signed, signed)
        expected = -(weight * log_prob(actor, data)).mean()
        loss = drpo.AsymRELoss(actor, shift=shift, negative_weight=0.1)
        check(loss, actor, data, expected)

    @pytest.mark.parametrize("beta", [1.0, 0.3])
    def test_topr_with_logged_propensities(self, data: TensorDict, beta: float):
        actor = categorical_actor()
        data = batch(actor, N)
        logp = log_prob(actor, data)
        ratio = (logp.detach().exp() / data["propensity"]).pow(beta).clamp_max(1.0)
        signed = advantage(data)
        weight = torch.where(signed < 0, ratio * signed, signed)
        check(drpo.TOPRLoss(actor, beta=beta), actor, data, -(weight * logp).mean())

    def test_topr_with_a_fitted_reference(self, actor: Actor, data: TensorDict):
        reference = gaussian_actor()
        logp = log_prob(actor, data)
        ratio = (logp - log_prob(reference, data)).detach().exp().clamp_max(1.0)
        signed = advantage(data)
        weight = torch.where(signed < 0, ratio * signed, signed)
        loss = drpo.TOPRLoss(actor, behavior=reference)
        check(loss, actor, data, -(weight * logp).mean())
        with torch.no_grad():  # the reference that was given is not the one that is kept
            for parameter in reference.parameters():
                parameter.zero_()
        check(loss, actor, data, -(weight * logp).mean())

    @pytest.mark.parametrize("make", [gaussian_actor, categorical_actor])
    @pytest.mark.parametrize("logged", [True, False])
    def test_gbpo_has_the_gradient_of_the_published_objective(
        self, make: Callable[[], Actor], logged: bool
    ):
        actor = make()
        data = batch(actor, N)
        logp = log_prob(actor, data)
        pi, old = logp.exp(), data["propensity"] if logged else logp.detach().exp()
        signed = advantage(data)
        bound = torch.where(signed >= 0, pi.detach(), 1 - pi.detach())
        published = -(pi / torch.maximum(old, bound) * signed).mean()
        loss = drpo.GBPOLoss(actor, behavior="logged" if logged else "current")
        ours = torch.autograd.grad(loss(data)["loss_actor"], list(loss.parameters()))
        by_hand = torch.autograd.grad(published, list(actor.parameters()))
        torch.testing.assert_close(ours, by_hand)

    def test_gbpo_takes_the_propensity_where_there_is_one(self, actor: Actor, data: TensorDict):
        auto = drpo.GBPOLoss(actor)
        logged, current = (drpo.GBPOLoss(actor, behavior=b) for b in ("logged", "current"))
        assert auto(data)["loss_actor"] == logged(data)["loss_actor"]
        without = data.exclude("propensity")
        assert auto(without)["loss_actor"] == current(data)["loss_actor"]
        assert auto(data)["loss_actor"] != current(data)["loss_actor"]

    def test_ecpo_normalises_within_groups(self, data: TensorDict):
        actor = categorical_actor()
        data = batch(actor, N)
        logp, reward = log_prob(actor, data), data["next", "reward"].squeeze(-1)
        signed = torch.zeros(N)
        for user in data["user"].unique():
            rows = data["user"] == user
            signed[rows] = (reward[rows] - reward[rows].mean()) / (reward[rows].std() + 1e-8)
        raised = torch.maximum(logp.detach().exp() / 1.3, data["propensity"])
        old = torch.where(signed < 0, raised, data["propensity"])
        ratio = logp.exp() / old
        surrogate = torch.minimum(ratio * signed, ratio.clamp(0.8, 1.2) * signed)
        loss = drpo.ECPOLoss(actor, group_key="user")
        check(loss, actor, data, -surrogate.mean())
        clipped = torch.where(signed >= 0, ratio > 1.2, ratio < 0.8).float().mean()
        torch.testing.assert_close(loss(data)["clip_fraction"], clipped)

    def test_crr_without_a_critic_clones_the_better_half(self, actor: Actor, data: TensorDict):
        better = (advantage(data) > 0).float()
        expected = -(better * log_prob(actor, data)).mean()
        check(drpo.CRRLoss(actor), actor, data, expected)

    def test_adaptive_bc_is_the_uniform_drpo(self, actor: Actor, data: TensorDict):
        adaptive = drpo.AdaptiveBCLoss(actor)
        uniform = drpo.DRPOLoss(actor, weighting="uniform")
        for _ in range(3):
            expected = uniform(data)
            for key, value in adaptive(data).items():
                assert value == expected[key]
        with pytest.raises(TypeError, match="AdaptiveBCLoss weighs its rows alike"):
            drpo.AdaptiveBCLoss(actor, weighting="linear")

    @pytest.mark.parametrize("baseline", ["mean", "min", 0.25, None])
    def test_repulsive_baselines_and_tapers(self, actor: Actor, data: TensorDict, baseline: Any):
        reward = data["next", "reward"].squeeze(-1)
        value = {"mean": reward.mean(), "min": reward.min(), None: 0.0}.get(baseline, baseline)
        signed = reward - value
        logp = log_prob(actor, data)
        dist = actor.get_dist(data.select("observation"))
        z = ((data["action"] - dist.loc) / dist.scale).detach()
        taper = torch.exp(-0.5 * (z.square().sum(-1) - 1.0).clamp_min(0) / 2.0)
        weight = torch.where(signed < 0, 0.7 * taper * signed, signed)
        loss = drpo.RepulsiveLoss(
            actor,
            baseline=baseline,
            negative_scale=0.7,
            taper=drpo.ExponentialTaper(strength=0.5, scale=2.0, threshold=1.0),
        )
        check(loss, actor, data, -(weight * logp).mean())
        out = loss(data)
        negative = signed < 0
        if negative.any():
            active = (taper[negative] < 1).float().mean()
            torch.testing.assert_close(out["taper_active_fraction"], active)
            rho = (-weight[negative]).sum() / weight[~negative].sum()
            torch.testing.assert_close(out["effective_negative_mass_ratio"], rho)

    def test_the_best_taper_of_the_simulator_in_its_own_terms(self, actor: Actor, data: TensorDict):
        # w = exp(-(D - 1)+), D the mean over dimensions of z^2, advantages in their own spread.
        signed = advantage(data)
        signed = signed / (signed.std() + 1e-8)
        dist = actor.get_dist(data.select("observation"))
        z = ((data["action"] - dist.loc) / dist.scale).detach()
        taper = torch.exp(-(z.square().mean(-1) - 1.0).clamp_min(0))
        weight = torch.where(signed < 0, taper * signed, signed)
        loss = drpo.RepulsiveLoss(
            actor,
            normalize=True,
            taper=drpo.ExponentialTaper(threshold=1.0),
            remoteness="per_dimension",
        )
        check(loss, actor, data, -(weight * log_prob(actor, data)).mean())

    def test_groups_have_their_own_baseline(self, actor: Actor, data: TensorDict):
        reward = data["next", "reward"].squeeze(-1)
        for baseline, pick in (("mean", torch.mean), ("min", torch.min)):
            signed = torch.zeros(N)
            for user in data["user"].unique():
                rows = data["user"] == user
                signed[rows] = reward[rows] - pick(reward[rows])
            loss = drpo.RepulsiveLoss(actor, baseline=baseline, group_key="user")
            check(loss, actor, data, -(signed * log_prob(actor, data)).mean())

    def test_a_given_advantage_replaces_reward_minus_baseline(self, actor: Actor, data: TensorDict):
        given = torch.randn(N)
        data = data.set("advantage", given).exclude(("next", "reward"))
        expected = -(given * log_prob(actor, data)).mean()
        check(drpo.RepulsiveLoss(actor), actor, data, expected)


class TestBPPO:
    def test_against_a_snapshot_of_the_actor(self, actor: Actor, data: TensorDict):
        loss = drpo.BPPOLoss(actor)
        old = log_prob(actor, data).detach()
        with torch.no_grad():
            for parameter in actor.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
        ratio = (log_prob(actor, data) - old).exp()
        signed = advantage(data)
        surrogate = torch.minimum(ratio * signed, ratio.clamp(0.8, 1.2) * signed)
        check(loss, actor, data, -surrogate.mean())
        assert loss(data)["clip_fraction"] > 0
        torch.testing.assert_close(loss(data)["kl_approx"], -ratio.log().mean().detach())

        loss.update_behavior()
        out = loss(data)
        torch.testing.assert_close(out["kl_approx"], torch.zeros(()), atol=1e-6, rtol=0)
        assert out["clip_fraction"] == 0

    def test_the_clip_decays_in_training_only_and_can_be_scheduled(
        self, actor: Actor, data: TensorDict
    ):
        loss = drpo.BPPOLoss(actor, clip_epsilon=0.2, clip_decay=0.5)
        used = [loss(data)["clip_epsilon"].item() for _ in range(3)]
        assert used == pytest.approx([0.2, 0.1, 0.05])
        loss.eval()
        assert loss(data)["clip_epsilon"] == loss(data)["clip_epsilon"]
        loss.clip_epsilon = 0.3
        assert loss(data)["clip_epsilon"].item() == pytest.approx(0.3)
        assert "clip_epsilon" in loss.state_dict()
        with pytest.raises(ValueError, match=r"clip_epsilon must lie in \(0, 1\), got 1.5"):
            loss.clip_epsilon = 1.5

    def test_the_snapshot_is_not_trained_and_stays_in_evaluation_mode(self, actor: Actor):
        loss = drpo.BPPOLoss(actor).train()
        assert not loss.behavior_network.training
        assert not any(p.requires_grad for p in loss.behavior_network.parameters())
        with pytest.raises(RuntimeError, match="no network to update"):
            drpo.GBPOLoss(actor).update_behavior()


class TestPropensities:
    @pytest.mark.parametrize("value", [0.0, -0.1, 1.2, math.nan])
    def test_outside_their_range_they_are_named(self, actor: Actor, data: TensorDict, value: float):
        data["propensity"][5] = value
        with pytest.raises(ValueError, match=r"propensity .* \(0, 1\] but row 5 holds"):
            drpo.TOPRLoss(actor)(data)

    def test_a_logged_log_prob_is_used_instead(self, actor: Actor, data: TensorDict):
        loss = drpo.TOPRLoss(actor)
        by_propensity = loss(data)["loss_actor"]
        logged = data.exclude("propensity")
        logged["behavior_log_prob"] = data["propensity"].log().unsqueeze(-1)
        assert loss(logged)["loss_actor"] == by_propensity
        logged["behavior_log_prob"][2] = math.inf
        with pytest.raises(ValueError, match=r"behavior_log_prob .* row 2 holds inf"):
            loss(logged)

    def test_the_logarithm_of_a_buffer_survives_where_the_propensity_has_underflowed(
        self, actor: Actor, data: TensorDict
    ):
        loss = drpo.TOPRLoss(actor)
        by_propensity = loss(data)["loss_actor"]
        data["log_propensity"] = data["propensity"].log()
        assert loss(data)["loss_actor"] == by_propensity
        data["propensity"] = torch.zeros_like(data["propensity"])  # 1e-60 in float32
        assert loss(data)["loss_actor"] == by_propensity

    def test_absent_they_are_asked_for(self, actor: Actor, data: TensorDict):
        with pytest.raises(KeyError, match="TOPRLoss reads its propensity from"):
            drpo.TOPRLoss(actor)(data.exclude("propensity"))
        with pytest.raises(ValueError, match="takes its behaviour policy from 'logged'"):
            drpo.TOPRLoss(actor, behavior="current")

    def test_a_trajectorys_is_the_product_over_its_valid_steps(self, actor: Actor):
        data = batch(actor, 8, 3)
        valid = torch.arange(3) < torch.randint(1, 4, (8, 1))
        logp = torch.where(valid, log_prob(actor, data), 0.0).sum(-1)
        log_mu = torch.where(valid, data["propensity"].log(), 0.0).sum(-1)
        returns = torch.where(valid, data["next", "reward"].squeeze(-1), 0.0).sum(-1)
        ratio = (logp - log_mu).detach().exp().clamp_max(1.0)
        signed = returns - returns.mean()
        weight = torch.where(signed < 0, ratio * signed, signed)
        data["propensity"][~valid] = math.nan
        loss = drpo.TOPRLoss(actor, level="trajectory")
        check(loss, actor, data.set("shifted_valid", valid), -(weight * logp).mean())


class TestTrajectories:
    def test_weights_whole_sessions(self, actor: Actor):
        data = batch(actor, 10, 4)
        valid = torch.arange(4) < torch.randint(1, 5, (10, 1))
        data["shifted_valid"] = valid
        steps = torch.where(valid, log_prob(actor, data), 0.0).sum(-1)
        returns = torch.where(valid, data["next", "reward"].squeeze(-1), 0.0).sum(-1)
        signed = returns - returns.mean()
        loss = drpo.RepulsiveLoss(actor, level="trajectory")
        check(loss, actor, data, -(signed * steps).mean())
        awr = drpo.AWRLoss(actor, level="trajectory")
        check(awr, actor, data, -(signed.exp().clamp_max(20.0) * steps).mean())


class TestOverflow:
    """Weights that are infinite are named at the step that made them."""

    @pytest.mark.parametrize(
        "make",
        [
            lambda a: drpo.AWRLoss(a, temperature=1e-3, max_weight=None),
            lambda a: drpo.DRPOLoss(a, weighting="exponential", temperature=1e-3),
        ],
    )
    def test_an_overflowed_weight_names_its_row(
        self, actor: Actor, data: TensorDict, make: Callable[[Actor], Any]
    ):
        data["next", "reward"] = torch.zeros(N)
        data["next", "reward"][7] = 100.0
        with pytest.raises(ValueError, match=r"weight .* must be finite but row 7 holds inf"):
            make(actor)(data)

    def test_sampler_weights_are_looked_at_too(self, actor: Actor, data: TensorDict):
        data["priority_weight"] = torch.ones(N).index_fill(0, torch.tensor(4), math.nan)
        with pytest.raises(ValueError, match=r"weight .* row 4 holds nan"):
            drpo.BehaviorCloningLoss(actor)(data)
