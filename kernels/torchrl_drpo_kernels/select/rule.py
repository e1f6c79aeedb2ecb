"""The options of a selection, and where its figures stand in the two result vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from torch import Tensor

WEIGHTINGS = ("uniform", "linear", "exponential")
TIES = ("first", "fraction")

#: A float32 kappa stands for the decimal it was rounded from: times this it is not below it, so
#: 0.7 of 5 rows is 3.5 and rounds to 4, although float32(0.7) < 0.7.
DECIMAL = 1.0 + 2.0**-24


class Stat(IntEnum):
    """Positions in the float32 vector ``stats``."""

    THRESHOLD = 0  #: nu, the K-th largest quality
    KEPT_MEAN = 1  #: mean of the K largest values
    KEPT_STD = 2  #: their sample standard deviation; 0 if K = 1
    BATCH_MEAN = 3  #: mean of all valid values
    BATCH_STD = 4  #: their sample standard deviation; 0 if there is one
    EFFECTIVE_SAMPLE_SIZE = 5  #: (sum w)^2 / sum w^2, in rows; 0 if no weight is positive
    NEXT_KAPPA = 6  #: the controller's kappa for the next step
    TIE_SHARE = 7  #: part of each tied row that belongs to the K largest, in [0, 1]


class Count(IntEnum):
    """Positions in the int32 vector ``counts``."""

    N_ROWS = 0  #: rows emitted, those of positive weight
    QUOTA = 1  #: K
    N_VALID = 2  #: finite and unmasked rows
    N_ABOVE = 3  #: rows strictly above the threshold
    N_TIED = 4  #: rows at the threshold


class Rule(NamedTuple):
    """Everything about a selection that is a plain number or name; one call, one rule."""

    weighting: str = "linear"
    ties: str = "fraction"
    temperature: float = 0.05
    normalize: bool = True
    eps: float = 1e-8
    target_ratio: float = 0.5
    low: float = 0.05
    high: float = 1.0
    up: float = 1.02
    down: float = 0.98

    @classmethod
    def of(cls, *, bounds: tuple[float, float] = (0.05, 1.0), **options: Any) -> Rule:
        """From the options of ``select``, checked.

        >>> Rule.of(weighting="uniform", bounds=(0.1, 0.5)).high
        0.5
        """
        if len(bounds) != 2:
            raise ValueError(f"bounds must be the smallest and the largest kappa, got {bounds}")
        rule = cls(**options, low=bounds[0], high=bounds[1])
        rule.check()
        return rule

    @classmethod
    def from_parts(
        cls, weighting: str, ties: str, normalize: bool, numbers: Sequence[float]
    ) -> Rule:
        """The inverse of ``parts``: four arguments are what an op's schema can hold."""
        return cls(weighting, ties, numbers[0], normalize, *numbers[1:])

    @property
    def parts(self) -> tuple[str, str, bool, list[float]]:
        """Names, the flag, and ``numbers``.

        >>> Rule.from_parts(*Rule(ties="first", up=1.1).parts) == Rule(ties="first", up=1.1)
        True
        """
        return self.weighting, self.ties, self.normalize, list(self.numbers)

    @property
    def branches(self) -> dict[str, object]:
        """What a kernel is compiled for."""
        return {
            "WEIGHTING": WEIGHTINGS.index(self.weighting),
            "TIES": TIES.index(self.ties),
            "NORMALIZE": self.normalize,
        }

    @property
    def numbers(self) -> tuple[float, ...]:
        """What a kernel is told at each launch, in the order of its parameters."""
        return (
            self.temperature,
            self.eps,
            self.target_ratio,
            self.low,
            self.high,
            self.up,
            self.down,
        )

    def check(self) -> None:
        """Raises ``ValueError`` naming the first option that is out of range."""
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"weighting must be one of {', '.join(WEIGHTINGS)}, got {self.weighting!r}"
            )
        if self.ties not in TIES:
            raise ValueError(f"ties must be one of {', '.join(TIES)}, got {self.ties!r}")
        for name in ("temperature", "up", "down"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a finite number above 0, got {value}")
        for name in ("eps", "target_ratio"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
        if not 0 < self.low <= self.high <= 1:
            raise ValueError(f"bounds must satisfy 0 < low <= high <= 1, got {self.low, self.high}")


class Selection(NamedTuple):
    """What a selection returns; everything stays on the device, all shapes depend on N only.

    Attributes:
        index: ``[N]`` int32; the emitted rows, ascending, in its first ``n_rows`` places. The
            places behind hold 0, so that gathers stay in range.
        weight: ``[N]`` float32; weight of row ``index[j]`` at place ``j``, 0 behind ``n_rows``.
        stats: float32 vector, read by :class:`Stat`.
        counts: int32 vector, read by :class:`Count`.
    """

    index: Tensor  # type: ignore[assignment]  # hides the method tuple.index
    weight: Tensor
    stats: Tensor
    counts: Tensor

    @property
    def n_rows(self) -> Tensor:
        """Rows emitted, a ``[1]`` int32 tensor as the log-prob ops take it."""
        return self.counts[:1]

    @property
    def quota(self) -> Tensor:
        """K, a 0-dim int32 tensor: the loss is ``-sum(weight * log_prob) / K``."""
        return self.counts[Count.QUOTA]

    @property
    def threshold(self) -> Tensor:
        """The K-th largest quality, 0-dim float32."""
        return self.stats[Stat.THRESHOLD]

    @property
    def next_kappa(self) -> Tensor:
        """The controller's next kappa, a ``[1]`` float32 tensor."""
        return self.stats[Stat.NEXT_KAPPA : Stat.NEXT_KAPPA + 1]
