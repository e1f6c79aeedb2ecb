"""``drpo train``: a log to policies, their offline table, checkpoints and item indices.

Everything lands in one folder: the converted log, one JSON a finished run, one checkpoint an
objective (of the first seed), ``results.json``, ``table.md`` and ``report.html``; and, under
``reward/``, the reward model of the log where an objective follows one. A command that is killed
and given again goes on where it stopped.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from torchrl_drpo.evaluation.ranking import QUALITY_LIST, CatalogueScores
from torchrl_drpo.files import (
    fingerprint,
    read_sealed_json,
    write_json,
    write_sealed_json,
    write_text,
)
from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint, saved_fingerprint
from torchrl_drpo.pipeline.baselines import baseline_scores, history_rows
from torchrl_drpo.pipeline.config.kinds import KINDS
from torchrl_drpo.pipeline.config.report import PAGE
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.crew import Crew, found_device, torchrun
from torchrl_drpo.pipeline.following import FINISHED, follow, forget, run_state, word_of
from torchrl_drpo.pipeline.kinds.training import PolicyTraining, Progress, Trained
from torchrl_drpo.pipeline.numbered import Numbering
from torchrl_drpo.pipeline.objectives.make import check_options
from torchrl_drpo.pipeline.objectives.named import following_model
from torchrl_drpo.pipeline.page.command import page_beside
from torchrl_drpo.pipeline.page.measured import context_rates, measured
from torchrl_drpo.pipeline.results import TrainResults
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward, reward_warnings
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.run_value import LoggedValue, ValueColumns, Values, static_policy
from torchrl_drpo.pipeline.scores import (
    ROWS_SCORED,
    counted_rows,
    held_out_intervals,
    held_out_metrics,
    policy_scores,
)
from torchrl_drpo.pipeline.terminal import print_json, progress_bars, say, show
from torchrl_drpo.spelling import counted


def command(config: TrainConfig) -> None:
    """``drpo train``."""
    with torchrun() as crew:
        if not crew.leads:
            follow(config, crew)
            return
        with progress_bars() as progress:
            results = run_train(config, progress, crew)
    drawn = page_beside(config.output)
    if config.json:
        print_json(results.to_json())
        return
    data = results.data
    users = f" of {counted(data['users'], 'user')}" if data["users"] else ""
    say(
        f"{counted(data['rows'], 'row')}{users} and {counted(data['items'], 'item')} "
        f"({counted(data['duplicates'], 'exact duplicate')} left out)"
    )
    if data["dropped"]:
        left = data["rows_read"] - data["rows"] - data["duplicates"]
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in data["dropped"].items())
        say(f"{left:,} faulty rows left out: {kinds}")
    for line in (*results.parts.sentences, *results.parts.warnings, *results.notes):
        say(line)
    show(results.table(upright=True))
    if results.reward_model is not None:
        facts = results.reward_model
        say(
            f"reward model: explains {facts['explained_variance']:.1%} of the variance of rewards "
            f"it had not seen, {facts['explained_variance_of_state']:.1%} without the item"
        )
        for line in reward_warnings(facts):
            say(line)
    for objective, folder in results.checkpoints.items():
        say(f"{objective}: drpo recommend --checkpoint {folder} --user ID")
    say(f"numbers: {config.output / 'results.json'}   table: {config.output / 'table.md'}")
    if drawn:
        say(f"page: {config.output / PAGE}")


def _quiet(name: str, step: int, steps: int) -> None:
    """No progress is shown."""


def run_train(
    config: TrainConfig, progress: Progress = _quiet, crew: Crew | None = None
) -> TrainResults:
    """Carries out ``drpo train``.

    Args:
        config: what to do.
        progress: called with a run's name, its step and its last step.
        crew: the ranks that train along, which wait in :func:`~.following.follow`.

    Returns:
        The results, which also lie in ``config.output`` as ``results.json`` and ``table.md``. The
        page of the run is the command's.

    Raises:
        ValueError: for a log, schema or setting that cannot be used; nothing that lay in the
            folder before is lost.
    """
    crew = Crew() if crew is None else crew
    config = replace(config, device=found_device(config.device))
    for name in config.objectives:
        check_options(name, config.objective(name), config.policy)
    data = SplitLog.open(
        config,
        config.output / "log",
        history_columns=config.model.history_columns,
        progress=progress,
    )
    # What cannot be learned from this log is refused before a model is fitted.
    _check_quality(config, data)
    data.train_buffer(config.batch_size, 0, "cpu")
    crew.call()
    training: PolicyTraining = KINDS[config.policy].load_training()(data, config, progress)
    crew.call()
    reward = training.reward
    baselines = baseline_scores(
        data,
        Numbering.identity(data),
        lambda: history_rows(data.test_batches(ROWS_SCORED)),
        data.held_out.action,
        data.num_items,
    )
    runs, widths, contexts = {}, {}, {}
    for name, scores in baselines.items():
        metrics, widths[name] = _metrics(scores, data, config)
        runs[name] = [metrics]
        contexts[name] = [context_rates(scores, data, config)]
    judge = _judge(data, config, training)
    values = {} if judge is None else _values_of_rankings(judge, data)
    for objective in training.objectives:
        found = [
            _finished_run(objective, seed, data, config, training, judge, progress, crew)
            for seed in config.every_seed
        ]
        runs[objective] = [report.metrics_from_json(run["metrics"]) for run in found]
        widths[objective] = report.metrics_from_json(found[0].get("half_widths", {}))
        contexts[objective] = [run.get("contexts") for run in found]
        if judge is not None:
            values[objective] = [run["off_policy"] for run in found]
    results = TrainResults(
        summary=report.summarise(runs, widths if config.seeds == 1 else None),
        runs=runs,
        data=data.facts | training.facts,
        config=config.settings()
        | {
            "objectives": training.objectives,
            "seeds": config.seeds,
            "first_seed": config.first_seed,
        },
        k=config.ks[-1],
        checkpoints={name: config.output / name for name in training.objectives},
        parts=data.parts,
        reward_model=None if reward is None else reward.facts,
        values=None if judge is None else ValueColumns(judge.of_log(), values),
        notes=tuple(training.notes),
        further=measured(data, config, reward, contexts),
    )
    _write(results, config.output, reward)
    return results


def _write(results: TrainResults, folder: Path, reward: LogReward | None) -> None:
    """Writes ``results.json`` and ``table.md``."""
    write_json(folder / "results.json", results.to_json())
    table = results.table()
    notes = [*results.notes]
    notes += [] if reward is None else [reward.describe(), *reward.warnings]
    said = " ".join((*results.parts.sentences, *results.parts.warnings))
    paragraphs = [f"{table.title}.", table.to_markdown(), table.note, said, *notes]
    write_text(folder / "table.md", "\n\n".join(paragraphs) + "\n")


def _check_quality(config: TrainConfig, data: SplitLog) -> None:
    """Raises ``ValueError`` where objectives compare rows that are all worth the same."""
    comparing = [name for name in config.objectives if config.objective(name).compares]
    if not (data.is_constant and comparing):
        return
    train = data.log.split("train").quality
    raise ValueError(
        f"all {len(train)} training rows have quality {train[0].item():g}, and {comparing[0]!r} "
        "learns from the differences between rows; train what imitates alone (--objectives bc), or "
        "declare a quality that tells rows apart in the log's schema"
    )


def _judge(data: SplitLog, config: TrainConfig, training: PolicyTraining) -> LoggedValue | None:
    """What estimates the policies' values; ``None`` without propensities or probabilities."""
    if not _has_value(data, config):
        return None
    return LoggedValue(data, None if training.reward is None else training.reward.model)


