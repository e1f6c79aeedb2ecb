"""When a run stops early: what its looks at validation rows have found, and which step was best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Look:
    """What one look found.

    Attributes:
        step: after which.
        value: of the metric.
    """

    step: int
    value: float


class NoBestStepError(ValueError):
    """No look at the validation rows gave a number."""


class EarlyStopping:
    """Keeps the step, and the weights, of the largest value of a metric.

    A state of a run that is killed (``state_dict``) holds all of it, so that it goes on exactly.

    Args:
        metric: its name among what looks report.
        patience: looks without a new best after which :attr:`done` is true.

    Attributes:
        looks: all of them, in order.
        best: the best of them, the first among equals; ``None`` before any gave a number.

    Examples:
        >>> weights = {"w": torch.zeros(1)}
        >>> stopping = EarlyStopping("lift", patience=2)
        >>> for step, lift in ((10, 1.0), (20, 1.5), (30, 1.2), (40, 1.4)):
        ...     stopping.look(step, {"lift": lift}, weights)
        ...     weights["w"] += 1
        >>> stopping.done, stopping.best
        (True, Look(step=20, value=1.5))
        >>> stopping.restore(weights)
        >>> weights["w"]
        tensor([1.])
    """

    def __init__(self, metric: str, patience: int) -> None:
        self.metric, self.patience = metric, patience
        self.looks: list[Look] = []
        self.best: Look | None = None
        self._weights: dict[str, Tensor] = {}

    def look(self, step: int, values: Mapping[str, float], weights: Mapping[str, Tensor]) -> None:
        """Takes in what a look at step ``step`` found of a policy with these ``weights``.

        What is not finite is never best: an infinite ratio says only that nothing stood below it.
        """
        found = Look(step, values[self.metric])
        self.looks.append(found)
        if not math.isfinite(found.value) or (self.best and found.value <= self.best.value):
            return
        self.best = found
        self._weights = {name: each.detach().clone() for name, each in weights.items()}

    @property
    def done(self) -> bool:
        """Whether patience has run out."""
        since = len(self.looks)
        if self.best is not None:
            since -= 1 + self.looks.index(self.best)
        return since >= self.patience

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Puts the best look's weights where they were taken from.

        Raises:
            NoBestStepError: if no look gave a number.
        """
        if self.best is None:
            raise NoBestStepError(
                f"{self.metric} was not a finite number at any of {len(self.looks)} looks at the "
                "validation rows, so no step is best; choose another --validation-metric, or hold "
                "out more validation rows"
            )
        for name, best in self._weights.items():
            weights[name].copy_(best)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as tensors and plain numbers."""
        return {
            "metric": self.metric,
            "looks": [(look.step, look.value) for look in self.looks],
            "best": None if self.best is None else self.looks.index(self.best),
            "weights": self._weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what :meth:`state_dict` gave.

        Raises:
            ValueError: for a state of another metric.
        """
        if state["metric"] != self.metric:
            raise ValueError(
                f"the run was stopped by {state['metric']}, not by {self.metric}; choose another "
                "folder"
            )
        self.looks = [Look(*each) for each in state["looks"]]
        self.best = None if state["best"] is None else self.looks[state["best"]]
        self._weights = dict(state["weights"])


def describe_stop(name: str, facts: Mapping[str, Any]) -> str:
    """A run's choice in a sentence; ``facts`` are what ``results.json`` has of it.

    Example:
        >>> facts = {"metric": "lift@5", "step": 40, "value": 1.25, "trained": 90, "refit": True}
        >>> describe_stop("drpo, seed 0", facts)
        'drpo, seed 0: best after step 40 of 90 (lift@5 1.25); trained anew on all training rows.'
        >>> describe_stop("bc", facts | {"step": 90, "refit": False})
        'bc: best after step 90 of 90 (lift@5 1.25), the last: more --steps may be better; that ...'
        >>> describe_stop("bc", facts | {"worst_hits": 0.0, "worst_rows": 37})
        'bc: best after step 40 of 90 (lift@5 1.25); trained anew on all training rows. It hit ...'
    """
    value = facts["value"] if isinstance(facts["value"], str) else f"{facts['value']:.4g}"
    made = "trained anew on all training rows" if facts["refit"] else "that policy serves"
    last = facts["step"] == facts["trained"]
    more = ", the last: more --steps may be better" if last else ""
    few = ""
    if "worst_hits" in facts:
        few = f" {say_few(facts['worst_hits'], facts['worst_rows'])}"
    return (
        f"{name}: best after step {facts['step']} of {facts['trained']} "
        f"({facts['metric']} {value}){more}; {made}.{few}"
    )


def say_few(hits: float, rows: int) -> str:
    """That a lift which chose something is over less than one hit of a worst row.

    Example:
        >>> say_few(0.0, 37)
        'It hit 0 of the 37 worst validation rows, and its lift counts one: ...'
    """
    return (
        f"It hit {hits:.2g} of the {rows:,} worst validation rows, and its lift counts one: these "
        "rows are too few to tell its size. Hold out more of them (--validation-days, "
        "--validation-share), or choose by another metric."
    )
