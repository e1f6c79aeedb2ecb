"""DRPOLoss against the algorithm box of arXiv 2602.10430, written down again in float64."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import Categorical
from torchrl.modules import ProbabilisticActor

from torchrl_drpo import (
    AdaptiveKappa,
    BehaviorCloningLoss,
    DRPOLoss,
    make_gaussian_actor,
)

N, STATE, ACTION = 96, 5, 3


def make_batch(*shape, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return TensorDict(
        {
            "observation": torch.randn(*shape, STATE, generator=g, dtype=dtype),
            "action": torch.randn(*shape, ACTION, generator=g, dtype=dtype),
            "next": {"reward": torch.rand(*shape, 1, generator=g, dtype=dtype)},
        },
        batch_size=shape,
    )


@pytest.fixture
def actor():
    return make_gaussian_actor(STATE, ACTION, hidden=(8,))


def log_prob(actor, batch):
    """The Gaussian log-density by torch's own distribution, in float64."""
    td = actor.get_dist(batch.select("observation"))
    normal = torch.distributions.Normal(td.loc.double(), td.scale.double())
    return normal.log_prob(batch["action"].double()).sum(-1)


def algorithm_box(actor, batch, p, lam=0.5):
    """One step of the box: the loss and the next P."""
    r = batch["next", "reward"].squeeze(-1).double()
    k = max(1, math.floor(len(r) * p + 0.5))
    top = r.argsort(descending=True, stable=True)[:k]
    next_p = min(1, 1.02 * p) if r[top].std() < lam * r.std() else max(0.05, 0.98 * p)
    advantage = r[top] - r[top].min()
    advantage = advantage / (advantage.std() + 1e-8)
    return -(advantage * log_prob(actor, batch)[top]).sum() / k, next_p


def test_a_run_of_steps_follows_the_algorithm_box(actor):
    loss = DRPOLoss(actor)
    p = 0.5
    for seed in range(30):
        batch = make_batch(N, seed=seed)
        want, next_p = algorithm_box(actor, batch, p)
        out = loss(batch)
        assert out["kappa"].item() == pytest.approx(p, rel=1e-5)
        assert out["loss_actor"].item() == pytest.approx(want.item(), rel=1e-5)
        assert loss.kappa.item() == pytest.approx(next_p, rel=1e-5)
        p = next_p
    assert p != 0.5


def rule_by_hand(weighting, r, kappa, temperature):
    """Weights and divisor, row by row, from the formulas of the docstring."""
    k = max(1, math.floor(len(r) * kappa + 0.5))
    kept = sorted(r, reverse=True)[:k]
    nu, mean = kept[-1], sum(kept) / k
    if weighting == "uniform":
        return [1.0 if x >= nu else 0.0 for x in r], k
    if weighting == "exponential":
        return [math.exp((x - mean) / temperature) if x >= nu else 0.0 for x in r], k
    std = (sum((x - mean) ** 2 for x in kept) / (k - 1)) ** 0.5
    return [max(x - nu, 0.0) / std for x in r], k


