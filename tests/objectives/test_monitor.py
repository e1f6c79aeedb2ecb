"""The phantom-gradient monitor: the right gradients, and nothing of them applied."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import ProbabilisticActor

import torchrl_drpo as drpo
from tests.objectives.by_hand import advantage, log_prob
from tests.objectives.cases import (
    ACTORS,
    batch,
    categorical_actor,
    gaussian_actor,
    offline_source,
)
from torchrl_drpo.functional.diagnostics import gaussian_score
from torchrl_drpo.objectives import PhantomGradientMonitor

N = 40


def norm(gradients: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.stack([g.square().sum() for g in gradients]).sum().sqrt()


def test_a_row_without_a_batch_dimension_is_told_so():
    monitor = PhantomGradientMonitor(gaussian_actor())
    with pytest.raises(ValueError, match="without a batch dimension"):
        monitor.probe(batch(gaussian_actor(), 4)[0])


def test_gradients_are_those_of_the_two_branches_by_parameter_group():
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    found = PhantomGradientMonitor(actor).probe(data)
    groups = {"mean": [], "log_sigma": []}
    for name, parameter in actor.named_parameters():
        groups["log_sigma" if "log_std" in name else "mean"].append(parameter)
    signed, logp = advantage(data), log_prob(actor, data)
    for group, members in groups.items():
        branches = {}
        for sign, part in (("positive", signed.clamp_min(0)), ("negative", signed.clamp_max(0))):
            gradients = torch.autograd.grad(-(part * logp).mean(), members, retain_graph=True)
            branches[sign] = norm(gradients)
            torch.testing.assert_close(found[f"{sign}_gradient/{group}"], branches[sign])
        ratio = branches["negative"] / branches["positive"]
        torch.testing.assert_close(found[f"repulsion_to_attraction/{group}"], ratio)


def test_the_gradient_of_log_sigma_is_the_papers_score():
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    dist = actor.get_dist(data.select("observation"))
    _, score = gaussian_score(data["action"], dist.loc, dist.scale)
    negative = (advantage(data).clamp_max(0).unsqueeze(-1) * score).mean(0)
    found = PhantomGradientMonitor(actor).probe(data)
    torch.testing.assert_close(found["negative_gradient/log_sigma"], negative.norm())


def test_masses_tapers_and_fields():
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    taper = drpo.ExponentialTaper(threshold=1.5)
    found = PhantomGradientMonitor(actor, taper=taper).probe(data)
    dist = actor.get_dist(data.select("observation"))
    distance = ((data["action"] - dist.loc) / dist.scale).square().sum(-1).detach()
    signed, factor = advantage(data), taper(distance)
    negative, near = signed < 0, distance <= 1.5
    assert found["negative_mass_ratio"].item() == pytest.approx(1.0, abs=1e-4)
    rho = -(factor * signed)[negative].sum() / signed[~negative].sum()
    torch.testing.assert_close(found["effective_negative_mass_ratio"], rho)
    torch.testing.assert_close(found["negative_remoteness"], distance[negative].mean())
    assert found["near_retention"] == 1
    torch.testing.assert_close(found["far_retention"], factor[negative & ~near].mean())
    active = (negative & ~near).sum() / negative.sum()
    torch.testing.assert_close(found["taper_active_fraction"], active)


def test_nothing_is_applied_and_nothing_left_behind():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 7)
            )

        def forward(self, state: torch.Tensor) -> torch.Tensor:
            return self.net(state)

    actor = ProbabilisticActor(
        TensorDictModule(Net(), ["observation"], ["logits"]),
        in_keys=["logits"],
        out_keys=["action"],
        distribution_class=torch.distributions.Categorical,
    ).train()
    data = batch(categorical_actor(), N)
    state = {key: value.clone() for key, value in actor.state_dict().items()}
    modes = [module.training for module in actor.modules()]
    keys, generator = set(data.keys(True, True)), torch.get_rng_state()
    with torch.no_grad():  # as an evaluation loop may have it
        found = PhantomGradientMonitor(actor).probe(data.lock_())
    assert set(found) >= {"positive_gradient/policy", "negative_gradient/policy"}
    assert not any(value.requires_grad for value in found.values())
    assert all(p.grad is None for p in actor.parameters())
    assert all(torch.equal(value, state[key]) for key, value in actor.state_dict().items())
    assert [module.training for module in actor.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert set(data.keys(True, True)) == keys


@pytest.mark.parametrize("kind", ACTORS)
def test_it_sees_the_parameters_of_a_loss(kind: str):
    actor = ACTORS[kind]()
    data = batch(actor, 8, 3).set("shifted_valid", torch.rand(8, 3) < 0.8)
    loss = drpo.BehaviorCloningLoss(actor)
    monitor = PhantomGradientMonitor(loss.actor_network)
    before = monitor.probe(data)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    loss(data)["loss_actor"].backward()
    optimizer.step()
    after = monitor.probe(data)
    assert all(torch.isfinite(value) for value in after.values())
    assert any(after[key] != before[key] for key in after if "gradient/" in key)


def test_masked_steps_are_not_seen():
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    mask = torch.rand(N) < 0.5
    expected = PhantomGradientMonitor(actor).probe(data[mask])
    data["action"][~mask] = torch.nan
    found = PhantomGradientMonitor(actor).probe(data.set("shifted_valid", mask))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


def test_groups_of_ones_own_and_the_interval():
    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    monitor = PhantomGradientMonitor(actor, interval=3, groups={"first": ["mean.0"]})
    assert set(monitor.groups) == {"first", "rest"}
    looked = [monitor(data) is not None for _ in range(7)]
    assert looked == [True, False, False, True, False, False, True]
    resumed = PhantomGradientMonitor(actor, interval=3)
    resumed.load_state_dict(monitor.state_dict())
    assert resumed(data) is None
    with pytest.raises(ValueError, match="interval must be at least 1, got 0"):
        PhantomGradientMonitor(actor, interval=0)


def test_it_hooks_into_torchrls_trainer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from torchrl.trainers import Trainer
        from torchrl.trainers.trainers import DefaultOptimizationStepper

    actor, data = gaussian_actor(), batch(gaussian_actor(), N)
    loss = drpo.BehaviorCloningLoss(actor)
    logged: dict[str, list[float]] = {}

    class Log:
        def log_scalar(self, name: str, value: float, step: int | None = None) -> None:
            logged.setdefault(name, []).append(torch.as_tensor(value).item())

    trainer = Trainer(
        collector=offline_source(data),
        total_frames=4 * N,
        frame_skip=1,
        optim_steps_per_batch=2,
        loss_module=loss,
        optimizer=torch.optim.Adam(loss.parameters(), lr=0.01),
        optimization_stepper=DefaultOptimizationStepper(),
        logger=Log(),
        progress_bar=False,
        log_interval=1,
    )
    monitor = PhantomGradientMonitor(actor, interval=2)
    monitor.register(trainer)
    trainer.train()
    assert monitor.calls == 8
    assert logged["negative_gradient/mean"]
    assert trainer.state_dict()["phantom_gradients"] == {"calls": 8}


def test_negatives_grow_on_a_policy_that_never_sees_them():
    # Section 3's reading: while positives are cloned, the negatives' pull on log sigma grows,
    # and more than theirs.
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(200, 2, generator=generator) * 0.2
    bad = torch.randn(200, 2, generator=generator) * 0.2 + 1.5
    data = TensorDict(
        {
            "observation": torch.randn(400, 3, generator=generator),
            "action": torch.cat([good, bad]),
            "next": {"reward": torch.cat([torch.ones(200), torch.zeros(200)])},
        },
        batch_size=[400],
    )
    actor = gaussian_actor()
    monitor, loss = PhantomGradientMonitor(actor), drpo.RepulsiveLoss(actor, negative_scale=0.0)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    before = monitor.probe(data)
    for _ in range(150):
        optimizer.zero_grad()
        loss(data)["loss_actor"].backward()
        optimizer.step()
    after = monitor.probe(data)
    for group in ("mean", "log_sigma"):
        grown = after[f"negative_gradient/{group}"] / before[f"negative_gradient/{group}"]
        assert grown > 5
    assert after["repulsion_to_attraction/log_sigma"] > 20


def test_left_on_it_costs_less_than_a_twentieth():
    # One look in 100 steps: 5% of the time is five steps a look. (Measured: about one step.)
    generator = torch.Generator().manual_seed(0)
    data = TensorDict(
        {
            "observation": torch.randn(320, 10, generator=generator),
            "action": torch.randn(320, 128, generator=generator),
            "next": {"reward": torch.rand(320, generator=generator)},
        },
        batch_size=[320],
    )
    actor = drpo.make_gaussian_actor(10, 128)
    loss, monitor = drpo.DRPOLoss(actor), PhantomGradientMonitor(actor, interval=100)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss(data)["loss_actor"].backward()
        optimizer.step()

    def seconds(what: Callable[[], object]) -> float:
        start = time.process_time()
        what()
        return time.process_time() - start

    step(), monitor(data)
    rounds = [(seconds(step), seconds(lambda: monitor.probe(data))) for _ in range(40)]
    one_step, one_look = (statistics.median(column) for column in zip(*rounds, strict=True))
    waiting = statistics.median(seconds(lambda: monitor(data)) for _ in range(50))
    assert one_look / 100 + waiting < 0.05 * one_step
