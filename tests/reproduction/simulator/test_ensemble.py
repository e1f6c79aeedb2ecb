"""The ensemble against the package's own LossModules: seed by seed, on the same batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from torchrl_drpo import (
    AdaptiveBCLoss,
    AdaptiveKappa,
    AsymRELoss,
    AWRLoss,
    BehaviorCloningLoss,
    BPPOLoss,
    DRPOLoss,
    ExponentialTaper,
    RepulsiveLoss,
    make_gaussian_actor,
)
from torchrl_drpo.envs.streams import stream, stream_seed
from torchrl_drpo.policies.gaussian import GaussianHead
from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble
from torchrl_drpo.reproduction.simulator.rules import (
    Asymmetric,
    Exponential,
    Imitation,
    Proximal,
    Rule,
    Signed,
    TopFraction,
)
from torchrl_drpo.reproduction.simulator.training import Schedule, train
from torchrl_drpo.reproduction.simulator.worlds import Setup, Worlds

SEEDS, STEPS, BATCH, RATE = (3, 11), 30, 64, 1e-3
SETUP = Setup(
    log_size=400, users=8, changes={"action_dim": 12, "num_items": 150, "expert_neighbours": 5}
)
TAPER = ExponentialTaper(strength=0.7, threshold=0.8)
FAST = AdaptiveKappa(initial=0.6, target_ratio=0.5, bounds=(0.1, 1.0), up=1.1, down=0.9)

#: A rule and the LossModule that it stands for.
PAIRS: dict[str, tuple[Callable[[], Rule], Callable[[nn.Module], nn.Module]]] = {
    "BC": (Imitation, BehaviorCloningLoss),
    "DRPO": (TopFraction, DRPOLoss),
    "DRPO, fast kappa": (lambda: TopFraction(kappa=FAST), lambda a: DRPOLoss(a, kappa=FAST)),
    "DRPO, fixed": (lambda: TopFraction(kappa=0.23), lambda a: DRPOLoss(a, kappa=0.23)),
    "DRPO-Exp": (
        lambda: TopFraction(weighting="exponential"),
        lambda a: DRPOLoss(a, weighting="exponential"),
    ),
    "adaptive BC": (lambda: TopFraction(weighting="uniform"), AdaptiveBCLoss),
    "KL": (
        lambda: TopFraction(weighting="kl", temperature=0.2),
        lambda a: DRPOLoss(a, weighting="kl", temperature=0.2),
    ),
    "DRPO, tapered": (
        lambda: TopFraction(taper=TAPER, negative_scale=0.5),
        lambda a: DRPOLoss(a, negative_taper=TAPER, negative_scale=0.5, remoteness="per_dimension"),
    ),
    "APG": (Signed, lambda a: RepulsiveLoss(a, normalize=True)),
    "positive-only": (
        lambda: Signed(negative_scale=0.0),
        lambda a: RepulsiveLoss(a, normalize=True, negative_scale=0.0),
    ),
    "soft base": (
        lambda: Signed(baseline="min"),
        lambda a: RepulsiveLoss(a, normalize=True, baseline="min"),
    ),
    "tapered": (
        lambda: Signed(taper=TAPER),
        lambda a: RepulsiveLoss(a, normalize=True, taper=TAPER, remoteness="per_dimension"),
    ),
    "tapered by D": (
        lambda: Signed(taper=ExponentialTaper(scale=10.0), per_dimension=False),
        lambda a: RepulsiveLoss(a, normalize=True, taper=ExponentialTaper(scale=10.0)),
    ),
    "AWR": (
        lambda: Exponential(temperature=0.1, max_weight=3.0),
        lambda a: AWRLoss(a, temperature=0.1, max_weight=3.0, self_normalize=True),
    ),
    "AsymRE": (
        lambda: Asymmetric(negative_weight=0.1),
        lambda a: AsymRELoss(a, negative_weight=0.1),
    ),
    "AsymRE, shifted": (
        lambda: Asymmetric(shift=-0.2, negative_weight=1.0),
        lambda a: AsymRELoss(a, shift=-0.2),
    ),
}


@dataclass
class Reference:
    """One seed's policy, trained by autograd."""

    actor: nn.Module
    kappas: list[float] = field(default_factory=list)

    @property
    def parameters(self) -> dict[str, Tensor]:
        head = next(m for m in self.actor.modules() if isinstance(m, GaussianHead))
        first, second = head.mean[0], head.mean[2]
        found = {
            "w1": first.weight.T,
            "b1": first.bias[None],
            "w2": second.weight.T,
            "b2": second.bias[None],
            "log_std": head.log_std[None],
        }
        return {name: value.detach() for name, value in found.items()}


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    return Worlds(SETUP, SEEDS)


