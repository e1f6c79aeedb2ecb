"""Three ways in which offline training fails, told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from torchrl_drpo.functional.checks import check_fraction, check_positive

EventKind = Literal["task_collapse", "support_boundary", "non_finite"]


@dataclass(frozen=True)
class CollapseEvent:
    """One failure, at the step where it was first certain.

    Attributes:
        kind: ``"task_collapse"`` (the reward is gone), ``"support_boundary"`` (the policy has
            shrunk to a point) or ``"non_finite"`` (NaN or infinity).
        step: of the training.
        detail: what was seen, in words.
    """

    kind: EventKind
    step: int
    detail: str


class CollapseEvents:
    """Watches evaluations for task collapse, support boundary and NaN/Inf, each on its own.

    They are different failures and a run may show any of them alone: a policy can lose its task
    with a healthy variance, or shrink to a point while its reward still rises. Each kind is
    reported once, when it first happens.

    Source: the event definitions of the controlled environments in "Dynamic Remoteness-Aware
    Policy Optimization" (2026).

    Args:
        reference_reward: what positive-only training reaches in the same evaluation, above 0:
            the baseline that a signed objective has to beat.

    Keyword Args:
        task_ratio: share of the reference below which an evaluation counts as failed, in (0, 1].
        patience: failed evaluations in a row that make a task collapse, at least 1.
        warmup: steps before which a low reward is not held against the policy.
        min_log_scale: log sigma below which any dimension is at the support boundary. A policy
            that clamps its log sigma (``make_gaussian_actor``: -5) needs a value just above it.
        min_entropy: entropy in nats below which a categorical policy is; ``None``: not watched.

    Raises:
        ValueError: for numbers out of range.

    Examples:
        >>> import torch
        >>> events = CollapseEvents(reference_reward=0.4, patience=2)
        >>> for step, reward in enumerate([0.3, 0.1, 0.1, 0.1]):
        ...     for event in events.update(step, reward=reward, log_scale=torch.zeros(3)):
        ...         print(event.kind, event.step, event.detail)
        task_collapse 2 reward 0.1 below 45% of 0.4 in 2 evaluations
        >>> events.verdict
        'collapsed'
    """

    def __init__(
        self,
        reference_reward: float,
        *,
        task_ratio: float = 0.45,
        patience: int = 3,
        warmup: int = 0,
        min_log_scale: float = -12.0,
        min_entropy: float | None = None,
    ) -> None:
        check_positive("reference_reward", reference_reward)
        check_fraction("task_ratio", task_ratio)
        check_positive("patience", patience)
        self.reference_reward = reference_reward
        self.task_ratio = task_ratio
        self.patience = patience
        self.warmup = warmup
        self.min_log_scale = min_log_scale
        self.min_entropy = min_entropy
        self.happened: dict[EventKind, CollapseEvent] = {}
        self._failed = 0

    @property
    def verdict(self) -> Literal["stable", "collapsed"]:
        """``"stable"`` as long as nothing has happened."""
        return "collapsed" if self.happened else "stable"

    def update(
        self,
        step: int,
        *,
        reward: float | Tensor | None = None,
        log_scale: Tensor | None = None,
        entropy: float | Tensor | None = None,
        values: Iterable[Tensor] = (),
    ) -> list[CollapseEvent]:
        """Takes note of an evaluation; reads the numbers back to the host.

        Args:
            step: of the training, rising.
            reward: mean reward of the evaluation, as the reference was measured.
            log_scale: log sigma of a Gaussian policy, any shape.
            entropy: mean entropy of a categorical policy, in nats.
            values: more tensors that must be finite: losses, parameters.

        Returns:
            What has happened for the first time, in no particular order; usually nothing.
        """
        seen = {"reward": reward, "log_scale": log_scale, "entropy": entropy}
        seen.update({f"values[{i}]": value for i, value in enumerate(values)})
        new = [
            self._non_finite(seen),
            self._support(log_scale, entropy),
            self._task(step, reward),
        ]
        events = [
            CollapseEvent(kind, step, detail)
            for kind, detail in (found for found in new if found is not None)
            if kind not in self.happened
        ]
        self.happened.update({event.kind: event for event in events})
        return events

    def _non_finite(self, seen: Mapping[str, Any]) -> tuple[EventKind, str] | None:
        for name, value in seen.items():
            if value is not None and not bool(torch.isfinite(torch.as_tensor(value)).all()):
                return "non_finite", f"{name} holds NaN or infinity"
        return None

    def _support(
        self, log_scale: Tensor | None, entropy: float | Tensor | None
    ) -> tuple[EventKind, str] | None:
        if log_scale is not None:
            smallest = float(log_scale.min())
            if smallest < self.min_log_scale:
                return (
                    "support_boundary",
                    f"log sigma {smallest:.4g} below {self.min_log_scale:.4g}",
                )
        if entropy is not None and self.min_entropy is not None:
            nats = float(entropy)
            if nats < self.min_entropy:
                return "support_boundary", f"entropy {nats:.4g} below {self.min_entropy:.4g} nats"
        return None

    def _task(self, step: int, reward: float | Tensor | None) -> tuple[EventKind, str] | None:
        if reward is None or step < self.warmup:
            return None
        value = float(reward)
        low = not value >= self.task_ratio * self.reference_reward  # NaN is no reward either
        self._failed = self._failed + 1 if low else 0
        if self._failed < self.patience:
            return None
        return "task_collapse", (
            f"reward {value:.4g} below {self.task_ratio:.0%} of {self.reference_reward:.4g} "
            f"in {self._failed} evaluations"
        )

    def state_dict(self) -> dict[str, Any]:
        """What has happened and how many evaluations have failed in a row; plain types only."""
        return {"failed": self._failed, "happened": [asdict(e) for e in self.happened.values()]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resumes."""
        self._failed = int(state_dict["failed"])
        events = [CollapseEvent(**event) for event in state_dict["happened"]]
        self.happened = {event.kind: event for event in events}
