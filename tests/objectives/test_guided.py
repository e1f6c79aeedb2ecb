"""GuidedLoss against its formula, its closed-form equilibrium, and what it promises not to do."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

import torchrl_drpo as drpo
from tests.objectives import by_hand
from tests.objectives.cases import (
    ACTION_DIM,
    NUM_ITEMS,
    batch,
    catalogue_actor,
    categorical_actor,
    gaussian_actor,
    gradients,
    reward_model,
    run,
)

N = 16


def double(data: TensorDict) -> TensorDict:
    return data.apply(lambda t: t.double() if t.is_floating_point() else t)


def positives(data: TensorDict) -> Tensor:
    advantage = by_hand.advantage(data)
    return (advantage / advantage.std()).clamp_min(0)


class Linear(nn.Module):
    """Q(s, a) = u . a; keeps the batches that it saw."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.register_buffer("slope", slope)
        self.dropout = nn.Dropout(0.5)
        self.seen: list[Tensor] = []

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        self.seen.append(state.detach())
        return self.dropout(action @ self.slope)


def linear_model(slope: Tensor) -> TensorDictModule:
    return TensorDictModule(Linear(slope), ["observation", "action"], ["predicted_reward"])


# -- the formula --------------------------------------------------------------------------------


def test_gaussian_loss_and_gradient_are_those_of_the_formula():
    actor, data = gaussian_actor().double(), double(batch(gaussian_actor(), N))
    model = reward_model(actor).double()
    loss = drpo.GuidedLoss(copy.deepcopy(actor), model, guidance=0.7, reward_scale=0.3)
    mean = actor[0](data.select("observation").copy())["loc"]
    value = model.module(data["observation"], mean)
    inside = by_hand.log_prob(actor, data) + 0.7 * value / 0.3
    by_hand.check(loss, actor, data, -(positives(data) * inside).mean())


def test_categorical_loss_and_gradient_are_the_exact_sum_over_items():
    actor, data = categorical_actor().double(), double(batch(categorical_actor(), N))
    model = reward_model(actor).double()
    loss = drpo.GuidedLoss(copy.deepcopy(actor), model, guidance=0.7)
    probs = actor[0](data.select("observation").copy())["logits"].softmax(-1)
    every = [model.module(data["observation"], torch.full((N,), item)) for item in range(NUM_ITEMS)]
    inside = by_hand.log_prob(actor, data) + 0.7 * (probs * torch.stack(every, -1)).sum(-1)
    by_hand.check(loss, actor, data, -(positives(data) * inside).mean())


@pytest.mark.parametrize("make_actor", [categorical_actor, catalogue_actor])
def test_two_draws_a_row_have_the_exact_gradient_on_average(make_actor):
    torch.manual_seed(0)
    actor = make_actor()
    few = batch(actor, 4)
    data = few.expand(8_000, 4).reshape(-1)  # 32,000 rows: the error of a mean is about 1%
    model = reward_model(actor)
    grads = []
    for expectation in ("exact", "sample"):
        options = {"expectation": expectation, "num_samples": 2, "guidance": 5.0}
        loss = drpo.GuidedLoss(copy.deepcopy(actor), model, **options)
        out = run(loss, data)
        out["loss_actor"].backward()
        flat = torch.cat([g.flatten() for g in gradients(loss).values()])
        grads.append((out["loss_actor"].item(), flat))
    (value, exact), (drawn_value, drawn) = grads
    assert drawn_value == pytest.approx(value, rel=0.02)
    assert (drawn - exact).norm() < 0.05 * exact.norm()


def test_without_guidance_it_is_positive_only_learning():
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    ours = drpo.GuidedLoss(copy.deepcopy(actor), reward_model(actor), guidance=0.0)
    plain = drpo.RepulsiveLoss(actor, negative_scale=0.0, normalize=True)
    for loss in (ours, plain):
        loss(data)["loss_actor"].backward()
    torch.testing.assert_close(
        list(ours.actor_network_params.parameters()), list(plain.actor_network_params.parameters())
    )
    assert torch.equal(ours(data)["loss_actor"], plain(data)["loss_actor"])
    for left, right in zip(ours.parameters(), plain.parameters(), strict=False):
        torch.testing.assert_close(left.grad, right.grad)


