"""C-U1, trained: policies that repel from negative 0 alone, for comparison with the closed forms.

The world and the closed forms are those of ``torchrl_drpo.envs.cu1``. displacement =
<mu - a+, u> / .70 is 0 for positive-only, 1 at the best action.

Arms are independent policies: their parameters are stacked and trained at once under
``torch.vmap``, through the package's own ``RepulsiveLoss``.
"""

from __future__ import annotations

import math

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo import RepulsiveLoss
from torchrl_drpo.envs.cu1 import (
    A_NEGATIVE,
    A_POSITIVE,
    BEHIND,
    NEGATIVE_RADIUS,
    POSITIVE_RADIUS,
    SHORT,
    SIGMA,
    Taper,
    displacement_of,
    make_world,
    mass_ratio,
    reward_at,
    reward_of,
    tapered_displacement,
)
from torchrl_drpo.policies.gaussian import DiagonalNormal

__all__ = [
    "A_NEGATIVE",
    "A_POSITIVE",
    "BEHIND",
    "NEGATIVE_RADIUS",
    "POSITIVE_RADIUS",
    "SHORT",
    "SIGMA",
    "Arms",
    "displacement_of",
    "make_world",
    "mass_ratio",
    "reward_of",
    "tapered_displacement",
]


class Policy(nn.Module):
    """MLP 6-64-64 with zero-initialised heads; sigma is learned or stays at .60."""

    def __init__(self, learn_sigma: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.log_sigma = nn.Parameter(torch.tensor(math.log(SIGMA)), requires_grad=learn_sigma)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        loc = self.head(self.body(state))
        return loc, self.log_sigma.exp().expand_as(loc)


def make_actor(learn_sigma: bool = False) -> ProbabilisticActor:
    return ProbabilisticActor(
        TensorDictModule(Policy(learn_sigma), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        out_keys=["action"],
        distribution_class=DiagonalNormal,
    )


class Arms:
    """Policies of one start, each with its own alpha, trained side by side.

    Args:
        alphas: one arm each.
        taper: of all arms; the arms of one object share it.
        learn_sigma: whether log sigma is trained.
        warmup: positive-only steps that all arms share.
        seed: of the network and the batches.
    """

    def __init__(
        self,
        alphas: list[float],
        taper: Taper | None = None,
        *,
        learn_sigma: bool = False,
        warmup: int = 2_000,
        seed: int = 0,
    ) -> None:
        torch.manual_seed(seed)
        self.train_world, self.test_world = make_world(4_096, seed), make_world(4_096, seed + 1)
        self.generator = torch.Generator().manual_seed(seed)
        actor = make_actor(learn_sigma)
        self.loss = RepulsiveLoss(actor, taper=taper)
        start = TensorDict.from_module(actor).data
        # The arms do not differ before the negatives come in: one is trained, then copied.
        self._stack(start, [0.0])
        self.run(warmup, rates=(1e-3, 1e-3))
        self._stack(self.arms[0].data, alphas)

    def _stack(self, start: TensorDict, alphas: list[float]) -> None:
        trained = {
            name for name, p in self.loss.actor_network.named_parameters() if p.requires_grad
        }
        self.alphas = torch.tensor(alphas)
        self.arms = torch.stack([start.clone() for _ in alphas]).contiguous()
        for key in self.arms.keys(True, True):
            if ".".join(key) in trained:
                self.arms.get(key).requires_grad_()
        self.parameters = [p for p in self.arms.values(True, True) if p.requires_grad]

    def run(self, steps: int, rates: tuple[float, float] = (1e-3, 1e-4)) -> None:
        """Adam on 256 states a step, the rate falling from the first to the second."""
        optimizer = torch.optim.Adam(self.parameters, lr=rates[0])
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=rates[1])
        for _ in range(steps):
            rows = torch.randint(4_096, (256,), generator=self.generator)
            optimizer.zero_grad()
            torch.vmap(self._arm_loss, in_dims=(0, 0, None))(
                self.arms, self.alphas, rows
            ).sum().backward()
            optimizer.step()
            decay.step()

    def _arm_loss(self, params: TensorDict, alpha: Tensor, rows: Tensor) -> Tensor:
        """Positives averaged over 4, negative 0 alone, then alpha."""
        world = self.train_world
        action = torch.cat([world.positives[rows], world.negatives[rows, :1]], 1)
        advantage = torch.cat([torch.full((4,), A_POSITIVE / 4), A_NEGATIVE * alpha.reshape(1)])
        batch = TensorDict(
            {
                "observation": world.state[rows].unsqueeze(1).expand(-1, 5, -1),
                "action": action,
                "advantage": advantage.expand(len(rows), 5),
            },
            batch_size=[len(rows), 5],
        )
        with params.to_module(self.loss.actor_network_params):
            return self.loss(batch)["loss_actor"]

    @torch.no_grad()
    def evaluate(self) -> list[dict[str, float]]:
        """Held-out displacement and reward of the mean action, and log sigma, arm by arm."""
        world, found = self.test_world, []
        for arm in self.arms.unbind(0):
            with arm.to_module(self.loss.actor_network):
                loc, scale = self.loss.actor_network[0].module(world.state)
            offset = loc - world.centre
            displacement = (offset * world.direction).sum(-1) / SHORT
            missed = (offset - SHORT * world.direction).norm(dim=-1)
            found.append(
                {
                    "displacement": displacement.mean().item(),
                    "reward": reward_at(missed).mean().item(),
                    "log_sigma": scale.log().mean().item(),
                }
            )
        return found
