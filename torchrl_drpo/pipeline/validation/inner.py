"""A log's training rows, split once more: what is learned from, and what choices are made on.

The rows that the table is made of are not among either. Histories and qualities are what they would
be had the log ended with its training rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.evaluation.ranking import QUALITY_LIST
from torchrl_drpo.functional.checks import DivergedError
from torchrl_drpo.pipeline.config.log import SHARE, split_of
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.kinds.training import Progress
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.scores import (
    ROWS_SCORED,
    held_out_metrics,
    policy_scores,
    random_scores,
)
from torchrl_drpo.spelling import counted, did_you_mean

#: Worst rows that count as hit at least: a lift over none is infinite and would win, though it says
#: only that the rows are too few to tell its size.
LEAST_WORST_HITS = 1.0
#: What runs and searches by a lift depend on besides: in earlier ones an infinite lift won.
CHOSEN_BY = "lift over one worst hit at least"
#: Parts of a split column that are taken for validation rows.
NAMES = ("validation", "valid")


def open_inner(
    config: TrainConfig, root: Path, data: SplitLog | None, progress: Progress
) -> SplitLog:
    """The training rows of a log, of which some are held out.

    Args:
        config: says which, by ``config.stopping``.
        root: folder for a conversion of them.
        data: the log with its test rows, where it is open.
        progress: called while it converts.

    Raises:
        ValueError: for settings that do not fit the way in which test rows are held out, or where
            no row is left.
    """
    schema, asked = config.log_schema(), config.stopping
    column = schema.split
    if column and data is None:  # of which rows it says so is known when it is converted
        named_root = root.with_name(f"{root.name}-as-named")
        data = SplitLog.open(
            config,
            named_root,
            history_columns=config.model.history_columns,
            progress=progress,
        )
    parts = data.log.report.parts if column and data is not None else {}
    named = [name for name in NAMES if parts.get(name)]
    if named:
        if asked.validation_share is not None or asked.validation_days is not None:
            raise ValueError(
                f"the split column {column!r} names validation rows itself ({named[0]!r}); leave "
                "out --validation-days and --validation-share"
            )
        assert data is not None  # its parts were looked at
        return SplitLog(data.log, config.labels, named[0])
    return SplitLog.open(
        config,
        root,
        history_columns=config.model.history_columns,
        progress=progress,
        split=_split(config, split_of(config, schema)),
        test="validation",
    )


def _split(config: TrainConfig, outer: dict[str, Any]) -> dict[str, Any]:
    """The split of the whole log, and inside it that of its training rows."""
    days, share = config.stopping.validation_days, config.stopping.validation_share
    by_day = outer["test_days"] is not None or outer["test_start"] is not None
    if days is None and share is None and by_day:
        return outer | {"validation_days": "auto"}
    if days is None and share is None:
        share = outer["test_share"] or SHARE
    return outer | {"validation_days": days, "validation_share": share}


class Judge:
    """Metrics of policies on validation rows.

    Args:
        data: the training rows, split.
        rows: how many of the rows held out there are looked at, evenly chosen.
        ks: list lengths.
    """

    def __init__(self, data: SplitLog, rows: int, ks: tuple[int, ...]) -> None:
        every = len(data.test)
        self._rows = torch.arange(every)
        if every > rows:
            self._rows = torch.linspace(0, every - 1, rows).long()
        self._data, self._ks = data, ks
        self._held_out = data.held_out.take(self._rows)

    def __call__(self, actor: ProbabilisticActor) -> dict[str, float]:
        """Metrics of an actor, as ``drpo train`` gives them on the rows of its table.

        But a lift over less than one hit of a worst row is what one hit would make it; see
        :meth:`few_worst_hits`. All are NaN of a policy that has diverged: no look at it is the
        best.
        """
        blocks = (
            self._data.rows_at(self._data.test.part, rows) for rows in self._rows.split(ROWS_SCORED)
        )
        longest = max(*self._ks, QUALITY_LIST)
        try:
            return self._metrics(policy_scores(actor, blocks, longest=longest))
        except DivergedError:
            return dict.fromkeys(self._of_chance(), math.nan)

    def check(self, metric: str) -> None:
        """Raises ``ValueError`` for a metric that cannot be made as large as possible here."""
        of_chance = self._of_chance()
        counts = ("_rows", "_worst_hits")
        known = [n for n in of_chance if not n.removesuffix("_warm").endswith(counts)]
        if metric not in known:
            raise ValueError(
                f"no metric {metric!r}{did_you_mean(metric, known)} of these validation rows; "
                f"there are {', '.join(known)}"
            )
        if math.isnan(of_chance[metric]):
            raise ValueError(
                f"{metric} is no number on these {len(self._rows):,} validation rows, whoever is "
                "judged: they have too few good rows, or poor ones; hold out more "
                "(--validation-days, --validation-share), or choose another metric"
            )
        if "_worst" in metric and not metric.startswith("gauc"):
            raise ValueError(
                f"{metric} falls as policies get better, and what is chosen is the largest; choose "
                f"{metric.replace('_worst', '_best')} or a lift"
            )

    def few_worst_hits(self, metric: str, found: Mapping[str, float]) -> tuple[float, int] | None:
        """The hits of worst rows and the number of these, where a lift is over less than one hit.

        ``None`` where it is over more, and of a metric that is no lift.
        """
        name, warm = metric.removesuffix("_warm"), "_warm" * metric.endswith("_warm")
        hits, rows = (found.get(f"{name}_worst_{each}{warm}") for each in ("hits", "rows"))
        if hits is None or rows is None or not hits < LEAST_WORST_HITS:
            return None
        return hits, int(rows)

    def describe(self) -> str:
        """What is looked at, for people."""
        every = len(self._data.test)
        some = "" if len(self._rows) == every else f"{len(self._rows):,} of "
        others = counted(len(self._data.log.split("train")), "other row")
        return (
            f"{some}{counted(every, 'validation row')} held out of the training rows; what was "
            f"judged by them learned from {others}"
        )

    def _of_chance(self) -> dict[str, float]:
        return self._metrics(random_scores(self._data.num_items, self._held_out.action))

    def _metrics(self, scores: Any) -> dict[str, float]:
        return held_out_metrics(
            scores, self._held_out, self._data.bounds, self._ks, LEAST_WORST_HITS
        )
