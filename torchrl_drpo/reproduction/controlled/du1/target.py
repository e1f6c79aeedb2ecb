"""``drpo reproduce du1``: near and far negatives of a categorical policy, under control or not."""

from __future__ import annotations

import math

from torchrl_drpo.envs.du1 import ACTIONS, FAR, LOCAL
from torchrl_drpo.reproduction.controlled.arms import Arm
from torchrl_drpo.reproduction.controlled.du1.section import section
from torchrl_drpo.reproduction.controlled.du1.training import run_arms
from torchrl_drpo.reproduction.target import Cell, Options, Target

ALPHAS = (0.0, 0.1, 0.25, 0.4, 0.6, 0.8, 1.0, 1.5)
TAPERS = {
    # half of a negative is left at a surprisal of 4 nats, about that of a uniform choice
    "exponential": {
        "kind": "exponential",
        "strength": math.log(2.0),
        "scale": 2.0,
        "threshold": 2.0,
    },
    # min(pi / mu, 1) of a log that chose uniformly: the test holds it to TOPRLoss
    "TOPR": {"kind": "exponential", "strength": 1.0, "scale": 1.0, "threshold": math.log(ACTIONS)},
}
BOTH = LOCAL + FAR


def local_arms() -> list[Arm]:
    """The local negative alone, from positive-only to far beyond rho = 1."""
    return [Arm(f"local, alpha {alpha:g}", alpha, LOCAL) for alpha in ALPHAS]


def control_arms() -> list[Arm]:
    """Far negatives, both kinds at a ruinous strength, and what holds them."""
    arms = [
        Arm("far, alpha 1", 1.0, FAR),
        Arm("both signed, alpha 4", 4.0, BOTH),
        Arm("both, global scale 0.1, alpha 4", 0.4, BOTH),
    ]
    arms += [Arm(f"both, {name}, alpha 4", 4.0, BOTH, taper) for name, taper in TAPERS.items()]
    arms += [Arm(f"local, {name}, alpha 1.5", 1.5, LOCAL, taper) for name, taper in TAPERS.items()]
    return arms


def cells(options: Options) -> list[Cell]:
    """Two groups of arms, kappa fixed and learned; half of ``options.seeds`` worlds."""
    seeds = list(range(2 if options.quick else max(2, options.seeds // 2)))
    steps, evaluations = (20, 5) if options.quick else (8_000, 40)
    found = []
    for mode in ("fixed", "learned"):
        for name, arms in (("local", local_arms()), ("controls", control_arms())):
            settings = {
                "arms": [arm.settings() for arm in arms],
                "seeds": seeds,
                "steps": steps,
                "rate": 1e-3,
                "evaluations": evaluations,
                "learn_kappa": mode == "learned",
            }
            found.append(Cell("du1", f"{name}-{mode}", run_arms, settings))
    return found


TARGET = Target("du1", "D-U1: categorical actions, near and far negatives", cells, section)
