"""``drpo train``: a log to policies, their offline table, checkpoints and item indices.

Everything lands in one folder: the converted log, one JSON a finished run, one checkpoint an
objective (of the first seed), ``results.json`` and ``table.md``; and, under ``reward/``, the
reward model of the log where an objective follows one. A command that is killed and given again
goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from torchrl_drpo.evaluation.quality_bounds import QualityBounds
from torchrl_drpo.evaluation.ranking import CatalogueScores
from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.files import write_json, write_text
from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.artifacts.checkpoint import CatalogueCheckpoint, saved_fingerprint
from torchrl_drpo.pipeline.config import TrainCatalogueConfig
from torchrl_drpo.pipeline.kinds.catalogue import (
    CatalogueTraining,
    PolicyTraining,
    Progress,
)
from torchrl_drpo.pipeline.kinds.embedding import EmbeddingTraining
from torchrl_drpo.pipeline.objectives import FOLLOW_A_MODEL
from torchrl_drpo.pipeline.rows import CatalogueData
from torchrl_drpo.pipeline.scores import (
    ROWS_SCORED,
    held_out_metrics,
    policy_scores,
    popularity_scores,
    random_scores,
)
from torchrl_drpo.report.tables import Table

RESULTS_VERSION = 1
_KINDS: dict[str, Callable[[CatalogueData, TrainCatalogueConfig, Progress], PolicyTraining]] = {
    "catalogue": CatalogueTraining,
    "embedding": EmbeddingTraining,
}


@dataclass(frozen=True)
class CatalogueResults:
    """What ``drpo train`` found.

    Attributes:
        summary: by method and metric, the mean over seeds with its 95% t interval.
        runs: by method, the metrics of each seed.
        data: counts of the log: rows, users, items, rows of each part, ...
        config: the settings, as JSON data.
        k: list length of the table.
        checkpoints: by objective, the folder of the first seed's policy.
        reward_model: how good the log's reward model is, where an objective followed one.
    """

    summary: dict[str, dict[str, Interval]]
    runs: dict[str, list[dict[str, float]]]
    data: dict[str, Any]
    config: dict[str, Any]
    k: int
    checkpoints: dict[str, Path]
    reward_model: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Strict JSON data; what is not a number is ``null``, an infinity ``"inf"``."""
        reference = next(iter(self.checkpoints))  # the first objective that was asked for
        paired = report.differences(self.runs, reference)
        modelled = {} if self.reward_model is None else {"reward_model": self.reward_model}
        return {
            "version": RESULTS_VERSION,
            "config": self.config,
            "data": self.data,
            **modelled,
            "summary": report.summary_json(self.summary),
            f"differences_from_{reference}": report.summary_json(paired),
            "runs": {
                method: [report.metrics_json(seed) for seed in seeds]
                for method, seeds in self.runs.items()
            },
        }

    def table(self, *, upright: bool = False) -> Table:
        """The table; see :func:`~torchrl_drpo.pipeline.table.table`."""
        seeds = max(len(runs) for runs in self.runs.values())
        over = f"{seeds} seeds, 95% t intervals" if seeds > 1 else "1 seed"
        title = f"{self.data['parts']['test']:,} held-out rows, {over}"
        return report.table(self.summary, title, self.k, upright=upright)


def _quiet(name: str, step: int, steps: int) -> None:
    """No progress is shown."""


