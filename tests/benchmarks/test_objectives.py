"""What a LossModule's step costs over a hand-written loop of the same arithmetic.

A step is forward, backward and Adam on the paper's network (10 -> 128 -> 128). Both loops run
interleaved in one process; ``extra_info["overhead"]`` is the ratio of the processor times that the
fastest tenth of the steps stays below, which other jobs disturb least. Run with

    OMP_NUM_THREADS=1 pytest -m benchmark_only tests/benchmarks/test_objectives.py

Wanted: at most 1.5 at N = 320, at most 1.1 at N = 65,536.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.objectives import SoftUpdate

import torchrl_drpo as drpo

STATE_DIM, ACTION_DIM = 10, 128
CLIP = 0.2


class Plain(nn.Module):
    """The paper's policy, with no framework around it."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(STATE_DIM, 128), nn.ReLU(), nn.Linear(128, ACTION_DIM))
        self.log_std = nn.Parameter(torch.zeros(ACTION_DIM))

    def log_prob(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density, and the squared z-scores summed (both with gradients)."""
        log_std = self.log_std.clamp(-5.0, 2.0)
        distance = ((action - self.mean(state)) / log_std.exp()).square().sum(-1)
        return -0.5 * distance - log_std.sum() - 0.5 * ACTION_DIM * math.log(2 * math.pi), distance


class QNet(nn.Module):
    """A critic, or with ``action_dim`` 0 a value network."""

    def __init__(self, action_dim: int = ACTION_DIM) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(STATE_DIM + action_dim, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, *parts: Tensor) -> Tensor:
        return self.net(torch.cat(parts, -1))


Batch = TensorDict
Loop = Callable[[Plain, Batch], Tensor]


def rows(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return batch["observation"], batch["action"], batch["next", "reward"].squeeze(-1)


def hand_bc(net: Plain, batch: Batch) -> Tensor:
    state, action, _ = rows(batch)
    return -net.log_prob(state, action)[0].mean()


class HandKappa:
    """Lines 1 and 2 of the paper's algorithm box: the best K rows, and the next kappa."""

    def __init__(self) -> None:
        self.kappa = 0.5

    def __call__(self, reward: Tensor) -> tuple[Tensor, int]:
        k = max(1, math.floor(self.kappa * len(reward) + 0.5))
        best = torch.topk(reward, k)
        if best.values.std() < 0.5 * reward.std():
            self.kappa = min(1.0, 1.02 * self.kappa)
        else:
            self.kappa = max(0.05, 0.98 * self.kappa)
        return best.indices, k


def hand_drpo() -> Loop:
    best = HandKappa()

    def loop(net: Plain, batch: Batch) -> Tensor:
        state, action, reward = rows(batch)
        top, k = best(reward)
        advantage = reward[top] - reward[top].min()
        advantage = advantage / (advantage.std() + 1e-8)
        return -(advantage * net.log_prob(state[top], action[top])[0]).sum() / k

    return loop


def hand_adaptive_bc() -> Loop:
    best = HandKappa()

    def loop(net: Plain, batch: Batch) -> Tensor:
        state, action, reward = rows(batch)
        top, _ = best(reward)
        return -net.log_prob(state[top], action[top])[0].mean()

    return loop


def hand_repulsive(net: Plain, batch: Batch) -> Tensor:
    state, action, reward = rows(batch)
    advantage = reward - reward.mean()
    log_prob, distance = net.log_prob(state, action)
    taper = torch.exp(-(distance.detach() - 1.0).clamp_min(0))
    weight = torch.where(advantage < 0, taper * advantage, advantage)
    return -(weight * log_prob).mean()


def hand_awr(net: Plain, batch: Batch) -> Tensor:
    state, action, reward = rows(batch)
    weight = (reward - reward.mean()).exp().clamp_max(20.0)
    return -(weight * net.log_prob(state, action)[0]).mean()


def hand_crr(net: Plain, batch: Batch) -> Tensor:
    state, action, reward = rows(batch)
    better = (reward > reward.mean()).nonzero().squeeze(-1)
    return -net.log_prob(state[better], action[better])[0].sum() / len(reward)


def hand_asymre(net: Plain, batch: Batch) -> Tensor:
    state, action, reward = rows(batch)
    advantage = reward - reward.mean()
    weight = torch.where(advantage < 0, 0.1 * advantage, advantage)
    return -(weight * net.log_prob(state, action)[0]).mean()


def hand_topr(net: Plain, batch: Batch) -> Tensor:
    state, action, reward = rows(batch)
    advantage = reward - reward.mean()
    log_prob, _ = net.log_prob(state, action)
    ratio = (log_prob.detach() - batch["propensity"].log()).clamp_max(0).exp()
    weight = torch.where(advantage < 0, ratio * advantage, advantage)
    return -(weight * log_prob).mean()


def hand_gbpo(net: Plain, batch: Batch) -> Tensor:
    state, action, reward = rows(batch)
    advantage = reward - reward.mean()
    log_prob, _ = net.log_prob(state, action)
    now = log_prob.detach()
    bound = torch.where(advantage < 0, torch.log1p(-now.exp().clamp_max(1.0)), now)
    weight = advantage * (now - torch.maximum(batch["propensity"].log(), bound)).exp()
    return -(weight * log_prob).mean()


def hand_ecpo(net: Plain, batch: Batch) -> Tensor:
    state, action, reward = rows(batch)
    advantage = reward - reward.mean()
    advantage = advantage / (advantage.std() + 1e-8)
    log_prob, _ = net.log_prob(state, action)
    old = batch["propensity"].log()
    raised = torch.maximum(log_prob.detach() - math.log(1.1 + CLIP), old)
    ratio = (log_prob - torch.where(advantage < 0, raised, old)).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()


class HandBPPO:
    """Keeps the snapshot."""

    def __init__(self, net: Plain) -> None:
        self.snapshot = copy.deepcopy(net).requires_grad_(False)

    def __call__(self, net: Plain, batch: Batch) -> Tensor:
        state, action, reward = rows(batch)
        advantage = reward - reward.mean()
        with torch.no_grad():
            old, _ = self.snapshot.log_prob(state, action)
        ratio = (net.log_prob(state, action)[0] - old).exp()
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP) * advantage
        return -torch.minimum(ratio * advantage, clipped).mean()


