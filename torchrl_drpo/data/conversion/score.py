"""The quality of a partition's rows: percentiles fitted on training rows, returns, formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..schema import EventValues, Percentile, ReturnToGo, RewardFormula
from ..schema.quality import USER
from ..sources import LogError
from .journal import Workspace
from .parts import Parts
from .percentiles import FittedPercentile
from .quality import discounted_returns, midrank
from .records import Encoder
from .sort import last_rows, sorted_file

QUALITY_FILE = "index/quality.npy"
_ARRAYS = 5


@dataclass
class Scorer:
    """Fits the quality signal partition by partition, then writes the rewards.

    Args:
        encoder: knows the records' dtype.
        work: the conversion's files.
        parts: which rows are training rows.
    """

    encoder: Encoder
    work: Workspace
    parts: Parts

    def __post_init__(self) -> None:
        self.quality = self.encoder.schema.quality
        self._fitted: FittedPercentile | None = None

    def fit(self, part: int, records: np.ndarray) -> None:
        """Takes in the training rows of a sorted partition."""
        if not isinstance(self.quality, Percentile):
            return
        if self._fitted is None:
            self._fitted = self._load(_fit_file(part)) if part else self._new()
        train = self.parts.train(records)
        if train.any():
            self._fitted.update(_keys(records)[train], records["value"][train])
        self.work.put(_fit_file(part + 1), *self._fitted.arrays())
        self.work.drop(_fit_file(part))

    def score(self, part: int) -> None:
        """Computes the quality of one sorted partition and appends it as the reward."""
        records = self.work.read(sorted_file(part), self.encoder.dtype)
        quality = self.quality
        if isinstance(quality, RewardFormula | EventValues):
            reward = records["value"]
        elif isinstance(quality, ReturnToGo):
            last = last_rows(records, self.encoder)
            train = self.parts.train(records)
            last[:-1] |= train[:-1] != train[1:]  # a training row's return ends with the period
            reward = discounted_returns(records["value"], last, quality.gamma)
        else:
            reward = self._percentiles(records, quality)
        with np.errstate(over="ignore"):
            stored = reward.astype(np.float32)
        bad = ~np.isfinite(stored)
        if bad.any():
            raise LogError(
                f"{int(bad.sum())} rewards do not fit float32, the first is "
                f"{reward[np.flatnonzero(bad)[0]]}; scale the formula down"
            )
        self.work.append("rows/next/reward.memmap", stored)
        self.work.drop(sorted_file(part))

    def _percentiles(self, records: np.ndarray, quality: Percentile) -> np.ndarray:
        keys, value = _keys(records), records["value"]
        finest = None
        if USER in quality.by:
            group = np.unique(
                np.column_stack([records["user"], keys]), axis=0, return_inverse=True
            )[1].ravel()
            train = self.parts.train(records)
            finest = midrank(group[train], value[train], group, value)
        if self._fitted is None:
            self._fitted = self._load(_fit_file(self.work.state.sorted))
        if not self.work.has(QUALITY_FILE):
            self.work.put(QUALITY_FILE, *self._fitted.arrays())
        return self._fitted.transform(keys, value, finest)

    def _new(self) -> FittedPercentile:
        return FittedPercentile(self.quality)

    def _load(self, name: str) -> FittedPercentile:
        fitted = self._new()
        fitted.load(self.work.get(name, _ARRAYS))
        return fitted


def _fit_file(part: int) -> str:
    """What the partitions before ``part`` gave; it stays until the journal names the next."""
    return f"parts/quality-{part:05d}.npy"


def _keys(records: np.ndarray) -> np.ndarray:
    if "keys" not in records.dtype.names:
        return np.zeros((len(records), 0), dtype=np.int64)
    return records["keys"].astype(np.int64)
