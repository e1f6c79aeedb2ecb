"""Arms of a controlled environment: which negatives repel, how strongly, under which taper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchrl_drpo.functional.tapers import ExponentialTaper, HardCutoff, ReciprocalTaper

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
