"""Trains arms of C-U1 and measures them on held-out states; the cells of target ``cu1``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.envs import cu1
from torchrl_drpo.functional.diagnostics import taper_active_fraction
from torchrl_drpo.functional.remoteness import gaussian_remoteness
from torchrl_drpo.objectives import RepulsiveLoss
from torchrl_drpo.policies.gaussian import DiagonalNormal
from torchrl_drpo.reproduction.controlled.arms import Arm, TaperByArm
from torchrl_drpo.reproduction.controlled.recording import Record, Watch
from torchrl_drpo.reproduction.controlled.training import StackedMLP, copy_to_arms, train

BATCH = 256
NEAR, FAR = (7, 0, 1), (3, 4, 5)  # behind a+ and beyond a*: D < 2.1 and D > 8.6 as training starts
_PROBED = 512  # held-out states on which remoteness is looked at


class Policies(nn.Module):
    """P policies: MLP 6-64-64 ReLU with a zero-initialised head, and one log sigma each.

    All actions of a batch's row belong to one state, so the network sees it once.
    """

    def __init__(self, seeds: Sequence[int], learn_sigma: bool) -> None:
        super().__init__()
        self.mean = StackedMLP((6, 2), seeds, torch.relu_, zero_head=True)
        start = torch.full((len(seeds), 1, 1, 1), math.log(cu1.SIGMA))
        self.log_sigma = nn.Parameter(start, requires_grad=learn_sigma)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[P, B, n, 6]``, the same n times, to ``loc`` and ``scale`` ``[P, B, n, 2]``."""
        loc = self.mean(state[:, :, 0]).unsqueeze(2).expand(*state.shape[:3], 2)
        return loc, self.log_sigma.exp().expand_as(loc)


class Training:
    """Arms of one start: 2,000 positive-only steps with sigma at .60, then the arms.

    Args:
        arms: of all seeds alike.
        seeds: world s, held-out world 1,000 + s; network and batches s.
        learn_sigma: whether log sigma is trained, from .60 on; positive-only steps leave it.
        warmup: positive-only steps.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        seeds: Sequence[int],
        *,
        learn_sigma: bool = False,
        warmup: int = 2_000,
    ) -> None:
        self.arms, self.seeds = list(arms), list(seeds)
        self.train_world = _stacked([cu1.make_world(cu1.STATES, s) for s in seeds])
        self.test_world = _stacked([cu1.make_world(cu1.STATES, 1_000 + s) for s in seeds])
        self.actions = torch.cat([self.train_world["positives"], self.train_world["negatives"]], 2)
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]
        self.policies = Policies(seeds, learn_sigma)
        actor = ProbabilisticActor(
            TensorDictModule(self.policies, ["observation"], ["loc", "scale"]),
            in_keys=["loc", "scale"],
            out_keys=["action"],
            distribution_class=DiagonalNormal,
        )
        self.loss = RepulsiveLoss(actor, reduction="none", functional=False, check_inputs=False)
        self._use([Arm("positive-only", 0.0)])
        self.policies.log_sigma.requires_grad_(False)
        for _ in train(self.loss, self.batch, steps=warmup, rates=(1e-3, 1e-3)):
            pass
        self.start = self.evaluate()
        copy_to_arms(self.policies, len(arms))
        self.policies.log_sigma.requires_grad_(learn_sigma)
        self._use(self.arms)

    def _use(self, arms: Sequence[Arm]) -> None:
        """Positives average to one positive, an arm's negatives to one negative, then alpha."""
        rows = torch.zeros(len(arms), 12)
        rows[:, :4] = cu1.A_POSITIVE / 4
        for row, arm in zip(rows, arms, strict=True):
            row[[4 + k for k in arm.negatives]] = arm.alpha * cu1.A_NEGATIVE / len(arm.negatives)
        self.advantage = rows.repeat_interleave(len(self.seeds), 0).unsqueeze(1)
        self.used = 4 + torch.tensor(sorted({k for arm in arms for k in arm.negatives}))
        self.columns = torch.cat([torch.arange(4), self.used])
        self.loss.taper = TaperByArm(arms, len(self.seeds))

    def batch(self) -> TensorDict:
        """The next 256 states of every seed, for all policies: ``[P, 256, n]``."""
        rows = torch.stack(
            [torch.randint(cu1.STATES, (BATCH,), generator=g) for g in self.generators]
        )
        return self._batch(rows)

    def _batch(self, rows: Tensor) -> TensorDict:
        seed = torch.arange(len(rows)).unsqueeze(-1)
        state = self.train_world["state"][seed, rows]
        action = self.actions[seed, rows][:, :, self.columns]
        arms = len(self.advantage) // len(rows)
        shape = (len(self.advantage), rows.shape[1], len(self.columns))
        return TensorDict(
            {
                "observation": state.repeat(arms, 1, 1).unsqueeze(2).expand(*shape, 6),
                "action": action.repeat(arms, 1, 1, 1),
                "advantage": self.advantage[:, :, self.columns].expand(shape),
            },
            batch_size=shape,
        )

    @torch.no_grad()
    def evaluate(self) -> dict[str, Tensor]:
        """Held-out numbers, one a policy: place, reward, log sigma, remoteness, retention."""
        world, policies = self.test_world, self.policies
        arms = len(self.advantage) // len(self.seeds)
        loc = policies.mean(world["state"].repeat(arms, 1, 1))
        offset = loc.unflatten(0, (arms, -1)) - world["centre"]
        u = world["direction"]
        normal = torch.stack([-u[..., 1], u[..., 0]], -1)
        found = {
            "displacement": (offset * u).sum(-1).mean(-1) / cu1.SHORT,
            "across": (offset * normal).sum(-1).mean(-1) / cu1.SHORT,
            "reward": cu1.reward_at((offset - cu1.SHORT * u).norm(dim=-1)).mean(-1),
        }
        found = {name: values.flatten() for name, values in found.items()}
        log_sigma = policies.log_sigma.detach().flatten()
        negatives = world["negatives"][:, :_PROBED].repeat(arms, 1, 1, 1)
        seen = loc[:, :_PROBED].unsqueeze(2).expand_as(negatives)
        sigma = policies.log_sigma.exp()
        distance = gaussian_remoteness(negatives, seen, sigma)
        weight = self.loss.taper(distance)
        repels = (self.advantage[:, 0, 4:] < 0).unsqueeze(1).expand_as(distance)
        count = repels.sum((1, 2)).clamp_min(1)
        return found | {
            "log_sigma": log_sigma,
            "remoteness": torch.where(repels, distance, 0.0).sum((1, 2)) / count,
            "near_retention": weight[..., list(NEAR)].mean((1, 2)),
            "far_retention": weight[..., list(FAR)].mean((1, 2)),
            "active_fraction": torch.stack(
                [taper_active_fraction(w, r) for w, r in zip(weight, repels, strict=True)]
            ),
        }

    def sigma_force(self) -> Tensor:
        """How the loss drives log sigma now, on 2,048 states: minus its gradient, ``[P]``."""
        rows = torch.arange(2_048).expand(len(self.seeds), -1)
        loss = self.loss(self._batch(rows))["loss_actor"]
        (gradient,) = torch.autograd.grad(loss.sum() / loss.shape[1], self.policies.log_sigma)
        return -gradient.flatten()


