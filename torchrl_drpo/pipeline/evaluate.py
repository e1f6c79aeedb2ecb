"""``drpo evaluate``: a checkpoint on the last days of a log, its own or a later one."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from torchrl_drpo.data import LogSchema
from torchrl_drpo.evaluation.ranking import QUALITY_LIST, CatalogueScores, frequency_buckets
from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.baselines import baseline_scores, history_rows
from torchrl_drpo.pipeline.config.log import SPLIT, LogConfig, log_files
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.details import (
    Details,
    bucket_metrics,
    exposures,
    policy_lists,
    weighted_by_propensity,
)
from torchrl_drpo.pipeline.evaluation import Evaluation
from torchrl_drpo.pipeline.kinds.served import turned
from torchrl_drpo.pipeline.numbered import NumberedRows, Numbering
from torchrl_drpo.pipeline.off_policy import (
    Progress,
    ValueOptions,
    may_have_learned,
    policy_value,
    quiet,
)
from torchrl_drpo.pipeline.rows import HeldOut, SplitLog
from torchrl_drpo.pipeline.scores import (
    ROWS_SCORED,
    counted_rows,
    held_out_intervals,
    held_out_metrics,
    policy_scores,
)
from torchrl_drpo.pipeline.terminal import print_json, progress_bars, say, show
from torchrl_drpo.report.images import png, write_png


def command(config: EvaluateConfig) -> int:
    """``drpo evaluate``; code 1 where off-policy estimates were asked for and mean nothing."""
    with progress_bars() as progress:
        found = run_evaluate(config, progress)
    code = int(found.value is not None and found.value.is_meaningless)
    if config.plot is not None:
        write_png(config.plot, png(found.figure()))
    if config.json:
        print_json(found.to_json())
        return code
    for warning in found.warnings:
        say(warning)
    for table in found.tables():
        show(table)
    if found.value is not None:
        show(found.value.table("What the policy would have earned, from the log's own actions"))
        calibration = found.value.calibration_table()
        if calibration is not None:
            show(calibration)
        for note in found.value.notes():
            say(f"- {note}")
    if config.plot is not None:
        say(f"figure: {config.plot}")
    return code


def run_evaluate(config: EvaluateConfig, progress: Progress = quiet) -> Evaluation:
    """Carries out ``drpo evaluate``.

    Args:
        config: what to do.
        progress: called with what is being fitted, how much of it is there, and of how much.

    Raises:
        ValueError: for a checkpoint or log that cannot be used.
    """
    checkpoint = turned(
        PolicyCheckpoint.load(config.checkpoint, allow_code=config.allow_code),
        tau=config.tau,
        guidance=config.guidance,
        uphill_step=config.uphill_step,
    )
    options = ValueOptions(
        behavior=config.behavior,
        reward_model=config.reward_model,
        draws=config.draws,
        max_rows=config.ope_rows,
        folder=config.checkpoint.parent / "reward",
    )
    with tempfile.TemporaryDirectory(prefix="drpo-evaluate-") as scratch:
        schema = Path(scratch) / "schema.json"
        schema.write_text(_schema_of(checkpoint).to_json(), encoding="utf-8")
        log = LogConfig(
            logs=config.logs or config.dataset,
            schema=schema,
            **_held_out(config, checkpoint),
            history=max(1, checkpoint.window),  # rows that know no history have one empty place
            labels=config.labels,
            bad_rows=checkpoint.facts.get("config", {}).get("bad_rows", "error"),
        )
        data = SplitLog.open(
            log, Path(scratch) / "log", log_files(config), checkpoint.history_columns, progress
        )
        return evaluate_checkpoint(
            checkpoint,
            data,
            config.ks,
            details=config.details,
            ope=options if config.ope else None,
            progress=progress,
        )


def _held_out(config: EvaluateConfig, checkpoint: PolicyCheckpoint) -> dict[str, Any]:
    """What the command says is held out, or what was in training."""
    asked = {name: getattr(config, name) for name in SPLIT}
    if all(asked[name] is None for name in ("test_days", "test_start", "test_share")):
        trained = checkpoint.facts.get("config", {})
        return {name: trained.get(name, asked[name]) for name in SPLIT}
    return asked


def evaluate_checkpoint(
    checkpoint: PolicyCheckpoint,
    data: SplitLog,
    ks: tuple[int, ...] = (10, 50),
    *,
    details: bool = False,
    ope: ValueOptions | None = None,
    progress: Progress = quiet,
) -> Evaluation:
    """A policy on the held-out rows of a log, which may number items and contexts otherwise.

    Ids are matched by their raw values. Rows of items that the policy does not know are left out
    and counted; unknown items of a history are skipped, unknown contexts are taken as unknown.
    """
    numbering = Numbering.of(data, checkpoint)
    test = NumberedRows(data, "test", numbering)
    known = numbering.items[data.held_out.action] >= 0
    rows = replace(data.held_out.take(known), action=test.column("action"))
    scores = {
        **baseline_scores(
            data,
            numbering,
            lambda: history_rows(test.blocks(ROWS_SCORED)),
            rows.action,
            len(checkpoint.items),
        ),
        checkpoint.facts["objective"]: policy_scores(
            checkpoint.actor,
            counted_rows(test.blocks(ROWS_SCORED), "held-out rows", len(test), progress),
            longest=max(*ks, QUALITY_LIST),
        ),
    }
    intervals = {
        method: held_out_intervals(score, rows, data.bounds, ks)
        for method, score in scores.items()
        if method != "random"
    }
    alike = held_out_metrics(scores["random"], rows, data.bounds, ks)
    behind = None
    if details:
        behind = _details(checkpoint, data, numbering, test, rows, scores, ks)
    return Evaluation(
        intervals={"random": {n: Interval(v, math.nan, 1) for n, v in alike.items()}, **intervals},
        rows=len(rows.action),
        unknown_rows=int((~known).sum()),
        k=ks[-1],
        details=behind,
        value=policy_value(checkpoint, data, numbering, ope, progress) if ope else None,
        warnings=_warnings(checkpoint, data),
    )


def _details(
    checkpoint: PolicyCheckpoint,
    data: SplitLog,
    numbering: Numbering,
    test: NumberedRows,
    rows: HeldOut,
    scores: dict[str, CatalogueScores],
    ks: tuple[int, ...],
) -> Details:
    """See :class:`Details`; of the rows of items that the policy knows."""
    judged = {name: score for name, score in scores.items() if name != "random"}
    *_, policy = judged
    logged = numbering.items[data.train_items()]
    times = torch.bincount(logged[logged >= 0], minlength=len(checkpoint.items))
    by_activity = []
    if data.log.schema.user is not None:
        users = data.log.split("train").column("user")
        active = torch.bincount(users, minlength=int(rows.user.max()) + 1)[rows.user]
        by_activity = frequency_buckets(active, ("seldom", "medium", "often"))
    by_popularity = frequency_buckets(times[rows.action], ("tail", "middle", "head"))
    lists = {
        "popularity": times.topk(min(ks[-1], len(times))).indices.unsqueeze(0),
        policy: policy_lists(checkpoint, test, min(ks[-1], len(times))),
    }
    weighted = None
    if data.log.schema.propensity is not None:
        own = test.column("log_propensity")
        weighted = weighted_by_propensity(judged, rows, own, data.num_items, data.bounds, ks)
    return Details(
        by_activity=bucket_metrics(by_activity, judged, rows, data.bounds, ks),
        by_popularity=bucket_metrics(by_popularity, judged, rows, data.bounds, ks),
        exposure=exposures(lists, rows.action, times, checkpoint.item_vectors()),
        weighted=weighted,
        k=ks[-1],
    )


def _warnings(checkpoint: PolicyCheckpoint, data: SplitLog) -> tuple[str, ...]:
    """What the table means little for, first whether the policy may have learned from its rows."""
    trained = checkpoint.facts["data"].get("held_out") or "other rows"
    flattering = (
        f"Judged are {data.facts['held_out']}; the policy's own log held out {trained}. If these "
        "are rows of that log, the policy may have learned from some, and all numbers flatter it.",
    )
    return (flattering if may_have_learned(checkpoint, data) else ()) + data.parts.warnings


def _schema_of(checkpoint: PolicyCheckpoint) -> LogSchema:
    """How to read logs: as in training, but that vectors and codes of items need not be there.

    The policy has its own; a later log need not come with the item table, nor is it copied.
    """
    schema = LogSchema.from_json(checkpoint.facts["schema"])
    if schema.items is None:
        return schema
    return schema.replace(items=replace(schema.items, codes=(), embedding=None, required=False))
