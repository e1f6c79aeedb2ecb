"""Measured arms of C-U1 beside their closed forms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torchrl_drpo.envs import cu1
from torchrl_drpo.reproduction.controlled.arms import Arm, make_taper
from torchrl_drpo.reproduction.controlled.results import Runs

#: Rewards below this are compared in units of it: 2% of a reward of 1e-4 says nothing.
SMALLEST_REWARD = 0.1


@dataclass(frozen=True)
class Comparison:
    """An arm with a closed form.

    Attributes:
        place: closed form, (along, across), in units of .70.
        found: the same as measured, seed by seed.
        reward: closed form.
        found_reward: as measured, seed by seed.
    """

    place: tuple[float, float]
    found: list[tuple[float, float]]
    reward: float
    found_reward: list[float]

    def deviations(self) -> list[float]:
        """The larger of the deviations of place and reward, relative, seed by seed.

        The place is compared with its closed form as vectors, relative to the length of that one
        or to one unit (the way to the best action) where it is shorter.
        """
        length = max(1.0, math.hypot(*self.place))
        scale = max(SMALLEST_REWARD, self.reward)
        return [
            max(math.dist(place, self.place) / length, abs(reward - self.reward) / scale)
            for place, reward in zip(self.found, self.found_reward, strict=True)
        ]


def place_of(arm: Arm) -> tuple[float, float]:
    """Closed form of an arm's resting place under the fixed sigma; infinite where there is none.

    >>> place_of(Arm("runaway", 2.0))
    (inf, inf)
    """
    if arm.taper is None:
        return cu1.resting_place(arm.alpha, arm.negatives)
    taper = make_taper(arm.taper)
    return cu1.tapered_displacement(arm.alpha, taper, negatives=arm.negatives), 0.0


def compare(runs: Runs) -> Mapping[str, Comparison]:
    """All arms of a cell that have a closed form."""
    found = {}
    for name, arm in runs.arms.items():
        place = place_of(arm)
        if all(map(math.isfinite, place)):
            along, across = runs.late("displacement", name), runs.late("across", name)
            found[name] = Comparison(
                place,
                list(zip(along, across, strict=True)),
                cu1.reward_of(*place),
                runs.late("reward", name),
            )
    return found


def largest_deviation(compared: Mapping[str, Comparison]) -> tuple[str, float]:
    """The arm with the largest deviation of a single seed, and that deviation."""
    worst = {name: max(c.deviations()) for name, c in compared.items()}
    name = max(worst, key=lambda n: math.inf if math.isnan(worst[n]) else worst[n])
    return name, worst[name]
