r"""What negatives would do to policies, measured beside the training and not applied.

With :math:`A = (R - \bar R)/\mathrm{std}(R)` over a fixed probe of the log, the gradients of
:math:`-E[A_+ \log\pi]` and of :math:`E[A_- \log\pi]` are taken one by one, in the mean's
parameters and in log sigma. Source: arXiv 2602.10430, section 3 ("phantom gradient").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from torchrl_drpo.envs.streams import stream
from torchrl_drpo.reproduction.simulator.ensemble import PolicyEnsemble, Scores
from torchrl_drpo.reproduction.simulator.rules import Rule
from torchrl_drpo.reproduction.simulator.runs import build_rule, build_setup
from torchrl_drpo.reproduction.simulator.training import Schedule, train
from torchrl_drpo.reproduction.simulator.worlds import Worlds


class Watched(Rule):
    """A rule that is watched: it weighs as ever, and is looked at every so many steps.

    Args:
        inner: the rule that trains.
        every: steps from one look to the next; the first is before the first step.
        probe: rows of each seed's log that are looked at.

    Attributes:
        steps: when it was looked at.
        series: by name, a list of ``[S]`` for each look.
    """

    def __init__(self, inner: Rule, *, every: int, probe: int = 1_000) -> None:
        super().__init__(inner.quality)
        self.inner, self.every, self.probe = inner, every, probe
        self.steps: list[int] = []
        self.series: dict[str, list[Tensor]] = {}
        self._before: tuple[Tensor, Tensor] | None = None

    def prepare(self, worlds: Worlds, policies: PolicyEnsemble, steps: int) -> None:
        """Fixes the probe, and a generator of its own."""
        self.inner.prepare(worlds, policies, steps)
        self.policies = policies
        count = min(self.probe, worlds.log.shape[1])
        row = torch.arange(count, device=worlds.device).expand(len(worlds.seeds), -1)
        self.state, self.action = worlds.read(row)
        quality = worlds.log["reward"][:, :count]
        centred = quality - quality.mean(-1, keepdim=True)
        self.advantage = centred / (quality.std(-1, keepdim=True) + 1e-8) / count
        self.generators = [stream(seed, "probe") for seed in worlds.seeds]

    def weigh(self, batch: TensorDict, step: int) -> Tensor:
        """The inner rule's; looks first."""
        if step % self.every == 0:
            self.look(step)
        return self.inner.weigh(batch, step)

    def reweigh(self, weight: Tensor, scores: Scores, batch: TensorDict, step: int) -> Tensor:
        """The inner rule's."""
        return self.inner.reweigh(weight, scores, batch, step)

    def serve(self, mean: Tensor, users: Tensor) -> Tensor:
        """The inner rule's."""
        return self.inner.serve(mean, users)

    @torch.no_grad()
    def look(self, step: int) -> None:
        """Writes down gradients, distances and the policies' spread."""
        policies, advantage = self.policies, self.advantage
        found: dict[str, Tensor] = {}
        for side, weight in (
            ("positive", advantage.clamp_min(0.0)),
            ("negative", advantage.clamp_max(0.0)),
        ):
            policies.backward(policies.score(self.state, self.action), weight)
            found[f"{side}_mean"], found[f"{side}_sigma"] = self._gradient_norms()
        scores = policies.score(self.state, self.action)
        squares = scores.z.square()
        mass = advantage.clamp_max(0.0).neg().unsqueeze(-1)
        mass = mass / mass.sum(1, keepdim=True)
        remote = (mass * squares).sum(1)  # [S, d], weighted mean z^2 of the negatives
        precision = scores.sigma.pow(-2)  # [S, 1, d]
        trace = precision.sum((-1, -2))
        drawn = [torch.randn(squares.shape[1:], generator=g) for g in self.generators]
        noise = torch.stack(drawn).to(squares.device)
        found["remoteness"] = remote.mean(-1)
        found["shrinking"] = (remote > 1).float().mean(-1)
        found["off_policy"] = (mass * squares * precision).sum((1, 2)) / trace
        found["on_policy"] = (noise.square() * precision).sum(-1).mean(-1) / trace
        found["mean_norm"] = policies.mean(self.state).square().mean((-1, -2)).sqrt()
        found["log_sigma"] = scores.sigma.log().mean((-1, -2))
        # The sign rule, as a prediction: where the rows' z^2 - 1 push log sigma, it goes.
        push = (advantage.unsqueeze(-1) * (squares - 1)).sum(1)
        log_sigma = scores.sigma.log().squeeze(1)
        if self._before is not None:
            pushed, was = self._before
            agrees = (pushed * (log_sigma - was) > 0).float()
            found["agreement"] = agrees.mean(-1)
        else:
            found["agreement"] = torch.full_like(trace, torch.nan)
        self._before = push, log_sigma
        self.steps.append(step)
        for name, value in found.items():
            self.series.setdefault(name, []).append(value)

    def _gradient_norms(self) -> tuple[Tensor, Tensor]:
        gradients = {name: p.grad for name, p in self.policies.parameters.items()}
        sigma = gradients.pop("log_std").flatten(1).norm(dim=-1)
        squares = [gradient.flatten(1).square().sum(-1) for gradient in gradients.values()]
        return torch.stack(squares).sum(0).sqrt(), sigma


def run_watched(
    *,
    method: Mapping[str, Any],
    setup: Mapping[str, Any],
    seeds: Sequence[int],
    schedule: Mapping[str, Any],
    every: int,
    device: str = "cpu",
) -> dict[str, Any]:
    """A cell: trains a method on every seed and returns what was seen.

    Returns:
        ``steps``; ``series``: by name, ``[look][seed]``; ``metrics`` as any run has them.
    """
    worlds = Worlds(build_setup(setup), seeds, device)
    rule = Watched(build_rule(method), every=every)
    run = train(worlds, rule, Schedule(**schedule))
    rule.look(schedule["steps"])
    series = {
        name: [[_number(v) for v in look.tolist()] for look in looks]
        for name, looks in rule.series.items()
    }
    return {"steps": rule.steps, "series": series, "metrics": run.to_json()["metrics"]}


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