@pytest.mark.parametrize("weighting", ["linear", "uniform", "exponential"])
@pytest.mark.parametrize("kappa", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("skip", [True, False])
def test_every_weighting_equals_its_formula(actor, weighting, kappa, skip):
    batch = make_batch(N)
    r = batch["next", "reward"].squeeze(-1).double().tolist()
    weights, k = rule_by_hand(weighting, r, kappa, 0.2)
    want = -(torch.tensor(weights, dtype=torch.float64) * log_prob(actor, batch)).sum() / k
    loss = DRPOLoss(actor, kappa=kappa, weighting=weighting, temperature=0.2, skip_filtered=skip)
    assert loss(batch)["loss_actor"].item() == pytest.approx(want.item(), rel=2e-5)


def test_kl_weights_satisfy_their_optimality_conditions(actor):
    batch = make_batch(N)
    r = batch["next", "reward"].squeeze(-1).double()
    kappa, tau = 0.2, 0.1
    loss = DRPOLoss(actor, kappa=kappa, weighting="kl", temperature=tau, reduction="none")
    weight = (-loss(batch)["loss_actor"].double() / log_prob(actor, batch)).detach()
    assert weight.mean().item() == pytest.approx(1.0, rel=1e-4)
    free = weight < 1 / kappa - 1e-3
    lagrange = (r - tau * weight.log())[free]  # lambda, the same for every row below the cap
    assert lagrange.std() < 1e-4
    assert (r[~free] >= lagrange.mean()).all()


@pytest.mark.parametrize("weighting", ["linear", "uniform", "exponential", "kl"])
def test_skipping_filtered_rows_changes_neither_loss_nor_gradient(actor, weighting):
    batch = make_batch(N)
    grads = []
    for skip in (True, False):
        loss = DRPOLoss(actor, kappa=0.2, weighting=weighting, skip_filtered=skip)
        value = loss(batch)["loss_actor"]
        grads.append([value, *torch.autograd.grad(value, list(loss.parameters()))])
    for skipped, dense in zip(*grads, strict=True):
        torch.testing.assert_close(skipped, dense, rtol=1e-6, atol=1e-6)


def test_filtered_rows_never_reach_the_policy():
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x), torch.ones(len(x), ACTION)

    net = TensorDictModule(Spy(STATE, ACTION), ["observation"], ["loc", "scale"])
    actor = ProbabilisticActor(
        net,
        in_keys=["loc", "scale"],
        distribution_class=lambda loc, scale: torch.distributions.Independent(
            torch.distributions.Normal(loc, scale), 1
        ),
    )
    DRPOLoss(actor, kappa=0.25)(make_batch(N))
    assert seen == [N // 4 - 1]  # linear weights: the row at the threshold weighs nothing either


def test_kappa_one_uniform_is_behaviour_cloning(actor):
    batch = make_batch(N)
    drpo = DRPOLoss(actor, kappa=1.0, weighting="uniform")(batch)["loss_actor"]
    cloning = BehaviorCloningLoss(actor)(batch)["loss_actor"]
    torch.testing.assert_close(drpo, cloning)


@pytest.mark.parametrize("weighting", ["linear", "uniform", "exponential", "kl"])
def test_equal_rewards_and_single_rows_stay_finite(actor, weighting):
    for batch in (make_batch(1), make_batch(N)):
        batch["next", "reward"] = torch.full((*batch.shape, 1), 0.7)
        loss = DRPOLoss(actor, weighting=weighting)
        out = loss(batch)
        out["loss_actor"].backward()
        assert all(value.isfinite().all() for value in out.values())
        # All are equally good: every weighting but the linear one clones, that one has no say.
        want = 0.0 if weighting == "linear" else -log_prob(actor, batch).mean().item()
        assert out["loss_actor"].item() == pytest.approx(want, rel=1e-5)


def test_a_click_log_shares_the_places_that_clicks_leave(actor):
    batch = make_batch(1000)
    clicks = torch.zeros(1000, 1)
    clicks[:4] = 1.0
    batch["next", "reward"] = clicks
    lp = log_prob(actor, batch)
    share = (50 - 4) / 996
    want = -(lp[:4].sum() + share * lp[4:].sum()) / 50
    fraction = DRPOLoss(actor, kappa=0.05, weighting="uniform")(batch)["loss_actor"]
    assert fraction.item() == pytest.approx(want.item(), rel=1e-5)
    first = DRPOLoss(actor, kappa=0.05, weighting="uniform", ties="first")(batch)["loss_actor"]
    assert first.item() == pytest.approx(-lp[:50].mean().item(), rel=1e-5)


def test_masked_rows_equal_dropped_rows_whatever_they_hold(actor):
    batch = make_batch(N)
    mask = torch.rand(N) < 0.6
    padded = batch.clone()
    padded["collector", "mask"] = mask
    for key in ("observation", "action", ("next", "reward")):
        padded[key][~mask] = torch.nan
    for weighting in ("linear", "uniform", "exponential", "kl"):
        for skip in (True, False):
            loss = DRPOLoss(actor, kappa=0.3, weighting=weighting, skip_filtered=skip)
            got = loss(padded)
            got["loss_actor"].backward()
            want = loss(batch[mask])
            for key in loss.out_keys:
                torch.testing.assert_close(got[key], want[key])
            assert all(p.grad.isfinite().all() for p in loss.parameters() if p.grad is not None)


def test_groups_fill_their_own_quota(actor):
    batch = make_batch(N)
    batch["user"] = torch.randint(0, 4, (N,))
    batch["next", "reward"] += 10.0 * batch["user"].unsqueeze(-1)  # one user rates far higher
    out = DRPOLoss(actor, kappa=0.25, weighting="uniform", group_key="user")(batch)
    r, lp, want, kept = batch["next", "reward"].squeeze(-1), log_prob(actor, batch), 0.0, 0
    for user in range(4):
        rows = (batch["user"] == user).nonzero().squeeze(-1)
        k = max(1, math.floor(0.25 * len(rows) + 0.5))
        want = want - lp[rows[r[rows].topk(k).indices]].sum()
        kept += k
    assert out["loss_actor"].item() == pytest.approx((want / kept).item(), rel=1e-5)
    batch["user"] = batch["user"].float()
    with pytest.raises(TypeError, match="must be integers"):
        DRPOLoss(actor, group_key="user")(batch)


def test_trajectories_are_kept_or_dropped_whole(actor):
    batch = make_batch(12, 7)
    valid = torch.arange(7) < torch.randint(1, 8, (12, 1))
    batch["collector", "mask"] = valid.unsqueeze(-1)
    lp = (log_prob(actor, batch) * valid).sum(1)
    returns = (batch["next", "reward"].squeeze(-1) * valid).sum(1)
    best = returns.topk(3).indices
    loss = DRPOLoss(actor, kappa=0.25, weighting="uniform", level="trajectory")
    assert loss(batch)["loss_actor"].item() == pytest.approx(-lp[best].mean().item(), rel=1e-5)


def test_a_sampler_s_priority_weights_enter_the_mean(actor):
    batch = make_batch(N)
    batch["priority_weight"] = torch.rand(N) + 0.5
    p, lp = batch["priority_weight"].double(), log_prob(actor, batch)
    best = batch["next", "reward"].squeeze(-1).topk(24).indices
    want = -(p[best] * lp[best]).sum() / p[best].sum()
    got = DRPOLoss(actor, kappa=0.25, weighting="uniform")(batch)["loss_actor"]
    assert got.item() == pytest.approx(want.item(), rel=1e-5)


def test_the_controller_rests_in_eval_mode_and_kappa_can_be_set(actor):
    loss = DRPOLoss(actor, kappa=AdaptiveKappa(initial=0.4, bounds=(0.2, 0.8)))
    loss.eval()(make_batch(N))
    assert loss.kappa.item() == pytest.approx(0.4)
    loss.kappa = 0.3
    assert loss.train()(make_batch(N))["kappa"].item() == pytest.approx(0.3)
    for seed in range(200):
        loss(make_batch(N, seed=seed))
    assert 0.2 - 1e-6 <= loss.kappa.item() <= 0.8 + 1e-6
    with pytest.raises(ValueError, match=r"kappa must lie in \(0, 1\], got 1.5"):
        loss.kappa = 1.5


def test_integer_actions_of_a_catalogue_policy(actor):
    net = TensorDictModule(nn.Linear(STATE, 11), ["observation"], ["logits"])
    catalogue = ProbabilisticActor(net, in_keys=["logits"], distribution_class=Categorical)
    batch = make_batch(N)
    for action in (torch.randint(0, 11, (N,)), torch.randint(0, 11, (N, 1))):
        batch["action"] = action
        logits = net(batch.select("observation"))["logits"]
        nll = nn.functional.cross_entropy(logits, action.reshape(-1), reduction="none")
        got = BehaviorCloningLoss(catalogue)(batch)["loss_actor"]
        torch.testing.assert_close(got, nll.mean())
        best = batch["next", "reward"].squeeze(-1).topk(24).indices
        got = DRPOLoss(catalogue, kappa=0.25, weighting="uniform")(batch)["loss_actor"]
        torch.testing.assert_close(got, nll[best].mean())


def test_bad_arguments_are_named(actor):
    for kappa in (0.0, 1.2, -1, math.nan):
        with pytest.raises(ValueError, match=r"kappa must lie in \(0, 1\]"):
            DRPOLoss(actor, kappa=kappa)
    with pytest.raises(ValueError, match=r"weighting must be .* got 'hard'"):
        DRPOLoss(actor, weighting="hard")
    with pytest.raises(ValueError, match="temperature must be"):
        DRPOLoss(actor, temperature=0.0)
    with pytest.raises(ValueError, match="level must be"):
        DRPOLoss(actor, level="session")
    with pytest.raises(ValueError, match="reduction must be"):
        DRPOLoss(actor, reduction="max")


def test_bad_batches_are_named(actor):
    loss = DRPOLoss(actor)
    with pytest.raises(ValueError, match="empty batch"):
        loss(make_batch(0))
    batch = make_batch(N)
    batch["next", "reward"][17] = torch.inf
    with pytest.raises(ValueError, match=r"row 17 holds inf \(1 of 96"):
        loss(batch)
    with pytest.raises(ValueError, match=r"quality .* must have shape \(96,\) or \(96, 1\)"):
        loss(make_batch(N).set(("next", "reward"), torch.rand(N, 2)))
    with pytest.raises(KeyError, match="reads its quality from"):
        loss(make_batch(N).exclude(("next", "reward")))
    with pytest.raises(KeyError, match="reads its action from"):
        loss(make_batch(N).exclude("action"))
    with pytest.raises(TypeError, match="must be boolean"):
        loss(make_batch(N).set(("collector", "mask"), torch.ones(N)))
