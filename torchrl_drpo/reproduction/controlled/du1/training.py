"""Trains arms of D-U1 and measures them on held-out states; the cells of target ``du1``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import normalize
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.envs import du1
from torchrl_drpo.functional.diagnostics import taper_active_fraction
from torchrl_drpo.functional.remoteness import categorical_remoteness
from torchrl_drpo.objectives import RepulsiveLoss
from torchrl_drpo.reproduction.controlled.arms import Arm, TaperByArm
from torchrl_drpo.reproduction.controlled.recording import Record
from torchrl_drpo.reproduction.controlled.training import StackedMLP, train

BATCH, KAPPA = 128, 8.0
LOGGED = 4 + len(du1.LOCAL) + len(du1.FAR)


class OneStateCategorical(Distribution):
    """A categorical over K actions whose n logged actions in a row belong to one state.

    The row's log-probabilities are computed once, not n times.

    Args:
        logits: ``[*B, n, K]``, n times the same.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = logits[..., 0, :].log_softmax(-1)
        super().__init__(logits.shape[:-1], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities of actions ``[*B, n]``, of the same shape."""
        return self.log_probs.gather(-1, value)


class Policies(nn.Module):
    """P policies: MLP 6-64-64 tanh to a unit vector q, logits kappa q.e.

    Args:
        items: embeddings of each policy's world, ``[P, 64, 4]``.
        seeds: of the initial weights, one a policy.
        learn_kappa: whether the concentration is trained, from 8 on (its logarithm is).
    """

    def __init__(self, items: Tensor, seeds: Sequence[int], learn_kappa: bool) -> None:
        super().__init__()
        self.items = items
        self.direction = StackedMLP((6, du1.EMBEDDING), seeds, torch.tanh_)
        start = torch.full((len(seeds), 1, 1), math.log(KAPPA))
        self.log_kappa = nn.Parameter(start, requires_grad=learn_kappa)

    def logits(self, state: Tensor) -> Tensor:
        """``[P, B, 6]`` to ``[P, B, 64]``."""
        q = normalize(self.direction(state), dim=-1)
        return torch.bmm(self.log_kappa.exp() * q, self.items.mT)

    def forward(self, state: Tensor) -> Tensor:
        """States ``[P, B, n, 6]``, the same n times, to logits ``[P, B, n, 64]``."""
        logits = self.logits(state[:, :, 0]).unsqueeze(2)
        return logits.expand(*state.shape[:3], du1.ACTIONS)


class Training:
    """Arms of all seeds, from their initial networks on.

    Args:
        arms: of all seeds alike.
        seeds: of the worlds, the networks and the batches.
        learn_kappa: whether the concentration is trained.
    """

    def __init__(self, arms: Sequence[Arm], seeds: Sequence[int], *, learn_kappa: bool) -> None:
        self.arms, self.seeds = list(arms), list(seeds)
        self.train_world = [du1.make_world(du1.STATES, s) for s in seeds]
        self.test_world = [du1.make_world(du1.STATES, s, states=1) for s in seeds]
        self.state = torch.stack([w.state for w in self.train_world])
        logged = [torch.cat([w.positives, w.negatives], -1) for w in self.train_world]
        self.action = torch.stack(logged)
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]
        items = torch.stack([w.items for w in self.train_world]).repeat(len(arms), 1, 1)
        self.policies = Policies(items, self.seeds * len(arms), learn_kappa)
        actor = ProbabilisticActor(
            TensorDictModule(self.policies, ["observation"], ["logits"]),
            in_keys=["logits"],
            out_keys=["action"],
            distribution_class=OneStateCategorical,
        )
        taper = TaperByArm(arms, len(seeds))
        self.loss = RepulsiveLoss(
            actor, taper=taper, reduction="none", functional=False, check_inputs=False
        )
        # Positives average to one positive, an arm's negatives to one negative, then alpha.
        advantage = torch.zeros(len(arms), LOGGED)
        advantage[:, :4] = 1 / 4
        for row, arm in zip(advantage, arms, strict=True):
            row[[4 + k for k in arm.negatives]] = -arm.alpha / len(arm.negatives)
        self.advantage = advantage.repeat_interleave(len(seeds), 0).unsqueeze(1)

    def batch(self) -> TensorDict:
        """The next 128 states of every seed, for all policies: ``[P, 128, 9]``."""
        rows = torch.stack(
            [torch.randint(du1.STATES, (BATCH,), generator=g) for g in self.generators]
        )
        seed, arms = torch.arange(len(rows)).unsqueeze(-1), len(self.arms)
        shape = (arms * len(rows), BATCH, LOGGED)
        state = self.state[seed, rows].repeat(arms, 1, 1)
        return TensorDict(
            {
                "observation": state.unsqueeze(2).expand(*shape, 6),
                "action": self.action[seed, rows].repeat(arms, 1, 1),
                "advantage": self.advantage.expand(shape),
            },
            batch_size=shape,
        )

    @torch.no_grad()
    def evaluate(self) -> dict[str, Tensor]:
        """Held-out numbers, one a policy."""
        world, arms = self.test_world, len(self.arms)
        state = torch.stack([w.state for w in world]).repeat(arms, 1, 1)
        reward = torch.stack([w.reward for w in world])
        log_pi = self.policies.logits(state).log_softmax(-1)
        pi = log_pi.exp()
        expected = (pi.unflatten(0, (arms, -1)) * reward).sum(-1).mean(-1)
        top = log_pi.argmax(-1).unflatten(0, (arms, -1))
        best = torch.stack([w.best for w in world])
        negatives = torch.stack([w.negatives for w in world]).repeat(arms, 1, 1)
        log_negative = log_pi.gather(-1, negatives)
        distance = categorical_remoteness(log_negative)
        # |e_a - pi|^2 = 1 - 2 pi(a) + |pi|^2
        score = 1 - 2 * log_negative.exp() + pi.square().sum(-1, keepdim=True)
        weight = self.loss.taper(distance)
        repels = (self.advantage[:, 0, 4:] < 0).unsqueeze(1).expand_as(distance)
        far, local = list(du1.FAR), list(du1.LOCAL)
        return {
            "reward": expected.flatten(),
            "share": du1.share_of_the_best(expected, reward).flatten(),
            "top_is_best": (top == best).float().mean(-1).flatten(),
            "entropy": -(pi * log_pi).sum(-1).mean(-1),
            "kappa": self.policies.log_kappa.exp().flatten(),
            "local_remoteness": distance[..., local].mean((1, 2)),
            "far_remoteness": distance[..., far].mean((1, 2)),
            "score_norm": score.clamp_min(0).sqrt()[..., far].mean((1, 2)),
            "largest_score_norm": score.clamp_min(0).sqrt().amax((1, 2)),
            "local_retention": weight[..., local].mean((1, 2)),
            "far_retention": weight[..., far].mean((1, 2)),
            "active_fraction": torch.stack(
                [taper_active_fraction(w, r) for w, r in zip(weight, repels, strict=True)]
            ),
        }


def run_arms(
    *,
    arms: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    steps: int,
    rate: float,
    evaluations: int,
    learn_kappa: bool,
) -> dict[str, Any]:
    """A cell: trains the arms and returns their evaluations, ``metrics[name][when][arm][seed]``."""
    chosen = [Arm(**arm) for arm in arms]
    training = Training(chosen, seeds, learn_kappa=learn_kappa)
    record = Record(len(chosen), len(seeds))
    for step in train(
        training.loss, training.batch, steps=steps, rates=(rate, rate), evaluations=evaluations
    ):
        record.add(step, training.evaluate())
    return {
        "arms": [dict(arm) for arm in arms],
        "steps": record.steps,
        "metrics": record.metrics,
    }