def run_train(config: TrainCatalogueConfig, progress: Progress = _quiet) -> CatalogueResults:
    """Carries out ``drpo train``.

    Args:
        config: what to do.
        progress: called with a run's name, its step and its last step.

    Returns:
        The results, which also lie in ``config.output`` as ``results.json`` and ``table.md``.

    Raises:
        ValueError: for a log, schema or setting that cannot be used; nothing that lay in the
            folder before is lost.
    """
    _check_device(config.device)
    data = CatalogueData.open(config, config.output / "log")
    # Rows that are worth the same, or too few for a batch, are refused before a model is fitted.
    QualityBounds.from_quality(data.log.split("train").quality)
    data.train_buffer(config.batch_size, 0, "cpu")
    training = _KINDS[config.policy](data, config, progress)
    reward = training.reward
    target = data.held_out.action
    popularity = popularity_scores(data.train_items(), data.num_items, target)
    runs = {
        "random": [_metrics(random_scores(data.num_items, target), data, config)],
        "popularity": [_metrics(popularity, data, config)],
    }
    for objective in config.objectives:
        runs[objective] = [
            _metrics_of_run(objective, seed, data, config, training, progress)
            for seed in range(config.seeds)
        ]
    results = CatalogueResults(
        summary=report.summarise(runs),
        runs=runs,
        data=data.facts | training.facts,
        config=config.settings() | {"objectives": config.objectives, "seeds": config.seeds},
        k=config.ks[-1],
        checkpoints={name: config.output / name for name in config.objectives},
        reward_model=None if reward is None else reward.facts,
    )
    write_json(config.output / "results.json", results.to_json())
    table = results.table()
    notes = [*training.notes, *([] if reward is None else [reward.describe()])]
    paragraphs = [f"{table.title}.", table.to_markdown(), table.note, *notes]
    write_text(config.output / "table.md", "\n\n".join(paragraphs) + "\n")
    return results


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter from a build without CUDA
        why = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({why}); try 'cpu'") from None


def _metrics_of_run(
    objective: str,
    seed: int,
    data: CatalogueData,
    config: TrainCatalogueConfig,
    training: PolicyTraining,
    progress: Progress,
) -> dict[str, float]:
    """Metrics of one run: read where the very same run has finished before, else trained."""
    name = f"{objective}, seed {seed}"
    fingerprint = _fingerprint(objective, seed, data, config, training)
    path = config.output / "runs" / f"{objective}-{seed}.json"
    old = _read_run(path)
    # Policies of both kinds lie at the same place: a killed run may have left another one there.
    saved = seed > 0 or saved_fingerprint(config.output / objective) == fingerprint
    if old.get("fingerprint") == fingerprint and saved:
        progress(name, config.steps, config.steps)
        return report.metrics_from_json(old["metrics"])
    started = time.perf_counter()
    state = path.with_name(f"{objective}-{seed}-{fingerprint[:12]}.state")
    trained = training.train(objective, seed, state, partial(progress, name))
    metrics = _metrics(policy_scores(trained.actor, data.test_batches(ROWS_SCORED)), data, config)
    run = {
        "fingerprint": fingerprint,
        "objective": objective,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "metrics": report.metrics_json(metrics),
    }
    if objective in FOLLOW_A_MODEL and training.reward is not None:
        run["reward_model"] = training.reward.facts
    if seed == 0:
        facts = {**run, "config": config.settings(), "data": data.facts}
        CatalogueCheckpoint(
            actor=trained.actor.cpu().eval(),
            policy=config.policy,
            model=trained.model,
            items=data.items,
            users=data.users(),
            contexts=list(data.log.contexts.values()),
            facts={**facts, "schema": data.log.schema.to_json()},
        ).save(config.output / objective)
    write_json(path, {**run, "curve": trained.curve})
    state.unlink(missing_ok=True)
    return metrics


def _metrics(
    scores: CatalogueScores, data: CatalogueData, config: TrainCatalogueConfig
) -> dict[str, float]:
    return held_out_metrics(scores, data.held_out, data.bounds, config.ks)


def _read_run(path: Path) -> dict[str, Any]:
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):  # never ran, or not by this program: train
        return {}
    return run if isinstance(run, dict) else {}


def _fingerprint(
    objective: str,
    seed: int,
    data: CatalogueData,
    config: TrainCatalogueConfig,
    training: PolicyTraining,
) -> str:
    """What a run depends on; two runs of one fingerprint are the same run."""
    known = [objective, seed, config.settings(), data.identity, data.log.schema.to_json()]
    known += training.depends_on(objective)
    # Runs that finished before there were metrics within contexts are not to be read for them.
    known += ["within contexts"] if data.context_sizes else []
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
