"""``drpo train``: a log to catalogue policies, their offline table, checkpoints and item indices.

Everything lands in one folder: the converted log, one JSON a finished run, one checkpoint an
objective (of the first seed), ``results.json`` and ``table.md``; and, under ``reward/``, the
reward model of the log where an objective follows one. A command that is killed and given again
goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchrl.modules import ProbabilisticActor
from torchrl.record.loggers import CSVLogger, TensorboardLogger
from torchrl.record.loggers.common import Logger

from torchrl_drpo.evaluation.ranking import CatalogueScores
from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.experiments import catalogue_report as report
from torchrl_drpo.experiments.artifacts import MANIFEST, write_json, write_text
from torchrl_drpo.experiments.catalogue_checkpoint import CatalogueCheckpoint
from torchrl_drpo.experiments.catalogue_config import TrainCatalogueConfig
from torchrl_drpo.experiments.catalogue_data import CatalogueData
from torchrl_drpo.experiments.catalogue_evaluation import (
    ROWS_SCORED,
    held_out_metrics,
    policy_scores,
    popularity_scores,
    random_scores,
)
from torchrl_drpo.experiments.catalogue_objectives import MODELLED_OBJECTIVES, make_objective
from torchrl_drpo.experiments.catalogue_reward_fit import LogReward, RewardFit
from torchrl_drpo.experiments.trainer import OfflineTrainer, TrainConfig
from torchrl_drpo.policies.catalogue import make_catalogue_actor
from torchrl_drpo.report.tables import Table
from torchrl_drpo.rewards import AnnotatedBuffer

RESULTS_VERSION = 1
#: Called with a run's name, its step and its last step.
Progress = Callable[[str, int, int], None]


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
        """Strict JSON data; what is not a number is ``null``."""
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
        """The table; see :func:`~torchrl_drpo.experiments.catalogue_report.table`."""
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
    data = CatalogueData.open(config, config.output / "log")
    reward = _reward_model(data, config, progress)
    target = data.held_out.action
    popularity = popularity_scores(data.train_items(), data.num_items, target)
    runs = {
        "random": [_metrics(random_scores(data.num_items, target), data, config)],
        "popularity": [_metrics(popularity, data, config)],
    }
    for objective in config.objectives:
        runs[objective] = [
            _metrics_of_run(objective, seed, data, config, reward, progress)
            for seed in range(config.seeds)
        ]
    results = CatalogueResults(
        summary=report.summarise(runs),
        runs=runs,
        data=data.facts,
        config=config.settings() | {"objectives": config.objectives, "seeds": config.seeds},
        k=config.ks[-1],
        checkpoints={name: config.output / name for name in config.objectives},
        reward_model=None if reward is None else reward.facts,
    )
    write_json(config.output / "results.json", results.to_json())
    table = results.table()
    notes = [table.note] if reward is None else [table.note, reward.describe()]
    paragraphs = [f"{table.title}.", table.to_markdown(), *notes]
    write_text(config.output / "table.md", "\n\n".join(paragraphs) + "\n")
    return results


def _reward_model(
    data: CatalogueData, config: TrainCatalogueConfig, progress: Progress
) -> LogReward | None:
    """The log's reward model, where an objective follows one.

    Raises:
        ValueError: if it explains nothing.
    """
    if not MODELLED_OBJECTIVES.keys() & set(config.objectives):
        return None
    fit = RewardFit(data, config.output / "reward", history=config.history, device=config.device)
    reward = fit.open(partial(progress, "reward model, folds"))
    reward.check()
    return reward


def _metrics_of_run(
    objective: str,
    seed: int,
    data: CatalogueData,
    config: TrainCatalogueConfig,
    reward: LogReward | None,
    progress: Progress,
) -> dict[str, float]:
    """Metrics of one run: read where the very same run has finished before, else trained."""
    name = f"{objective}, seed {seed}"
    if objective not in MODELLED_OBJECTIVES:
        reward = None
    fingerprint = _fingerprint(objective, seed, data, config, reward)
    path = config.output / "runs" / f"{objective}-{seed}.json"
    old = _read_run(path)
    saved = seed > 0 or (config.output / objective / MANIFEST).is_file()
    if old.get("fingerprint") == fingerprint and saved:
        progress(name, config.steps, config.steps)
        return {key: math.nan if v is None else v for key, v in old["metrics"].items()}
    started = time.perf_counter()
    state = path.with_name(f"{objective}-{seed}-{fingerprint[:12]}.state")
    actor, model, curve = _train(
        objective, seed, data, config, reward, state, partial(progress, name)
    )
    metrics = _metrics(policy_scores(actor, data.test_batches(ROWS_SCORED)), data, config)
    run = {
        "fingerprint": fingerprint,
        "objective": objective,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "metrics": report.metrics_json(metrics),
    }
    if reward is not None:
        run["reward_model"] = reward.facts
    if seed == 0:
        facts = {**run, "config": config.settings(), "data": data.facts}
        CatalogueCheckpoint(
            actor=actor.cpu().eval(),
            model=model,
            items=data.items,
            users=data.users(),
            contexts=list(data.log.contexts.values()),
            facts={**facts, "schema": data.log.schema.to_json()},
        ).save(config.output / objective)
    write_json(path, {**run, "curve": curve})
    state.unlink(missing_ok=True)
    return metrics


def _train(
    objective: str,
    seed: int,
    data: CatalogueData,
    config: TrainCatalogueConfig,
    reward: LogReward | None,
    state: Path,
    progress: Callable[[int, int], None],
) -> tuple[ProbabilisticActor, dict[str, Any], dict[str, Any]]:
    """The trained actor, the arguments that made it, and its training curve."""
    torch.manual_seed(seed)
    model = asdict(config.model) | {
        "num_items": data.num_items,
        "history": config.history,
        "context_sizes": data.context_sizes,
    }
    actor = make_catalogue_actor(**model, device=config.device)
    buffer = data.train_buffer(config.batch_size, seed, config.device)
    trainer = OfflineTrainer(
        make_objective(objective, actor, reward and reward.model).to(config.device),
        buffer if reward is None else AnnotatedBuffer(buffer, reward.columns),
        TrainConfig(
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            log_every=20,
            checkpoint_every=200,
        ),
        progress=lambda step, values: progress(step, config.steps),
        loggers=_loggers(config, f"{objective}-{seed}"),
        checkpoint=state,  # of a run under way: a killed one goes on from it
    )
    return actor, model, trainer.run().training


def _loggers(config: TrainCatalogueConfig, run: str) -> list[Logger]:
    if config.logger == "none":
        return []
    kind = CSVLogger if config.logger == "csv" else TensorboardLogger
    return [kind(exp_name=run, log_dir=str(config.output / "curves"))]


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
    reward: LogReward | None,
) -> str:
    """What a run depends on; two runs of one fingerprint are the same run."""
    known = [objective, seed, config.settings(), data.identity, data.log.schema.to_json()]
    known += [] if reward is None else [reward.fingerprint]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