class HandDRPOQ(nn.Module):
    """IQL's critics beside the selection; a bandit (gamma 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.critics = nn.ModuleList([QNet(), QNet()])
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.value = QNet(0)
        self.best = HandKappa()

    def __call__(self, net: Plain, batch: Batch) -> Tensor:
        state, action, reward = rows(batch)
        with torch.no_grad():
            q = torch.stack([c(state, action).squeeze(-1) for c in self.targets]).amin(0)
        value = self.value(state).squeeze(-1)
        gap = q - value
        loss = (torch.where(gap > 0, 0.7, 0.3) * gap.square()).mean()
        for critic in self.critics:
            loss = loss + F.smooth_l1_loss(critic(state, action).squeeze(-1), reward)
        signal = gap.detach()
        top, k = self.best(signal)
        advantage = signal[top] - signal[top].min()
        advantage = advantage / (advantage.std() + 1e-8)
        return loss - (advantage * net.log_prob(state[top], action[top])[0]).sum() / k


def reward_net() -> QNet:
    """A fixed reward model, the same one at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return QNet().requires_grad_(False)


class HandGuided:
    """Clones the better rows and climbs the reward model from the policy's mean there."""

    def __init__(self) -> None:
        self.reward_net = reward_net()

    def __call__(self, net: Plain, batch: Batch) -> Tensor:
        state, action, reward = rows(batch)
        advantage = reward - reward.mean()
        advantage = advantage / (advantage.std() + 1e-8)
        better = (advantage > 0).nonzero().squeeze(-1)
        state, action = state[better], action[better]
        mean, log_std = net.mean(state), net.log_std.clamp(-5.0, 2.0)
        distance = ((action - mean) / log_std.exp()).square().sum(-1)
        log_prob = -0.5 * distance - log_std.sum() - 0.5 * ACTION_DIM * math.log(2 * math.pi)
        gain = self.reward_net(state, mean).squeeze(-1)
        return -(advantage[better] * (log_prob + gain)).sum() / len(reward)


def make_guided(actor: nn.Module) -> nn.Module:
    model = TensorDictModule(reward_net(), ["observation", "action"], ["predicted_reward"])
    return drpo.GuidedLoss(actor, model)


def make_drpo_q(actor: nn.Module) -> nn.Module:
    critic = TensorDictModule(QNet(), ["observation", "action"], ["state_action_value"])
    value = TensorDictModule(QNet(0), ["observation"], ["state_value"])
    loss = drpo.DRPOQLoss(actor, critic, value, gamma=0.0)
    SoftUpdate(loss, tau=0.005)  # made for its sake, not stepped: the hand loop does not either
    return loss


