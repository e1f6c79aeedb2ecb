"""The cells of ``kuairand``: a log split by day, one method at one strength, its metrics.

Settings are chosen on days inside the training period: there a policy learns from the first
eight days and is judged on the next three. What is reported learns from these eleven days and is
judged on the last three, with other seeds. The quality's percentiles are fitted on the days that
train, each time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_drpo.data import RecReplayBuffer
from torchrl_drpo.evaluation.ranking import CatalogueScores
from torchrl_drpo.evaluation.statistics import late_window
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.rows import HeldOut, SplitLog
from torchrl_drpo.pipeline.scores import (
    ROWS_SCORED,
    held_out_metrics,
    policy_scores,
    popularity_scores,
    random_scores,
)
from torchrl_drpo.pipeline.table import metrics_json
from torchrl_drpo.pipeline.trainer import OfflineTrainer
from torchrl_drpo.reproduction.kuairand.methods import Mark, method
from torchrl_drpo.reproduction.kuairand.policy import make_actor

#: Days of a held-out part, on either split.
HELD_OUT_DAYS = 3
HISTORY = 20
#: 0/1 feedback for GAUC.
LABELS = ("long_view", "is_click")
#: Scores of a block that stay in a CPU's cache: a quarter of the time of the default's 64 MiB.
SCORES_AT_A_TIME = 2**20


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


def ends(logs: str, rows: int | None = None) -> dict[str, Any]:
    """The rankings that need no policy, on the test days, and the counts of the log."""
    split = open_split(logs, "test", rows)
    train = split.data.log.split("train")
    target, items = split.held_out.action, split.data.num_items
    popularity = popularity_scores(split.data.train_items(), items, target)
    return {
        "random": _metrics(random_scores(items, target), split),
        "popularity": _metrics(popularity, split),
        "train_rows": len(train),
        "test_rows": len(split.rows),
        "items": items,
        "hated_rows": int((train.column("is_hate") > 0).sum()),
    }


def train(
    logs: str,
    part: str,
    name: str,
    strength: float,
    seeds: list[int],
    run: Mapping[str, Any],
    precision: str,
    device: str,
    rows: int | None = None,
) -> dict[str, Any]:
    """Trains a method at one strength for some seeds and evaluates each after its last step.

    Args:
        logs: the KuaiRand log.
        part: see :func:`open_split`.
        name: of the method.
        strength: value of its parameter.
        seeds: of the initial policy and of the order of the rows.
        run: ``steps``, ``batch_size`` and ``learning_rate``.
        precision: see :func:`~torchrl_drpo.reproduction.kuairand.policy.make_actor`.
        device: where to train.
        rows: judge on the first so many rows only.

    Returns:
        ``metrics``, one entry a seed; ``report``, what the loss said of itself over the last
        fifth of the steps, averaged over steps and seeds.
    """
    split, chosen = open_split(logs, part, rows), method(name)
    metrics, reports = [], []
    for seed in seeds:
        torch.manual_seed(seed)  # of the initial policy; batches have a generator of their own
        actor = make_actor(
            precision,
            device,
            num_items=split.data.num_items,
            history=HISTORY,
            context_sizes=split.data.context_sizes,
        )
        buffer = split.data.train_buffer(run["batch_size"], seed, device)
        if chosen.mark is not None:
            buffer.append_transform(Mark(chosen.mark, strength))
        loss = chosen.loss(actor, strength).to(device)
        config = TrainerConfig(**run, log_every=max(1, run["steps"] // 50))
        history = OfflineTrainer(loss, buffer, config).run().training
        reports.append({k: _late(curve, run["steps"]) for k, curve in history.items()})
        metrics.append(_metrics(policy_scores(actor, split.blocks(), SCORES_AT_A_TIME), split))
    return {
        "metrics": metrics,
        "report": {k: float(np.mean([one[k] for one in reports])) for k in reports[0]},
    }


def _metrics(scores: CatalogueScores, split: Split) -> dict[str, float | None]:
    return metrics_json(held_out_metrics(scores, split.held_out, split.data.bounds))


def _late(curve: list[tuple[int, float]], steps: int) -> float:
    late = curve[late_window([step for step, _ in curve], steps)]
    return float(np.mean([value for _, value in late]))