def _has_value(data: SplitLog, config: TrainConfig) -> bool:
    return data.log.schema.propensity is not None and KINDS[config.policy].probabilities


def _values_of_rankings(judge: LoggedValue, data: SplitLog) -> dict[str, list[Values]]:
    """Of drawing items alike, and in proportion to how often they were logged."""
    count = torch.bincount(data.train_items(), minlength=data.num_items)
    scores = {"random": torch.zeros(data.num_items), "popularity": count.double().add(1).log()}
    return {name: [judge.of(static_policy(score))] for name, score in scores.items()}


def _finished_run(
    objective: str,
    seed: int,
    data: SplitLog,
    config: TrainConfig,
    training: PolicyTraining,
    judge: LoggedValue | None,
    progress: Progress,
    crew: Crew,
) -> dict[str, Any]:
    """What is written of one run: read where the very same run has finished before, else trained.

    Its ``metrics`` and, where there is a judge, its ``off_policy`` estimates, among the rest.
    """
    name = f"{objective}, seed {seed}"
    identity = _identity(objective, seed, data, config, training)
    path = config.output / "runs" / f"{objective}-{seed}.json"
    old = _read_run(path)
    # Policies of both kinds lie at the same place: a killed run may have left another one there.
    saved = seed > config.first_seed or saved_fingerprint(config.output / objective) == identity
    wide = config.seeds > 1 or "half_widths" in old  # a run among several has no interval
    if old.get("fingerprint") == identity and saved and wide:
        progress(name, config.steps, config.steps)
        crew.call(FINISHED)
        return old
    started = time.perf_counter()
    crew.call(word_of(identity))
    state = run_state(config, objective, seed, word_of(identity))
    trained = training.train(objective, seed, state, partial(progress, name))
    longest = max(*config.ks, QUALITY_LIST)
    held_out = counted_rows(
        data.test_batches(ROWS_SCORED), f"{name}, held-out rows", len(data.test), progress
    )
    scores = policy_scores(trained.actor, held_out, longest=longest)
    metrics, half_widths = _metrics(scores, data, config)
    run = {
        "fingerprint": identity,
        "objective": objective,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "metrics": report.metrics_json(metrics),
    }
    if half_widths:
        run["half_widths"] = report.metrics_json(half_widths)
    rates = context_rates(scores, data, config)
    if rates is not None:
        run["contexts"] = rates
    if judge is not None:
        run["off_policy"] = judge.of(trained.actor)
    if following_model([objective]) and training.reward is not None:
        run["reward_model"] = training.reward.facts
    if seed == config.first_seed:
        _save_checkpoint(config.output / objective, run, trained, data, config, training)
    write_sealed_json(path, {**run, "curve": trained.curve})
    forget(state)
    return run


