"""The methods of ``kuairand``: each a path of losses along its own strength parameter.

The quality of this log is a percentile, uniform in [0, 1] up to ties, so some rules coincide and
are trained once: CRR without a critic (binary) is the top half, DRPO with linear weights and a
fixed kappa is positive-only learning with baseline 1 - kappa, AsymRE with ``shift=0`` is a global
scale. TOPR, BPPO and ECPO weigh by ratios to a logged propensity, which this log does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs.transforms import Transform
from torchrl.modules import ProbabilisticActor
from torchrl.objectives.common import LossModule

from torchrl_drpo.functional.tapers import ExponentialTaper
from torchrl_drpo.objectives import (
    AsymRELoss,
    AWRLoss,
    BehaviorCloningLoss,
    DRPOLoss,
    GBPOLoss,
    RepulsiveLoss,
)
from torchrl_drpo.policies.catalogue import catalogue_policy

#: Rows at or above the first, at or below the second are the best and the worst quarter.
BEST, WORST = 0.75, 0.25

Rows = TensorDictBase


@dataclass(frozen=True)
class Method:
    """A family of losses along one parameter.

    Attributes:
        name: what it is called in tables.
        strength: what its parameter is called; empty for a method without one.
        values: of the parameter, in order.
        loss: from an actor and the parameter to the loss.
        mark: what to add to every batch, given the parameter; ``None`` for nothing.
    """

    name: str
    strength: str
    values: tuple[float, ...]
    loss: Callable[[ProbabilisticActor, float], LossModule]
    mark: Callable[[Rows, float], Rows] | None = None


class Mark(Transform):
    """Adds a method's own entries to every batch of a replay buffer."""

    def __init__(self, mark: Callable[[Rows, float], Rows], value: float) -> None:
        super().__init__()
        self._mark, self._value = mark, value

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The batch, marked."""
        return self._mark(tensordict, self._value)


def _quality(rows: Rows) -> Tensor:
    return rows["next", "reward"].squeeze(-1)


def _hated(rows: Rows, _: float) -> Rows:
    return rows.set("dislike", rows["is_hate"] > 0)


def _worst(rows: Rows, _: float) -> Rows:
    return rows.set("dislike", _quality(rows) <= WORST)


def _signs(rows: Rows, factor: float) -> Rows:
    quality = _quality(rows)
    return rows.set("advantage", (quality >= BEST).float() - factor * (quality <= WORST).float())


def _scaled_advantage(rows: Rows, factor: float) -> Rows:
    advantage = _quality(rows) - _quality(rows).mean()
    return rows.set("advantage", advantage.clamp(min=0) - factor * (-advantage).clamp(min=0))


def taper(actor: ProbabilisticActor, strength: float = 1.0) -> ExponentialTaper:
    """The taper of all methods: repulsion fades from half the surprisal of a uniform choice on."""
    num_items = catalogue_policy(actor).num_items
    return ExponentialTaper(strength=strength, threshold=0.5 * math.log(num_items))


def _one_rec(actor: ProbabilisticActor, scale: float) -> LossModule:
    return DRPOLoss(
        actor,
        kappa=0.25,
        weighting="uniform",
        negative_key="dislike",
        negative_taper=taper(actor),
        negative_scale=scale,
    )


METHODS: tuple[Method, ...] = (
    Method("BC", "", (0.0,), lambda actor, _: BehaviorCloningLoss(actor)),
    Method(
        "top kappa, uniform",
        "kappa",
        (0.5, 0.25, 0.1),
        lambda actor, kappa: DRPOLoss(actor, kappa=kappa, weighting="uniform"),
    ),
    Method(
        "positive-only",
        "baseline",
        (0.5, 0.75),
        lambda actor, baseline: RepulsiveLoss(actor, negative_scale=0.0, baseline=baseline),
    ),
    Method("DRPO, adaptive", "", (0.0,), lambda actor, _: DRPOLoss(actor)),
    Method(
        "DRPO, exponential",
        "temperature",
        (0.1,),
        lambda actor, t: DRPOLoss(actor, weighting="exponential", temperature=t),
    ),
    Method("AWR", "temperature", (0.3, 0.1), lambda actor, t: AWRLoss(actor, temperature=t)),
    Method("AsymRE", "shift", (-0.4, -0.1), lambda actor, shift: AsymRELoss(actor, shift=shift)),
    Method(
        "global scale",
        "scale",
        (0.01, 0.03, 0.1, 1.0),
        lambda actor, scale: RepulsiveLoss(actor, negative_scale=scale),
    ),
    Method(
        "taper",
        "strength",
        (4.0, 1.0, 0.5, 0.25),
        lambda actor, strength: RepulsiveLoss(actor, taper=taper(actor, strength)),
    ),
    Method(
        "GBPO",
        "factor",
        (1.0,),
        lambda actor, _: GBPOLoss(actor, behavior="current"),
        _scaled_advantage,
    ),
    Method("top quarter + hated", "scale", (1.0,), _one_rec, _hated),
    Method("top quarter + worst, taper", "scale", (0.3, 1.0), _one_rec, _worst),
    Method(
        "top quarter + worst, GBPO",
        "factor",
        (1.0,),
        lambda actor, _: GBPOLoss(actor, behavior="current"),
        _signs,
    ),
    Method(
        "DRPO + taper",
        "scale",
        (0.3,),
        lambda actor, scale: DRPOLoss(
            actor, kappa=0.5, negative_taper=taper(actor), negative_scale=scale
        ),
    ),
)


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        KeyError: for an unknown one.

    Example:
        >>> method("taper").strength
        'strength'
    """
    return {known.name: known for known in METHODS}[name]


def label(name: str, strength: float) -> str:
    """A method at a strength, for a table.

    Example:
        >>> label("taper", 1.0), label("BC", 0.0)
        ('taper, strength 1', 'BC')
    """
    parameter = method(name).strength
    return f"{name}, {parameter} {strength:g}" if parameter else name
