"""Quality signals, declared: what a logged row was worth.

Four kinds. A :class:`RewardFormula` is arithmetic over the feedback columns. :class:`EventValues`
say what each event of a funnel is worth, where one column names it. A :class:`Percentile` ranks a
value among comparable rows: the same user, the same context, the same duration bucket. A
:class:`ReturnToGo` sums what the rest of the session brought. A conversion computes them
(:mod:`torchrl_drpo.data.conversion.quality`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .formula import Formula
from .quoting import as_name
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

    @property
    def texts(self) -> tuple[str, ...]:
        """Those that are compared with texts."""
        return Formula(self.formula).texts

    def named(self, columns: list[str]) -> RewardFormula:
        """With a formula that equals a column's name as that column."""
        return replace(self, formula=as_name(self.formula, columns))


@dataclass(frozen=True)
class EventValues:
    """Quality is what the row's event is worth: a funnel whose steps one column names.

    Args:
        column: the column of events, such as ``"type"``: texts, or integers that stand for them.
        values: what each event is worth, such as ``{"click": 1, "cart": 3, "order": 6}``.
        other: what events are worth that ``values`` does not name; by default they are a fault,
            since a misspelt event would be worth nothing without a word.

    Examples:
        >>> EventValues("type", {"click": 1, "order": 6}).columns
        ('type',)
        >>> EventValues("type", {})
        Traceback (most recent call last):
        ValueError: quality.values must be texts and their finite numbers, such as {"click": 1}, ...
    """

    column: str
    values: dict[str, float] = field(hash=False)
    other: float | None = None

    def __post_init__(self) -> None:
        check_types(self, "quality.")

    @property
    def columns(self) -> tuple[str, ...]:
        """The log column that it reads."""
        return (self.column,)

    @property
    def texts(self) -> tuple[str, ...]:
        """It is one of texts."""
        return (self.column,)

    def named(self, columns: list[str]) -> EventValues:
        """As it is: the column is named, and no formula."""
        return self


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
    def texts(self) -> tuple[str, ...]:
        """Those that are compared with texts."""
        duration = Formula(self.duration).texts if self.duration else ()
        return tuple(sorted({*Formula(self.value).texts, *duration}))

    def named(self, columns: list[str]) -> Percentile:
        """With formulas that equal a column's name as that column."""
        duration = None if self.duration is None else as_name(self.duration, columns)
        return replace(self, value=as_name(self.value, columns), duration=duration)

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

    @property
    def texts(self) -> tuple[str, ...]:
        """Those that are compared with texts."""
        return Formula(self.reward).texts

    def named(self, columns: list[str]) -> ReturnToGo:
        """With a reward that equals a column's name as that column."""
        return replace(self, reward=as_name(self.reward, columns))


Quality = RewardFormula | EventValues | Percentile | ReturnToGo
