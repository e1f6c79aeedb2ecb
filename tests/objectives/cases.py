"""Every LossModule of the package, ready to be built on small actors and batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor, nn
from torchrl.data import LazyTensorStorage, SamplerWithoutReplacement, TensorDictReplayBuffer
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import SoftUpdate
from torchrl.objectives.common import LossModule

import torchrl_drpo as drpo
from torchrl_drpo.data import BufferSource
from torchrl_drpo.policies.catalogue import make_catalogue_actor

Actor = ProbabilisticTensorDictSequential
STATE_DIM, ACTION_DIM, NUM_ITEMS = 3, 2, 7


class Critic(nn.Module):
    """Q(s, a) for vectors and for item indices."""

    def __init__(self, discrete: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUM_ITEMS, ACTION_DIM) if discrete else nn.Identity()
        self.net = nn.Sequential(nn.Linear(STATE_DIM + ACTION_DIM, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.net(torch.cat([state, self.embed(action)], -1))


def gaussian_actor() -> Actor:
    return drpo.make_gaussian_actor(STATE_DIM, ACTION_DIM, hidden=(8,))


def categorical_actor() -> Actor:
    net = nn.Sequential(nn.Linear(STATE_DIM, 8), nn.Tanh(), nn.Linear(8, NUM_ITEMS))
    return ProbabilisticActor(
        TensorDictModule(net, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        out_keys=["action"],
        distribution_class=torch.distributions.Categorical,
    )


def catalogue_actor() -> Actor:
    return make_catalogue_actor(NUM_ITEMS, dim=4, history=3, hidden=(8,))


ACTORS: dict[str, Callable[[], Actor]] = {
    "gaussian": gaussian_actor,
    "categorical": categorical_actor,
    "catalogue": catalogue_actor,
}


def offline_source(data: TensorDict) -> BufferSource:
    """Batches of these rows, as large as they are, for TorchRL's Trainer."""
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(len(data)),
        sampler=SamplerWithoutReplacement(),
        batch_size=len(data),
    )
    buffer.extend(data)
    return BufferSource(buffer)


def is_discrete(actor: Actor) -> bool:
    return "loc" not in actor.out_keys


def critic(actor: Actor) -> TensorDictModule:
    return TensorDictModule(
        Critic(is_discrete(actor)), ["observation", "action"], ["state_action_value"]
    )


def value_network() -> TensorDictModule:
    return TensorDictModule(nn.Linear(STATE_DIM, 1), ["observation"], ["state_value"])


