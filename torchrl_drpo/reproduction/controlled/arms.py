"""Arms of a controlled environment: policies of many arms and seeds, trained at once.

An arm says which negatives repel, how strongly (alpha) and under which taper. P = arms x seeds
policies, arm by arm, live in one stack of parameters; the loss is the package's own
``RepulsiveLoss`` with ``reduction="none"`` on batches ``[P, B, n]`` of B states with n logged
actions each, so a policy's gradient is that of its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from torchrl_drpo.functional.tapers import ExponentialTaper, HardCutoff, ReciprocalTaper
from torchrl_drpo.objectives import CollapseEvents, RepulsiveLoss

Taper = Callable[[Tensor], Tensor]
_TAPERS = {"exponential": ExponentialTaper, "reciprocal": ReciprocalTaper, "cutoff": HardCutoff}


@dataclass(frozen=True)
class Arm:
    """One way to use the negatives; JSON data through :meth:`settings` and ``Arm(**settings)``.

    Attributes:
        name: for tables and figures.
        alpha: global scale of the negatives' mean; 0 is positive-only.
        negatives: which of the environment's negatives are in use.
        taper: ``{"kind": "exponential" | "reciprocal" | "cutoff", ...}`` with the fields of that
            taper, ``None`` for 1.
    """

    name: str
    alpha: float
    negatives: Sequence[int] = (0,)
    taper: Mapping[str, Any] | None = None

    def settings(self) -> dict[str, Any]:
        """The arm as JSON data."""
        taper = None if self.taper is None else dict(self.taper)
        return {
            "name": self.name,
            "alpha": self.alpha,
            "negatives": list(self.negatives),
            "taper": taper,
        }


def make_taper(settings: Mapping[str, Any] | None) -> Taper:
    """The package's taper of an arm.

    >>> make_taper({"kind": "cutoff", "threshold": 2.0})
    HardCutoff(threshold=2.0)
    """
    if settings is None:
        return torch.ones_like
    numbers = {key: value for key, value in settings.items() if key != "kind"}
    return _TAPERS[settings["kind"]](**numbers)


class TaperByArm:
    """Tapers of an arm each, called with the remoteness ``[P, ...]`` of all policies at once.

    Args:
        arms: in the order of the stack.
        seeds: policies of each arm.
    """

    def __init__(self, arms: Sequence[Arm], seeds: int) -> None:
        self.seeds = seeds
        # Arms of one taper in one call; those without need none.
        members: dict[str, list[int]] = {}
        for index, arm in enumerate(arms):
            if arm.taper is not None:
                members.setdefault(repr(sorted(arm.taper.items())), []).append(index)
        self.groups = [
            (make_taper(arms[indices[0]].taper), torch.tensor(indices))
            for indices in members.values()
        ]

    def __call__(self, remoteness: Tensor) -> Tensor:
        """The weight in [0, 1] of each remoteness."""
        by_arm = remoteness.unflatten(0, (-1, self.seeds))
        weight = torch.ones_like(by_arm)
        for taper, indices in self.groups:
            weight[indices] = taper(by_arm[indices])
        return weight.flatten(0, 1)


class StackedMLP(nn.Module):
    """Two hidden layers of 64, one network for each seed; stacked ``[P, in, out]``.

    Args:
        sizes: of the input and the output.
        seeds: of the initial weights, ``nn.Linear``'s.
        activation: between the layers, in place.
        zero_head: whether the last layer starts at zero.
    """

    def __init__(
        self,
        sizes: tuple[int, int],
        seeds: Sequence[int],
        activation: Callable[[Tensor], Tensor],
        *,
        zero_head: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        networks = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                layers = [nn.Linear(sizes[0], 64), nn.Linear(64, 64), nn.Linear(64, sizes[1])]
            networks.append(layers)
        if zero_head:
            for layers in networks:
                nn.init.zeros_(layers[-1].weight)
                nn.init.zeros_(layers[-1].bias)
        stacked = list(zip(*networks, strict=True))
        self.weights = nn.ParameterList(
            torch.stack([layer.weight.detach().T for layer in layers]) for layers in stacked
        )
        self.biases = nn.ParameterList(
            torch.stack([layer.bias.detach()[None] for layer in layers]) for layers in stacked
        )

    def forward(self, state: Tensor) -> Tensor:
        """``[P, B, in]`` to ``[P, B, out]``."""
        *hidden, last = zip(self.biases, self.weights, strict=True)
        for bias, weight in hidden:
            state = self.activation(torch.baddbmm(bias, state, weight))
        return torch.baddbmm(last[0], state, last[1])


def copy_to_arms(module: nn.Module, arms: int) -> None:
    """Repeats the parameters of S policies, ``[S, ...]``, for each of the arms, in place."""
    for parameter in module.parameters():
        parameter.data = parameter.data.repeat(arms, *[1] * (parameter.ndim - 1)).contiguous()
        parameter.grad = None


def train(
    loss: RepulsiveLoss,
    batch: Callable[[], TensorDict],
    *,
    steps: int,
    rates: tuple[float, float],
    evaluations: int = 0,
) -> Iterator[int]:
    """Adam on what ``batch`` gives, the rate falling from the first to the second as a cosine.

    Args:
        loss: with ``reduction="none"``.
        batch: gives ``[P, B, n]``.
        steps: gradient steps.
        rates: first and last learning rate.
        evaluations: how often to stop and yield, evenly and at last at the end.

    Yields:
        The number of steps taken.
    """
    parameters = [p for p in loss.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=rates[0], fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=rates[1])
    every = max(1, steps // evaluations) if evaluations else steps + 1
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        rows = loss(batch())["loss_actor"]
        (rows.sum() / rows.shape[1]).backward()  # a mean over states, a sum over policies
        optimizer.step()
        decay.step()
        if step % every == 0:
            yield step


class Watch:
    """Three kinds of events for each of P policies, apart, as JSON data.

    Args:
        references: reward of positive-only training, one a policy.
        **options: of :class:`~torchrl_drpo.objectives.CollapseEvents`.
    """

    def __init__(self, references: Sequence[float], **options: Any) -> None:
        self._events = [CollapseEvents(reference, **options) for reference in references]

    def update(self, step: int, **signals: Tensor) -> None:
        """Takes note of an evaluation; every signal has one entry a policy."""
        for index, events in enumerate(self._events):
            events.update(step, **{name: values[index] for name, values in signals.items()})

    def happened(self) -> list[dict[str, int]]:
        """For each policy the step at which each kind was first certain."""
        return [{e.kind: e.step for e in events.happened.values()} for events in self._events]


class Record:
    """Evaluations of arms x seeds policies, as JSON data."""

    def __init__(self, arms: int, seeds: int) -> None:
        self._shape = (arms, seeds)
        self.steps: list[int] = []
        self.metrics: dict[str, list[list[list[float | None]]]] = {}

    def add(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        """Appends an evaluation; every metric has one entry a policy."""
        self.steps.append(step)
        for name, values in metrics.items():
            rows = values.double().reshape(self._shape).tolist()
            self.metrics.setdefault(name, []).append([[_number(v) for v in row] for row in rows])


def _number(value: float) -> float | None:
    """Seven digits; ``None`` for what JSON has no number for."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