def test_guidance_value_is_the_policys_lead_over_the_log_on_the_positive_rows():
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    model = reward_model(actor)
    out = drpo.GuidedLoss(actor, model, reward_scale=0.5)(data)
    kept = positives(data) > 0
    own = model.module(data["observation"], actor(data.clone())["loc"])
    logged = model.module(data["observation"], data["action"])
    expected = ((own - logged) / 0.5)[kept].mean()
    torch.testing.assert_close(out["guidance_value"], expected.detach())
    weight = positives(data)
    torch.testing.assert_close(
        out["effective_sample_size"], weight.sum().square() / weight.square().sum()
    )


def test_a_trajectorys_guidance_is_the_sum_over_its_valid_steps():
    actor, data = gaussian_actor(), batch(gaussian_actor(), 6, 3)
    data["shifted_valid"] = torch.rand(6, 3) < 0.7
    model = reward_model(actor)
    options = {"level": "trajectory", "reduction": "none", "normalize": False}
    guided, plain = (
        drpo.GuidedLoss(actor, model, guidance=c, **options)(data)["loss_actor"] for c in (1.0, 0.0)
    )
    mean = actor(data.clone())["loc"]
    value = model.module(data["observation"], mean) * data["shifted_valid"]
    reward = (data["next", "reward"].squeeze(-1) * data["shifted_valid"]).sum(-1)
    weight = torch.where(data["shifted_valid"].any(-1), reward, 0.0)
    valid = data["shifted_valid"].any(-1)
    weight = torch.where(valid, reward - reward[valid].mean(), 0.0).clamp_min(0)
    torch.testing.assert_close(guided - plain, -weight * value.sum(-1))


# -- the equilibrium ----------------------------------------------------------------------------