class Taste(nn.Module):
    """A reward of whatever state an actor reads, and of vectors or item indices."""

    def __init__(self, state_dim: int, discrete: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(NUM_ITEMS, ACTION_DIM) if discrete else nn.Identity()
        self.net = nn.Linear(state_dim, ACTION_DIM)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return (self.net(state.to(self.net.weight.dtype)) * self.embed(action)).sum(-1)


def reward_model(actor: Actor) -> TensorDictModule:
    keys = actor.in_keys
    dim = STATE_DIM if keys == ["observation"] else 3  # the length of a history
    return TensorDictModule(Taste(dim, is_discrete(actor)), [*keys, "action"], ["predicted_reward"])


def _with_targets(loss: LossModule) -> LossModule:
    meta = any(p.is_meta for p in loss.parameters())  # which the updater cannot look into
    if loss.functional and not meta:
        SoftUpdate(loss, tau=0.005)
    return loss


def _reference(actor: Actor) -> Actor:
    """Another policy of the same kind."""
    other = copy.deepcopy(actor)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return other


def _drpo_q(actor: Actor, **options: Any) -> LossModule:
    loss = drpo.DRPOQLoss(actor, critic(actor), value_network(), gamma=0.9, **options)
    return _with_targets(loss)


def _crr(actor: Actor, **options: Any) -> LossModule:
    loss = drpo.CRRLoss(actor, critic(actor), mode="exponential", gamma=0.9, **options)
    return _with_targets(loss)


def _guided(actor: Actor, **options: Any) -> LossModule:
    return drpo.GuidedLoss(actor, reward_model(actor), guidance=0.5, **options)


Build = Callable[..., LossModule]
LOSSES: dict[str, Build] = {
    "bc": drpo.BehaviorCloningLoss,
    "drpo": drpo.DRPOLoss,
    "drpo uniform": lambda a, **o: drpo.DRPOLoss(a, kappa=0.3, weighting="uniform", **o),
    "drpo exponential": lambda a, **o: drpo.DRPOLoss(
        a, kappa=0.4, weighting="exponential", temperature=0.5, ties="first", **o
    ),
    "drpo kl": lambda a, **o: drpo.DRPOLoss(a, kappa=0.4, weighting="kl", temperature=0.5, **o),
    "drpo groups": lambda a, **o: drpo.DRPOLoss(a, kappa=0.4, group_key="user", **o),
    "drpo negatives": lambda a, **o: drpo.DRPOLoss(
        a, kappa=0.4, negative_taper=drpo.ExponentialTaper(threshold=1.0), **o
    ),
    "drpo dislikes": lambda a, **o: drpo.DRPOLoss(
        a, kappa=0.4, weighting="uniform", negative_key="dislike", **o
    ),
    "drpo q": _drpo_q,
    "repulsive": drpo.RepulsiveLoss,
    "repulsive taper": lambda a, **o: drpo.RepulsiveLoss(
        a, normalize=True, taper=drpo.ReciprocalTaper(threshold=1.0), **o
    ),
    "positive only": lambda a, **o: drpo.RepulsiveLoss(a, negative_scale=0.0, **o),
    "adaptive bc": drpo.AdaptiveBCLoss,
    "awr": lambda a, **o: drpo.AWRLoss(a, temperature=0.5, self_normalize=True, **o),
    "crr": _crr,
    "crr without critic": drpo.CRRLoss,
    "asymre": lambda a, **o: drpo.AsymRELoss(a, shift=-0.2, negative_weight=0.5, **o),
    "topr": lambda a, **o: drpo.TOPRLoss(a, beta=0.5, **o),
    "topr reference": lambda a, **o: drpo.TOPRLoss(a, behavior=_reference(a), **o),
    "bppo": lambda a, **o: drpo.BPPOLoss(a, behavior=_reference(a), clip_decay=0.9, **o),
    "guided": _guided,
    "gbpo": lambda a, **o: drpo.GBPOLoss(a, behavior="logged", **o),
    "gbpo current": lambda a, **o: drpo.GBPOLoss(a, behavior="current", **o),
    "ecpo": lambda a, **o: drpo.ECPOLoss(a, group_key="user", behavior="logged", **o),
}
#: One form of every class.
ONE_EACH = (
    "bc",
    "drpo",
    "drpo q",
    "repulsive taper",
    "adaptive bc",
    "awr",
    "crr",
    "asymre",
    "topr",
    "bppo",
    "guided",
    "gbpo",
    "ecpo",
)
#: Losses whose value at one row depends on random draws of the policy.
SAMPLING = ("crr",)
#: Losses that train critics from single steps.
STEPS_ONLY = ("crr", "drpo q")


def batch(actor: Actor, *shape: int, seed: int = 0) -> TensorDict:
    """Logged rows with everything that any loss reads."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*last: int) -> Tensor:
        return torch.randn(*shape, *last, generator=generator)

    def integers(high: int, *last: int) -> Tensor:
        return torch.randint(high, (*shape, *last), generator=generator)

    def state() -> Tensor | dict[str, Tensor]:
        if actor.in_keys == ["observation"]:
            return normal(STATE_DIM)
        return {"history": integers(NUM_ITEMS, 3), "features": normal(STATE_DIM)}

    rows = {
        "observation": state(),
        "action": integers(NUM_ITEMS) if is_discrete(actor) else normal(ACTION_DIM),
        "propensity": torch.rand(*shape, generator=generator) * 0.9 + 0.1,
        "user": integers(3),
        "dislike": integers(4) == 0,
        "next": {
            "observation": state(),
            "reward": normal(1),
            "done": torch.ones(*shape, 1, dtype=torch.bool),
            "terminated": integers(2, 1).bool(),
        },
    }
    return TensorDict(rows, batch_size=list(shape))


def total(out: TensorDict) -> Tensor:
    """What a trainer minimises."""
    return sum(value for key, value in out.items() if key.startswith("loss"))


def gradients(loss: LossModule) -> dict[str, Tensor]:
    """Copies of all gradients by parameter name; zeros where there is none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in loss.named_parameters()
        if p.requires_grad
    }


def make(name: str, actor: Actor | None = None, **options: object) -> LossModule:
    """A loss by its name, on a small Gaussian policy by default."""
    return LOSSES[name](gaussian_actor() if actor is None else actor, **options)


def run(loss: LossModule, data: TensorDict, seed: int = 1) -> TensorDict:
    """A forward pass."""
    torch.manual_seed(seed)  # for the one loss that samples
    return loss(data)


def assert_same(left: TensorDict, right: TensorDict, **tolerance: float) -> None:
    """Two outputs agree entry by entry."""
    assert set(left.keys()) == set(right.keys())
    for key in left.keys():  # noqa: SIM118 (a tensordict iterates over its rows)
        torch.testing.assert_close(
            left[key], right[key], **tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )
