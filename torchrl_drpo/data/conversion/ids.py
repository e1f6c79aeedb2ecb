"""Distinct ids of a log, counted in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class IdCounter:
    """Distinct ids with their counts, gathered batch by batch in bounded memory."""

    pending: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    waiting: int = 0

    def add(self, ids: np.ndarray, counts: np.ndarray) -> None:
        """Counts some distinct ids; merges once as much waits as is known."""
        if len(ids):
            self.pending.append((ids, counts))
            self.waiting += len(ids)
        if len(self.pending) > 1 and self.waiting > max(1 << 21, 2 * len(self.pending[0][0])):
            self.merged()

    def merged(self) -> tuple[np.ndarray, np.ndarray]:
        """All ids ascending, and their counts."""
        if not self.pending:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        ids, place = np.unique(np.concatenate([p[0] for p in self.pending]), return_inverse=True)
        counts = np.zeros(len(ids), dtype=np.int64)
        np.add.at(counts, place, np.concatenate([p[1] for p in self.pending]))
        self.pending, self.waiting = [(ids, counts)], 0
        return self.pending[0]
