"""``drpo evaluate``: a checkpoint on the last days of a log, its own or a later one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tensordict import TensorDictBase
from torch import Tensor

from torchrl_drpo.data import LogSchema
from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.artifacts.users import raw_ids
from torchrl_drpo.pipeline.config.log import LogConfig
from torchrl_drpo.pipeline.config.serve import EvaluateConfig
from torchrl_drpo.pipeline.off_policy import PolicyValue, policy_value
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.scores import (
    ROWS_SCORED,
    held_out_metrics,
    policy_scores,
    popularity_scores,
    random_scores,
)
from torchrl_drpo.pipeline.terminal import print_json, show


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a policy and of the rankings that need none, on the same rows.

    Attributes:
        metrics: by method (random, popularity and the objective's name) and metric.
        rows: how many held-out rows were evaluated.
        unknown_rows: how many were not, since the policy does not know their item.
        k: list length of the table.
        value: what the policy would have earned, where that was asked for.
    """

    metrics: dict[str, dict[str, float]]
    rows: int
    unknown_rows: int
    k: int
    value: PolicyValue | None = None


def command(config: EvaluateConfig) -> int:
    """``drpo evaluate``; code 1 where off-policy estimates were asked for and mean nothing."""
    found = run_evaluate(config)
    code = int(found.value is not None and found.value.is_meaningless)
    if config.json:
        metrics = {name: report.metrics_json(values) for name, values in found.metrics.items()}
        facts = {"rows": found.rows, "unknown_rows": found.unknown_rows, "metrics": metrics}
        if found.value is not None:
            facts["off_policy"] = found.value.to_json()
        print_json(facts)
        return code
    summary = report.summarise({name: [values] for name, values in found.metrics.items()})
    title = f"{found.rows:,} held-out rows ({found.unknown_rows:,} of unknown items left out)"
    show(report.table(summary, title, found.k, upright=True))
    if found.value is not None:
        show(found.value.table("What the policy would have earned, from the log's own actions"))
    return code


def run_evaluate(config: EvaluateConfig) -> Evaluation:
    """Carries out ``drpo evaluate``.

    Raises:
        ValueError: for a checkpoint or log that cannot be used.
    """
    checkpoint = PolicyCheckpoint.load(config.checkpoint)
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
        return evaluate_checkpoint(checkpoint, data, config.ks, ope=config.ope)


def evaluate_checkpoint(
    checkpoint: PolicyCheckpoint,
    data: SplitLog,
    ks: tuple[int, ...] = (10, 50),
    *,
    ope: bool = False,
) -> Evaluation:
    """A policy on the held-out rows of a log, which may number items and contexts otherwise.

    Ids are matched by their raw values. Rows of items that the policy does not know are left out
    and counted; unknown items of a history are skipped, unknown contexts are taken as unknown.
    """
    items = _renumber(data.items, checkpoint.items)
    contexts = [
        _renumber(theirs, ours)
        for theirs, ours in zip(data.log.contexts.values(), checkpoint.contexts, strict=True)
    ]
    action = items[data.held_out.action]
    known = action >= 0
    if not known.any():
        raise ValueError(
            f"none of the {len(action)} held-out rows shows an item that the policy knows; is this "
            "the log of another catalogue?"
        )
    rows = replace(data.held_out.take(known), action=action[known])
    logged = items[data.train_items()]
    num_items = len(checkpoint.items)
    scores = {
        "random": random_scores(num_items, rows.action),
        "popularity": popularity_scores(logged[logged >= 0], num_items, rows.action),
        checkpoint.facts["objective"]: policy_scores(
            checkpoint.actor, _known_rows(data, items, contexts)
        ),
    }
    return Evaluation(
        metrics={
            method: held_out_metrics(score, rows, data.bounds, ks)
            for method, score in scores.items()
        },
        rows=len(rows.action),
        unknown_rows=len(action) - len(rows.action),
        k=ks[-1],
        value=policy_value(checkpoint, data, _known_rows(data, items, contexts), known)
        if ope
        else None,
    )


def _schema_of(checkpoint: PolicyCheckpoint) -> LogSchema:
    """How to read logs: as in training, but that vectors and codes of items need not be there.

    The policy has its own; a later log need not come with the item table, nor is it copied.
    """
    schema = LogSchema.from_json(checkpoint.facts["schema"])
    if schema.items is None:
        return schema
    return schema.replace(items=replace(schema.items, codes=(), embedding=None, required=False))


def _renumber(theirs: Catalogue, ours: Catalogue) -> Tensor:
    """Our number of each of their numbers, -1 for an unknown id; entry -1 maps to -1 too."""
    if len(theirs) and len(ours) and theirs.is_integer != ours.is_integer:
        kinds = ["integers" if c.is_integer else "strings" for c in (theirs, ours)]
        raise ValueError(f"the log's ids are {kinds[0]}, the policy's are {kinds[1]}")
    numbers = ours.encode(raw_ids(theirs), unknown="missing")
    return torch.cat([numbers, numbers.new_tensor([-1])])  # so that index -1 finds -1


def _known_rows(data: SplitLog, items: Tensor, contexts: list[Tensor]) -> Iterator[TensorDictBase]:
    for block in data.test_batches(ROWS_SCORED):
        block = block[items[block["action"]] >= 0]
        if block.numel() == 0:
            continue
        block["action"] = items[block["action"]]
        block["observation", "history"] = items[block["observation", "history"]]
        if contexts:
            columns = block["observation", "context"].unbind(-1)
            block["observation", "context"] = torch.stack(
                [table[column] for table, column in zip(contexts, columns, strict=True)], -1
            )
        yield block
