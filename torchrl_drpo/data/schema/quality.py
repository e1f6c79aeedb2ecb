"""Quality signals, declared: what a logged row was worth.

Three kinds. A :class:`RewardFormula` is arithmetic over the feedback columns. A
:class:`Percentile` ranks a value among comparable rows: the same user, the same context, the same
duration bucket. A :class:`ReturnToGo` sums what the rest of the session brought. A conversion
computes them (:mod:`torchrl_drpo.data.conversion.quality`).
"""

from __future__ import annotations

from dataclasses import dataclass

from .formula import Formula
from .types import check_once, check_types

DURATION_BUCKET = "duration_bucket"
USER = "user"


@dataclass(frozen=True)
class RewardFormula:
    """Quality is a formula of the row's own columns.

    Args:
        formula: see :class:`~torchrl_drpo.data.schema.formula.Formula`.
    """

    formula: str

    def __post_init__(self) -> None:
        check_types(self, "quality.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The log columns that the formula reads."""
        return Formula(self.formula).columns


@dataclass(frozen=True)
class Percentile:
    r"""Quality is the mid-rank of a value among the training rows of its group, in [0, 1].

    ``(#less + #equal / 2) / #group``: ties share one quality. With ``duration`` set, rows are
    put into buckets ``floor(log_base(duration))``, and ``by=("user", "duration_bucket")`` is
    OneRec-V2's duration-aware quality (arXiv 2508.20900, eq. 12-14): long videos do not win
    because they are long. Where a group has fewer than ``min_count`` training rows, the first key
    of ``by`` is dropped, and so on down to all training rows: KuaiRand has nine rows a user, so
    there most users fall back to the bucket alone.

    Args:
        value: a formula for what is ranked, such as ``"play_time_ms"``.
        by: keys of the group: ``"user"``, ``"duration_bucket"``, context columns. Put the finest
            key first; it is the first to be dropped.
        duration: a formula for the duration, needed by ``"duration_bucket"``.
        base: logarithm's base of the buckets, above 1.
        min_count: fewest training rows that a group needs, at least 1.
    """

    value: str
    by: tuple[str, ...] = ()
    duration: str | None = None
    base: float = 2.0
    min_count: int = 20

    def __post_init__(self) -> None:
        check_types(self, "quality.")
        check_once(self.by, "quality: by")
        if (DURATION_BUCKET in self.by) != (self.duration is not None):
            raise ValueError(
                f"Percentile: by={self.by} and duration={self.duration!r} do not fit; "
                f"{DURATION_BUCKET!r} in `by` and a `duration` formula come together"
            )
        if not self.base > 1:
            raise ValueError(f"Percentile: base must be above 1, got {self.base}")
        if self.min_count < 1:
            raise ValueError(f"Percentile: min_count must be at least 1, got {self.min_count}")
        if USER in self.by[1:]:
            raise ValueError(f"Percentile: 'user' is the finest key; put it first in {self.by}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The log columns that value and duration read."""
        duration = Formula(self.duration).columns if self.duration else ()
        return tuple(sorted({*Formula(self.value).columns, *duration}))

    @property
    def shared_by(self) -> tuple[str, ...]:
        """The keys without the user: groups whose tables are kept."""
        return tuple(key for key in self.by if key != USER)


@dataclass(frozen=True)
class ReturnToGo:
    r"""Quality is :math:`\sum_{t' \ge t} \gamma^{t'-t} r_{t'}` over the rest of the trajectory.

    The sum of a training row stops where the test period begins.

    Args:
        reward: formula of the one-step reward.
        gamma: discount in [0, 1].
    """

    reward: str
    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_types(self, "quality.")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"ReturnToGo: gamma must lie in [0, 1], got {self.gamma}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The log columns that the reward reads."""
        return Formula(self.reward).columns


Quality = RewardFormula | Percentile | ReturnToGo
