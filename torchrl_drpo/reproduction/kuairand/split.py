"""The log of ``kuairand`` split by day.

Settings are chosen on days inside the training period: there a policy learns from the first
eight days and is judged on the next three. What is reported learns from these eleven days and is
judged on the last three, with other seeds. The quality's percentiles are fitted on the days that
train, each time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_drpo.data import RecReplayBuffer
from torchrl_drpo.pipeline.rows import HeldOut, SplitLog
from torchrl_drpo.pipeline.scores import ROWS_SCORED

#: Days of a held-out part, on either split.
HELD_OUT_DAYS = 3
HISTORY = 20
#: 0/1 feedback for GAUC.
LABELS = ("long_view", "is_click")


@dataclass(frozen=True)
class Split:
    """A log split in time, and the rows that judge.

    Attributes:
        data: training rows and the rows after them.
        rows: which of the latter judge, int64.
        held_out: their columns.
    """

    data: SplitLog
    rows: Tensor
    held_out: HeldOut

    def blocks(self) -> Iterator[TensorDictBase]:
        """The judging rows in order."""
        for rows in self.rows.split(ROWS_SCORED):
            yield self.data.test[rows]


@lru_cache(maxsize=2)
def open_split(logs: str, part: str, rows: int | None = None) -> Split:
    """Converts the log into a temporary folder, once a process.

    Args:
        logs: the KuaiRand log.
        part: ``"test"`` judges on the last days; ``"tuning"`` on those before them, of a copy of
            the log that ends there.
        rows: judge on the first so many rows only.

    Raises:
        ValueError: for another part.
    """
    if part not in ("test", "tuning"):
        raise ValueError(f"part must be 'test' or 'tuning', got {part!r}")
    with tempfile.TemporaryDirectory(prefix="drpo-kuairand-") as folder:
        source = Path(logs) if part == "test" else without_last_days(Path(logs), Path(folder))
        log = RecReplayBuffer.from_parquet(
            source, "kuairand", test_days=HELD_OUT_DAYS, history=HISTORY
        )
    data = SplitLog(log, LABELS)
    chosen = torch.arange(len(data.test))[:rows]
    return Split(data, chosen, data.held_out.take(chosen))


def without_last_days(log: Path, folder: Path) -> Path:
    """A copy of the log in ``folder`` without its last days, its side tables linked beside it."""
    import pyarrow.compute as pc
    from pyarrow import parquet

    table = parquet.read_table(log)
    last = sorted(pc.unique(table["date"]).to_pylist())[-HELD_OUT_DAYS - 1]
    for side in log.resolve().parent.glob("*.parquet"):
        if side.name != log.name:
            (folder / side.name).symlink_to(side)
    parquet.write_table(table.filter(pc.field("date") <= last), folder / log.name)
    return folder / log.name
