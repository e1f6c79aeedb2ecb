"""Distinct ids of a log, counted in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..ids import Ids, distinct, joined


@dataclass
class IdCounter:
    """Distinct ids with their counts, gathered batch by batch in bounded memory."""

    pending: list[tuple[Ids, np.ndarray]] = field(default_factory=list)
    waiting: int = 0

    def add(self, ids: Ids, counts: np.ndarray) -> None:
        """Counts some ids; merges once as much waits as is known.

        Raises:
            ValueError: where integers and strings meet.
        """
        if not len(ids):
            return
        if self.pending and type(ids) is not type(self.pending[0][0]):
            raise ValueError("ids must be all integers or all strings")
        self.pending.append((ids, counts))
        self.waiting += len(ids)
        if len(self.pending) > 1 and self.waiting > max(1 << 21, 2 * len(self.pending[0][0])):
            self.merged()

    def merged(self) -> tuple[Ids, np.ndarray]:
        """All ids ascending, and their counts."""
        if not self.pending:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        ids, place = distinct(joined([ids for ids, _ in self.pending]))
        counts = np.zeros(len(ids), dtype=np.int64)
        np.add.at(counts, place, np.concatenate([counts for _, counts in self.pending]))
        self.pending, self.waiting = [(ids, counts)], 0
        return self.pending[0]
