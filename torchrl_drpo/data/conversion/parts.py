"""Which part of a log (train, test, ...) a row belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..catalogue import Catalogue


@dataclass(frozen=True)
class Parts:
    """A split by day, by a column, or none.

    Args:
        names: of the parts, by number; empty without a split.
        first_test_day: days since 1970, None without a split by day.
    """

    names: tuple[str, ...] = ()
    first_test_day: int | None = None

    @classmethod
    def of_log(cls, splits: Catalogue | None, first_test_day: int | None) -> Parts:
        """The day decides where one is given, else the log's own split column."""
        if first_test_day is not None:
            return cls(("train", "test"), first_test_day)
        named = splits.decode(range(len(splits))) if splits is not None else []
        return cls(tuple(str(name) for name in named))

    def of(self, records: np.ndarray) -> np.ndarray:
        """Number of each record's part, int64 ``[n]``; only where there are parts."""
        if self.first_test_day is not None:
            return (records["day"] >= self.first_test_day).astype(np.int64)
        return records["split"].astype(np.int64)

    def train(self, records: np.ndarray) -> np.ndarray:
        """The rows that a quality signal may be fitted on, bool ``[n]``."""
        if "train" not in self.names:
            return np.ones(len(records), dtype=bool)
        return self.of(records) == self.names.index("train")