CASES: dict[str, tuple[Callable[[nn.Module], nn.Module], Callable[[Plain], Loop]]] = {
    "BehaviorCloning": (drpo.BehaviorCloningLoss, lambda net: hand_bc),
    "DRPO": (drpo.DRPOLoss, lambda net: hand_drpo()),
    "DRPOQ": (make_drpo_q, lambda net: HandDRPOQ()),
    "AdaptiveBC": (drpo.AdaptiveBCLoss, lambda net: hand_adaptive_bc()),
    "Repulsive, tapered": (
        lambda a: drpo.RepulsiveLoss(a, taper=drpo.ExponentialTaper(threshold=1.0)),
        lambda net: hand_repulsive,
    ),
    "AWR": (drpo.AWRLoss, lambda net: hand_awr),
    "CRR": (drpo.CRRLoss, lambda net: hand_crr),
    "AsymRE": (lambda a: drpo.AsymRELoss(a, negative_weight=0.1), lambda net: hand_asymre),
    "TOPR": (drpo.TOPRLoss, lambda net: hand_topr),
    "GBPO": (lambda a: drpo.GBPOLoss(a, behavior="logged"), lambda net: hand_gbpo),
    "ECPO": (lambda a: drpo.ECPOLoss(a, behavior="logged"), lambda net: hand_ecpo),
    "BPPO": (drpo.BPPOLoss, HandBPPO),
    "Guided": (make_guided, lambda net: HandGuided()),
}


def make_batch(n: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    entries = {
        "observation": torch.randn(n, STATE_DIM, generator=generator),
        "action": torch.randn(n, ACTION_DIM, generator=generator),
        "propensity": torch.rand(n, generator=generator) * 0.9 + 0.1,
        "next": {
            "reward": torch.rand(n, 1, generator=generator),
            "terminated": torch.ones(n, 1, dtype=torch.bool),
        },
    }
    return TensorDict(entries, batch_size=[n])


def make_step(objective: Callable[[], Tensor], parameters: list[Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=3e-4)

    def step() -> None:
        optimizer.zero_grad()
        objective().backward()
        optimizer.step()

    return step


def both_steps(name: str, n: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """One step of the LossModule and one of the loop by hand, on equal parameters."""
    torch.manual_seed(0)
    make_loss, make_loop = CASES[name]
    batch, net = make_batch(n), Plain()
    actor = drpo.make_gaussian_actor(STATE_DIM, ACTION_DIM)
    actor[0].module.load_state_dict(net.state_dict())
    loss, loop = make_loss(actor), make_loop(net)
    extra = list(loop.parameters()) if isinstance(loop, nn.Module) else []

    def objective() -> Tensor:
        out = loss(batch)
        return sum(value for key, value in out.items() if key.startswith("loss"))

    ours = make_step(objective, list(loss.parameters()))
    by_hand = make_step(lambda: loop(net, batch), [*net.parameters(), *extra])
    return ours, by_hand


def timed(step: Callable[[], None]) -> float:
    """Processor time: the wall clock would also count the turns of other jobs."""
    start = time.process_time()
    step()
    return time.process_time() - start


def fast(times: tuple[float, ...]) -> float:
    """What the fastest tenth of the steps stays below."""
    return statistics.quantiles(times, n=10, method="inclusive")[0]


@pytest.mark.benchmark_only
@pytest.mark.parametrize("n", [320, 65_536])
@pytest.mark.parametrize("name", CASES)
def test_step(benchmark: Callable, name: str, n: int):
    ours, by_hand = both_steps(name, n)
    rounds = 300 if n < 10_000 else 7
    for _ in range(3):
        ours(), by_hand()
    pairs = [(timed(ours), timed(by_hand)) for _ in range(rounds)]
    mine, plain = (fast(column) for column in zip(*pairs, strict=True))
    benchmark.extra_info["by_hand_ms"] = plain * 1e3
    benchmark.extra_info["overhead"] = mine / plain
    benchmark.pedantic(ours, rounds=3 if n > 10_000 else 20)


@pytest.mark.benchmark_only
@pytest.mark.parametrize("name", [n for n in CASES if n != "DRPOQ"])  # its critics start apart
def test_both_loops_compute_the_same(name: str):
    torch.manual_seed(0)
    make_loss, make_loop = CASES[name]
    batch, net = make_batch(320), Plain()
    actor = drpo.make_gaussian_actor(STATE_DIM, ACTION_DIM)
    actor[0].module.load_state_dict(net.state_dict())
    loss = make_loss(actor)(batch)["loss_actor"]
    torch.testing.assert_close(loss, make_loop(net)(net, batch), rtol=1e-4, atol=1e-4)
