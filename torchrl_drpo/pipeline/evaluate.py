"""``drpo evaluate``: a checkpoint on the last days of a log, its own or a later one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchrl_drpo.data import LogSchema
from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.config.log import LogConfig
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.numbered import NumberedRows, Numbering
from torchrl_drpo.pipeline.off_policy import Progress, ValueOptions, policy_value, quiet
from torchrl_drpo.pipeline.policy_value import PolicyValue, value_figure
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.scores import (
    ROWS_SCORED,
    held_out_metrics,
    policy_scores,
    popularity_scores,
    random_scores,
)
from torchrl_drpo.pipeline.terminal import print_json, progress_bars, say, show
from torchrl_drpo.report.images import png, write_png


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a policy and of the rankings that need none, on the same rows.

    Attributes:
        metrics: by method (random, popularity and the objective's name) and metric.
        rows: how many held-out rows were evaluated.
        unknown_rows: how many were not, since the policy does not know their item.
        k: list length of the table.
        value: what the policy would have earned, where that was asked for.
        warnings: what makes all of it doubtful, in sentences.
    """

    metrics: dict[str, dict[str, float]]
    rows: int
    unknown_rows: int
    k: int
    value: PolicyValue | None = None
    warnings: tuple[str, ...] = ()


def command(config: EvaluateConfig) -> int:
    """``drpo evaluate``; code 1 where off-policy estimates were asked for and mean nothing."""
    with progress_bars() as progress:
        found = run_evaluate(config, progress)
    code = int(found.value is not None and found.value.is_meaningless)
    if config.plot is not None and found.value is not None:
        write_png(config.plot, png(value_figure(found.value)))
    if config.json:
        metrics = {name: report.metrics_json(values) for name, values in found.metrics.items()}
        facts: dict[str, Any] = {
            "rows": found.rows,
            "unknown_rows": found.unknown_rows,
            "metrics": metrics,
        }
        if found.warnings:
            facts["warnings"] = list(found.warnings)
        if found.value is not None:
            facts["off_policy"] = found.value.to_json()
        print_json(facts)
        return code
    for warning in found.warnings:
        say(warning)
    summary = report.summarise({name: [values] for name, values in found.metrics.items()})
    title = f"{found.rows:,} held-out rows ({found.unknown_rows:,} of unknown items left out)"
    show(report.table(summary, title, found.k, upright=True))
    if found.value is not None:
        show(found.value.table("What the policy would have earned, from the log's own actions"))
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
    checkpoint = PolicyCheckpoint.load(config.checkpoint)
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
            logs=config.logs,
            schema=schema,
            test_days=config.test_days,
            history=max(1, checkpoint.window),  # rows that know no history have one empty place
            labels=config.labels,
        )
        data = SplitLog.open(log, Path(scratch) / "log")
        return evaluate_checkpoint(
            checkpoint, data, config.ks, ope=options if config.ope else None, progress=progress
        )


def evaluate_checkpoint(
    checkpoint: PolicyCheckpoint,
    data: SplitLog,
    ks: tuple[int, ...] = (10, 50),
    *,
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
    logged = numbering.items[data.train_items()]
    num_items = len(checkpoint.items)
    scores = {
        "random": random_scores(num_items, rows.action),
        "popularity": popularity_scores(logged[logged >= 0], num_items, rows.action),
        checkpoint.facts["objective"]: policy_scores(checkpoint.actor, test.blocks(ROWS_SCORED)),
    }
    return Evaluation(
        metrics={
            method: held_out_metrics(score, rows, data.bounds, ks)
            for method, score in scores.items()
        },
        rows=len(rows.action),
        unknown_rows=int((~known).sum()),
        k=ks[-1],
        value=policy_value(checkpoint, data, numbering, ope, progress) if ope else None,
        warnings=_warnings(checkpoint, data),
    )


def _warnings(checkpoint: PolicyCheckpoint, data: SplitLog) -> tuple[str, ...]:
    """Whether the policy may have learned from the very rows that it is judged by."""
    theirs, ours = data.facts["first_test_day"], checkpoint.facts["data"]["first_test_day"]
    if theirs is None or ours is None or theirs >= ours:
        return ()
    return (
        f"These rows begin on {theirs}; the policy has learned from its own log until {ours}. If "
        "they are rows of that log, all numbers flatter it: ask for fewer --test-days.",
    )


def _schema_of(checkpoint: PolicyCheckpoint) -> LogSchema:
    """How to read logs: as in training, but that vectors and codes of items need not be there.

    The policy has its own; a later log need not come with the item table, nor is it copied.
    """
    schema = LogSchema.from_json(checkpoint.facts["schema"])
    if schema.items is None:
        return schema
    return schema.replace(items=replace(schema.items, codes=(), embedding=None, required=False))