def reference(worlds: Worlds, number: int, *losses: Callable[[nn.Module], nn.Module]) -> Reference:
    """Trains with each loss in turn, for an equal share of the steps, under one optimiser."""
    seed, setting = worlds.seeds[number], worlds.setup.world
    torch.manual_seed(stream_seed(seed, "policy"))
    actor = make_gaussian_actor(setting.state_dim, setting.action_dim)
    found = Reference(actor)
    log = worlds.log[number]
    log = TensorDict(
        {
            "observation": log["observation"],
            "action": log["action"],
            "next": {"reward": log["reward"].unsqueeze(-1)},
        },
        batch_size=log.batch_size,
    )
    rows = torch.randint(len(log), (256, BATCH), generator=stream(seed, "batches"))
    optimizer = torch.optim.Adam(actor.parameters(), lr=RATE)
    for turn, build in enumerate(losses):
        loss = build(actor)
        for step in range(STEPS // len(losses)):
            optimizer.zero_grad()
            loss(log[rows[turn * STEPS // len(losses) + step]])["loss_actor"].backward()
            optimizer.step()
            if hasattr(loss, "kappa"):
                found.kappas.append(float(loss.kappa))
    return found


def by_rule(worlds: Worlds, rule: Rule, evaluations: int = STEPS) -> object:
    # A rule may add columns to the log: each gets a copy of its own.
    own = object.__new__(Worlds)
    own.__dict__ |= worlds.__dict__ | {"log": worlds.log.copy()}
    return train(own, rule, Schedule(STEPS, BATCH, RATE, evaluations))


def assert_same(policies: PolicyEnsemble, number: int, expected: Reference) -> None:
    for name, value in expected.parameters.items():
        torch.testing.assert_close(
            policies.parameters[name][number].detach(),
            value,
            rtol=1e-4,
            atol=1e-4,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("name", PAIRS)
def test_a_rule_trains_as_its_loss_module(worlds, name):
    rule, loss = PAIRS[name]
    run = by_rule(worlds, rule())
    start = PolicyEnsemble(SEEDS, SETUP.world.state_dim, SETUP.world.action_dim)
    for number in range(len(SEEDS)):
        expected = reference(worlds, number, loss)
        moved = (expected.parameters["w2"] - start.parameters["w2"][number]).abs().mean()
        assert moved > 30 * 1e-4  # else the comparison says nothing
        assert_same(run.policies, number, expected)


@pytest.mark.parametrize("name", ["DRPO, fast kappa", "DRPO-Exp"])
def test_kappa_moves_as_in_the_loss_module(worlds, name):
    rule, loss = PAIRS[name]
    run = by_rule(worlds, rule())
    each = [reference(worlds, number, loss).kappas for number in range(len(SEEDS))]
    expected = [sum(column) / len(column) for column in zip(*each, strict=True)]
    assert [kappa for _, kappa in run.curves["kappa"]] == pytest.approx(expected, rel=1e-4)
    assert len({round(kappa, 3) for kappa in expected}) > 5


def test_bppo_clones_then_improves_as_the_losses_do(worlds):
    run = by_rule(worlds, Proximal(clip_epsilon=0.05))
    for number in range(len(SEEDS)):
        bppo = lambda actor: BPPOLoss(actor, clip_epsilon=0.05, normalize=True)  # noqa: E731
        expected = reference(worlds, number, BehaviorCloningLoss, bppo)
        assert_same(run.policies, number, expected)
    plain = by_rule(worlds, Proximal(clip_epsilon=0.9)).policies.parameters["w2"]
    assert (plain - run.policies.parameters["w2"]).abs().max() > 1e-3  # the clip was active


def test_a_seed_does_not_depend_on_the_others():
    both = by_rule(Worlds(SETUP, SEEDS), TopFraction(), 5)
    alone = by_rule(Worlds(SETUP, SEEDS[1:]), TopFraction(), 5)
    for name, value in alone.policies.parameters.items():
        torch.testing.assert_close(both.policies.parameters[name][1:], value, rtol=1e-4, atol=1e-5)
    assert both.metrics["raw_reward"][1] == pytest.approx(alone.metrics["raw_reward"][0], rel=1e-4)


def test_log_sigma_gets_no_gradient_beyond_its_bounds():
    policies = PolicyEnsemble([0], 4, 3)
    with torch.no_grad():
        policies.parameters["log_std"][..., 0] = 2.5
        policies.parameters["log_std"][..., 1] = -5.5
    scores = policies.score(torch.randn(1, 6, 4), torch.randn(1, 6, 3))
    policies.backward(scores, torch.full((1, 6), 1 / 6))
    gradient = policies.parameters["log_std"].grad.flatten()
    assert gradient[:2].tolist() == [0.0, 0.0]
    assert gradient[2] != 0