def settle(guidance: float, learn_sigma: bool, slope: Tensor) -> tuple[Tensor, Tensor, TensorDict]:
    """Mean and standard deviation of a policy of one state, after many steps."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDict(
        {
            "observation": torch.zeros(64, 1),
            "action": torch.randn(64, ACTION_DIM, generator=generator),
            "next": {"reward": torch.rand(64, generator=generator)},
        },
        batch_size=[64],
    )
    torch.manual_seed(0)
    actor = drpo.make_gaussian_actor(1, ACTION_DIM, hidden=())
    for name, parameter in actor.named_parameters():
        if "log_std" in name:
            parameter.requires_grad_(learn_sigma)
    loss = drpo.GuidedLoss(actor, linear_model(slope), guidance=guidance, reward_scale=2.0)
    optimizer = torch.optim.Adam([p for p in loss.parameters() if p.requires_grad], lr=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=500)
    for _ in range(500):
        optimizer.zero_grad()
        loss(data)["loss_actor"].backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad(), loss.actor_network_params.to_module(loss.actor_network):
        dist = loss.actor_network.get_dist(data[:1])
    return dist.mean[0], dist.scale[0], data


@pytest.mark.parametrize("guidance", [0.0, 0.5, 10.0])
def test_the_mean_settles_where_the_closed_form_says(guidance: float):
    slope = torch.tensor([1.0, -0.5])
    mean, sigma, data = settle(guidance, learn_sigma=False, slope=slope)
    weight = positives(data)
    centre = (weight[:, None] * data["action"]).sum(0) / weight.sum()
    torch.testing.assert_close(sigma, torch.ones(2))
    torch.testing.assert_close(mean, centre + guidance * slope / 2.0, atol=2e-3, rtol=2e-3)


def test_a_learned_sigma_settles_while_the_guidance_is_moderate_and_else_ends_at_its_bound():
    slope = torch.tensor([1.0, 0.0])
    mean, sigma, data = settle(0.5, learn_sigma=True, slope=slope)
    weight = positives(data)
    weight = weight / weight.sum()
    centre = (weight[:, None] * data["action"]).sum(0)
    variance = (weight[:, None] * (data["action"] - centre).square()).sum(0)
    g = 0.5 * slope / 2.0
    assert (2 * g.abs() * variance.sqrt() < 1).all()
    # The smaller root of s = V + g^2 s^2, with s the square of sigma.
    root = variance[0] * 2 / (1 + (1 - 4 * g[0] ** 2 * variance[0]).sqrt())
    expected = torch.stack([root, variance[1]])
    torch.testing.assert_close(sigma.square(), expected, atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(mean, centre + expected * g, atol=5e-3, rtol=5e-3)

    mean, sigma, _ = settle(4.0, learn_sigma=True, slope=slope)
    assert sigma[0].item() >= math.exp(1.9)  # the actor's bound is exp(2)
    assert sigma[1].item() == pytest.approx(variance[1].sqrt().item(), rel=1e-2)
    assert torch.isfinite(mean).all()


# -- what it promises ---------------------------------------------------------------------------


def test_rows_below_the_baseline_reach_neither_policy_nor_reward_model():
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    kept = positives(data) > 0
    data["observation"][~kept] = math.nan
    loss = drpo.GuidedLoss(actor, linear_model(torch.ones(ACTION_DIM)))
    loss(data)["loss_actor"].backward()
    assert all(torch.isfinite(g).all() for g in gradients(loss).values())
    for seen in loss.reward_model.module.seen:
        assert torch.equal(seen, data["observation"][kept])


def test_the_reward_model_is_a_frozen_copy_in_evaluation_mode_that_is_saved():
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    model = reward_model(actor)
    loss = drpo.GuidedLoss(actor, model).train()
    before = copy.deepcopy(loss.reward_model.state_dict())
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    loss(data)["loss_actor"].backward()
    optimizer.step()
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(p.requires_grad for p in loss.reward_model.parameters())
    assert all(torch.equal(before[k], v) for k, v in loss.reward_model.state_dict().items())
    assert not any(m.training for m in loss.reward_model.modules())  # its dropout stays off
    assert {"reward_scale", "reward_model.module.net.weight"} <= set(loss.state_dict())


def test_the_scale_is_the_models_own_unless_given():
    actor, model = gaussian_actor(), reward_model(gaussian_actor())
    assert drpo.GuidedLoss(actor, model).reward_scale == 1.0
    model.register_buffer("scale", torch.tensor(0.25))
    assert drpo.GuidedLoss(actor, model).reward_scale == 0.25
    assert drpo.GuidedLoss(actor, model, reward_scale=3.0).reward_scale == 3.0


def test_optional_entries_of_the_model_are_handed_on_where_the_batch_has_them():
    class Folds(TensorDictModule):
        optional_in_keys = ("fold",)

        def forward(self, tensordict: TensorDict) -> TensorDict:
            assert ("fold" in tensordict.keys()) is self.expected  # noqa: SIM118
            return super().forward(tensordict)

    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    model = Folds(Linear(torch.ones(ACTION_DIM)), ["observation", "action"], ["value"])
    loss = drpo.GuidedLoss(actor, model)
    assert "fold" not in loss.in_keys
    loss.reward_model.expected = False
    loss(data)
    loss.reward_model.expected = True
    loss(data.set("fold", torch.zeros(N, dtype=torch.long)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": -1.0}, "guidance must be a finite number of at least 0, got -1.0"),
        ({"guidance": math.nan}, "guidance must be"),
        ({"reward_scale": 0.0}, "reward_scale must be a finite number above 0, got 0.0"),
        ({"num_samples": 1}, "num_samples must be at least 2.* got 1"),
        ({"expectation": "median"}, "expectation must be 'auto', .* got 'median'"),
    ],
)
def test_bad_numbers_are_named(options: dict, message: str):
    actor = gaussian_actor()
    with pytest.raises(ValueError, match=message):
        drpo.GuidedLoss(actor, reward_model(actor), **options)


def test_bad_reward_models_are_named():
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    with pytest.raises(TypeError, match="must be a TensorDictModule, got Linear; wrap it"):
        drpo.GuidedLoss(actor, nn.Linear(2, 1))
    blind = TensorDictModule(nn.Linear(3, 1), ["observation"], ["value"])
    with pytest.raises(TypeError, match=r"reads \['observation'\], which holds no action"):
        drpo.GuidedLoss(actor, blind)
    wide = TensorDictModule(nn.Bilinear(3, 2, 5), ["observation", "action"], ["value"])
    with pytest.raises(ValueError, match="the reward model's prediction must have shape"):
        drpo.GuidedLoss(actor, wide)(data)
    with pytest.raises(ValueError, match="expectation='exact' needs few actions"):
        drpo.GuidedLoss(actor, reward_model(actor), expectation="exact")(data)
    discrete = categorical_actor()
    with pytest.raises(ValueError, match="expectation='mean' has no meaning for Categorical"):
        drpo.GuidedLoss(discrete, reward_model(discrete), expectation="mean")(batch(discrete, N))
