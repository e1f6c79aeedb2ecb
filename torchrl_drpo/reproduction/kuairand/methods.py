"""The methods of ``kuairand``: losses on logged rewards, on a critic, and knobs at serving.

The quality of this log is a percentile, uniform in [0, 1] up to ties, so some rules coincide and
are trained once: CRR without a critic (binary) is the top half, DRPO with linear weights and a
fixed kappa is positive-only learning with baseline 1 - kappa, AsymRE with ``shift=0`` is a global
scale. TOPR, BPPO and ECPO weigh by ratios to a logged propensity, which this log does not have.
Names in lower case are those of ``drpo train --objectives``, made as it makes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

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
from torchrl_drpo.pipeline.objectives.make import make_objective
from torchrl_drpo.policies.catalogue import catalogue_policy
from torchrl_drpo.policies.conditioned import ConditionOnQuality, make_conditioned_actor
from torchrl_drpo.reproduction.kuairand.paths import Key, Method, Path, Rows, Served, tilt

#: Rows at or above the first, at or below the second are the best and the worst quarter.
BEST, WORST = 0.75, 0.25
#: Where levels of quality begin, and how many there are.
EDGES = (WORST, 0.5, BEST)
LEVELS = len(EDGES) + 1


class Mark(Transform):
    """Adds a method's own entries to every batch of a replay buffer."""

    def __init__(self, mark: Callable[[Rows, float], Rows], value: float, seed: int = 0) -> None:
        super().__init__()
        self._mark, self._value = mark, value

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The batch, marked."""
        return self._mark(tensordict, self._value)


def _quality(rows: Rows) -> Tensor:
    return rows["next", "reward"].squeeze(-1)


def _hated(rows: Rows, _: float) -> Rows:
    return rows.set("dislike", rows["is_hate"] > 0)


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


def _top_and_hated(actor: ProbabilisticActor, scale: float, _: Any) -> LossModule:
    return DRPOLoss(
        actor,
        kappa=0.25,
        weighting="uniform",
        negative_key="dislike",
        negative_taper=taper(actor),
        negative_scale=scale,
    )


def _cloning(actor: ProbabilisticActor, _: float, __: Any) -> LossModule:
    return BehaviorCloningLoss(actor)


def _named(objective: str, option: str = "", **path: Any) -> Method:
    """An objective of the command that follows the critic, along one of its options."""

    def loss(actor: ProbabilisticActor, value: float, critic: Any) -> LossModule:
        return make_objective(objective, actor, critic, {option: value} if option else {})

    return Method(name=objective, loss=loss, follows=True, **path)


METHODS: tuple[Method, ...] = (
    Method("BC", "", (0.0,), _cloning, served=(tilt("BC-tilt"),)),
    Method(
        "positive-only",
        "baseline",
        (0.5, 0.75),
        lambda actor, baseline, _: RepulsiveLoss(actor, negative_scale=0.0, baseline=baseline),
        served=(tilt("positive-only-tilt"),),
    ),
    Method(
        "conditioned on quality",
        "",
        (0.0,),
        _cloning,
        transform=lambda _, seed: ConditionOnQuality(EDGES, seed=seed),
        context=(LEVELS,),
        served=(
            Served(
                "conditioned",
                "guidance",
                (0.0, 0.5, 1.0, 2.0, 3.0),
                lambda actor, guidance, _: make_conditioned_actor(actor, guidance),
                critic=False,
            ),
            tilt("conditioned-tilt", partial(make_conditioned_actor, guidance=0.0)),
            tilt(
                "guided conditioned-tilt",
                partial(make_conditioned_actor, guidance=1.0),
                taus=(0.2, 0.1),
            ),
        ),
        plain=False,
    ),
    Method(
        "DRPO, adaptive",
        "",
        (0.0,),
        lambda actor, *_: DRPOLoss(actor),
        served=(tilt("DRPO-tilt"),),
    ),
    _named("drpo-q", "target_ratio", strength="target ratio", values=(0.5, 0.25)),
    _named("positive-only-q", strength="", values=(0.0,)),
    _named("taper-q", "taper_strength", strength="strength", values=(4.0, 1.0)),
    _named("positive-only-a", strength="", values=(0.0,)),
    _named("taper-a", "taper_strength", strength="strength", values=(1.0,)),
    _named("drpo-a", strength="", values=(0.0,)),
    _named("guided", "guidance", strength="guidance", values=(1.0, 3.0)),
    Method(
        "taper",
        "strength",
        (4.0, 1.0, 0.5),
        lambda actor, strength, _: RepulsiveLoss(actor, taper=taper(actor, strength)),
    ),
    Method(
        "top kappa, uniform",
        "kappa",
        (0.25,),
        lambda actor, kappa, _: DRPOLoss(actor, kappa=kappa, weighting="uniform"),
    ),
    Method("AWR", "temperature", (0.3,), lambda actor, t, _: AWRLoss(actor, temperature=t)),
    Method(
        "DRPO + taper",
        "scale",
        (0.3,),
        lambda actor, scale, _: DRPOLoss(
            actor, kappa=0.5, negative_taper=taper(actor), negative_scale=scale
        ),
    ),
    Method(
        "DRPO, exponential",
        "temperature",
        (0.1,),
        lambda actor, t, _: DRPOLoss(actor, weighting="exponential", temperature=t),
    ),
    Method("AsymRE", "shift", (-0.1,), lambda actor, shift, _: AsymRELoss(actor, shift=shift)),
    Method(
        "global scale",
        "scale",
        (1.0,),
        lambda actor, scale, _: RepulsiveLoss(actor, negative_scale=scale),
    ),
    Method(
        "GBPO",
        "factor",
        (1.0,),
        lambda actor, *_: GBPOLoss(actor, behavior="current"),
        partial(Mark, _scaled_advantage),
    ),
    Method("top quarter + hated", "scale", (1.0,), _top_and_hated, partial(Mark, _hated)),
    Method(
        "top quarter + worst, GBPO",
        "factor",
        (1.0,),
        lambda actor, *_: GBPOLoss(actor, behavior="current"),
        partial(Mark, _signs),
    ),
)

#: Every path by its name, in the order of the tables.
PATHS: dict[str, Path] = {
    path.name: path for method in METHODS for path in (method, *method.served)
    if path is not method or method.plain
}  # fmt: skip
#: Those that are tilted by the critic or conditioned on quality, at serving.
AT_SERVING: tuple[str, ...] = tuple(path.name for method in METHODS for path in method.served)


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        KeyError: for an unknown one.

    Example:
        >>> method("taper").strength
        'strength'
    """
    return {known.name: known for known in METHODS}[name]


def label(key: Key) -> str:
    """A policy of a path, for a table.

    Example:
        >>> label(("taper", 1.0)), label(("BC", 0.0)), label(("BC-tilt", 0.1))
        ('taper, strength 1', 'BC', 'BC-tilt, tau 0.1')
    """
    name, value = key
    parameter = PATHS[name].strength
    return f"{name}, {parameter} {value:g}" if parameter else name