def _save_checkpoint(
    folder: Path,
    run: dict[str, Any],
    trained: Trained,
    data: SplitLog,
    config: TrainConfig,
    training: PolicyTraining,
) -> None:
    """Writes the policy with all that evaluating it and recommending with it need."""
    facts = {**run, "config": config.settings(), "data": data.facts}
    if training.reward is not None:  # by which evaluation knows it again, whoever follows it
        facts["reward_fingerprint"] = training.reward.fingerprint
    if config.model.history_times:  # other logs may count time otherwise
        facts["ticks_per_second"] = data.log.ticks_per_second
    PolicyCheckpoint(
        actor=trained.actor.cpu().eval(),
        policy=config.policy,
        model=trained.model,
        items=data.items,
        users=data.users(),
        contexts=list(data.log.contexts.values()),
        facts={**facts, "schema": data.log.schema.to_json()},
    ).save(folder)


def _metrics(
    scores: CatalogueScores, data: SplitLog, config: TrainConfig
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics; and, of a single seed, the half widths of their intervals over users."""
    if config.seeds > 1:
        return held_out_metrics(scores, data.held_out, data.bounds, config.ks), {}
    found = held_out_intervals(scores, data.held_out, data.bounds, config.ks)
    return (
        {name: each.mean for name, each in found.items()},
        {name: each.half_width for name, each in found.items()},
    )


def _read_run(path: Path) -> dict[str, Any]:
    try:
        return read_sealed_json(path)
    except (OSError, ValueError):  # never ran, damaged, or not by this program: train
        return {}


def _identity(
    objective: str,
    seed: int,
    data: SplitLog,
    config: TrainConfig,
    training: PolicyTraining,
) -> str:
    """What a run depends on; two runs of one fingerprint are the same run."""
    known = [objective, seed, config.settings(), data.identity, data.log.schema.to_json()]
    known += training.depends_on(objective)
    known += [config.options[objective]] if config.options.get(objective) else []
    # Runs that finished before there were these metrics are not to be read for them.
    known += ["lift, GAUC and rows within contexts"] if data.context_sizes else []
    # Nor those that finished before there were values.
    known += ["off-policy value"] if _has_value(data, config) else []
    return fingerprint(known)