def run_sign_rule(
    *, arms: Sequence[Mapping[str, Any]], seeds: Sequence[int], warmup: int
) -> dict[str, Any]:
    """A cell: what each arm does to log sigma at the common start, where sigma is .60.

    Returns:
        ``force[arm][seed]``, the descent direction of the loss in log sigma; and
        ``remoteness[arm][seed]``, the mean D of the arm's negatives.
    """
    chosen = [Arm(**arm) for arm in arms]
    training = Training(chosen, seeds, learn_sigma=True, warmup=warmup)
    shape = (len(chosen), len(seeds))
    found = training.evaluate()
    return {
        "arms": [dict(arm) for arm in arms],
        "force": training.sigma_force().reshape(shape).tolist(),
        "remoteness": found["remoteness"].reshape(shape).tolist(),
    }


def run_arms(
    *,
    arms: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    warmup: int,
    steps: int,
    rates: Sequence[float],
    evaluations: int,
    learn_sigma: bool,
) -> dict[str, Any]:
    """A cell: trains the arms and returns their evaluations and events.

    ``metrics[name][evaluation][arm][seed]``; ``events[arm][seed]`` maps a kind to its step;
    ``start[name][seed]`` is the common start.
    """
    chosen = [Arm(**arm) for arm in arms]
    training = Training(chosen, seeds, learn_sigma=learn_sigma, warmup=warmup)
    start = training.start
    watch = Watch(start["reward"].tolist() * len(chosen))
    record = Record(len(chosen), len(seeds))
    first, last = rates
    for step in train(
        training.loss, training.batch, steps=steps, rates=(first, last), evaluations=evaluations
    ):
        metrics = training.evaluate()
        record.add(step, metrics)
        watch.update(step, reward=metrics["reward"], log_scale=metrics["log_sigma"])
    events = watch.happened()
    return {
        "arms": [dict(arm) for arm in arms],
        "steps": record.steps,
        "metrics": record.metrics,
        "start": {name: values.tolist() for name, values in start.items()},
        "events": [events[i : i + len(seeds)] for i in range(0, len(events), len(seeds))],
    }


def _stacked(worlds: Sequence[cu1.World]) -> dict[str, Tensor]:
    names = ("state", "centre", "direction", "positives", "negatives")
    return {name: torch.stack([getattr(world, name) for world in worlds]) for name in names}
