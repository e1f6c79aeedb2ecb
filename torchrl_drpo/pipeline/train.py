"""``drpo train``: a log to policies, their offline table, checkpoints and item indices.

Everything lands in one folder: the converted log, one JSON a finished run, one checkpoint an
objective (of the first seed), ``results.json``, ``table.md`` and ``report.html``; and, under
``reward/``, the reward model of the log where an objective follows one. A command that is killed
and given again goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from torchrl_drpo.files import write_json, write_text
from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.baselines import baseline_scores, history_rows
from torchrl_drpo.pipeline.config.kinds import KINDS
from torchrl_drpo.pipeline.config.report import PAGE
from torchrl_drpo.pipeline.config.train import SCHEMA_COPY, TrainConfig
from torchrl_drpo.pipeline.crew import Crew, found_device, torchrun
from torchrl_drpo.pipeline.finished import TrainRuns, has_value, looked_at, metrics_of, run_name
from torchrl_drpo.pipeline.following import follow
from torchrl_drpo.pipeline.kinds.training import PolicyTraining, Progress, check_quality
from torchrl_drpo.pipeline.loggers import check_logger
from torchrl_drpo.pipeline.measured import context_rates, measured
from torchrl_drpo.pipeline.numbered import Numbering
from torchrl_drpo.pipeline.objectives.make import check_options
from torchrl_drpo.pipeline.objectives.own import file_name
from torchrl_drpo.pipeline.page.command import page_beside
from torchrl_drpo.pipeline.results import TrainResults
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward, reward_warnings
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.run_value import LoggedValue, ValueColumns, Values, static_policy
from torchrl_drpo.pipeline.scores import ROWS_SCORED
from torchrl_drpo.pipeline.terminal import AllRuns, print_json, progress_bars, say, show
from torchrl_drpo.pipeline.validation.runs import InnerRuns
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
        several = sum(data["dropped"].values()) > left
        say(f"{left:,} faulty rows left out: {kinds}{'; some have several' if several else ''}")
    for line in (
        *results.parts.sentences,
        *results.parts.warnings,
        *results.notes,
        *results.stop_sentences,
    ):
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
    check_logger(config.logger)
    for name in config.objectives:
        check_options(name, config.objective(name), config.policy)
    data = SplitLog.open(
        config,
        config.output / "log",
        history_columns=config.model.history_columns,
        progress=progress,
    )
    # What cannot be learned from this log is refused before a model is fitted.
    check_quality(config, data)
    data.train_buffer(config.batch_size, 0, "cpu")
    crew.call()
    training: PolicyTraining = KINDS[config.policy].load_training()(data, config, progress)
    crew.call()
    reward = training.reward
    runs, widths, contexts = _of_rankings(data, config)
    judge = _judge(data, config, training)
    values = {} if judge is None else _values_of_rankings(judge, data)
    inner, objectives, notes = _inner(config, data, training, progress)
    names = [run_name(objective, seed) for objective in objectives for seed in config.every_seed]
    if inner is not None and not config.stopping.refit:  # of which there is nothing else to tell
        names = [looked_at(name) for name in names]
    told = AllRuns(progress, names, config.steps)
    made = TrainRuns(data, config, training, judge, inner, told, crew)
    stops = {}
    for objective in objectives:
        found = [made.finished(objective, seed) for seed in config.every_seed]
        if inner is not None:
            stops[objective] = [run["early_stopping"] for run in found]
        runs[objective] = [report.metrics_from_json(run["metrics"]) for run in found]
        widths[objective] = report.metrics_from_json(found[0].get("half_widths", {}))
        contexts[objective] = [run.get("contexts") for run in found]
        if judge is not None:
            values[objective] = [run["off_policy"] for run in found]
    results = TrainResults(
        summary=report.summarise(runs, widths if config.seeds == 1 else None),
        runs=runs,
        data=data.facts | training.facts,
        config=config.to_file(objectives),
        k=config.ks[-1],
        checkpoints={name: config.output / file_name(name) for name in objectives},
        parts=data.parts,
        reward_model=None if reward is None else reward.facts,
        values=None if judge is None else ValueColumns(judge.of_log(), values),
        notes=(*training.notes, *notes),
        further=measured(data, config, reward, contexts),
        stops=stops,
    )
    _write(results, config, reward)
    return results


def _of_rankings(
    data: SplitLog, config: TrainConfig
) -> tuple[
    dict[str, list[dict[str, float]]],
    dict[str, dict[str, float]],
    dict[str, list[dict[str, Any] | None]],
]:
    """Metrics of the rankings that need no policy, half-widths of their intervals, and contexts."""
    baselines = baseline_scores(
        data,
        Numbering.identity(data),
        lambda: history_rows(data.test_batches(ROWS_SCORED)),
        data.held_out.action,
        data.num_items,
    )
    runs, widths, contexts = {}, {}, {}
    for name, scores in baselines.items():
        metrics, widths[name] = metrics_of(scores, data, config)
        runs[name] = [metrics]
        contexts[name] = [context_rates(scores, data, config)]
    return runs, widths, contexts


def _inner(
    config: TrainConfig, data: SplitLog, training: PolicyTraining, progress: Progress
) -> tuple[InnerRuns | None, tuple[str, ...], list[str]]:
    """What says how many steps are best, what is trained, and sentences on both."""
    if not config.stopping.early_stopping:
        return None, training.objectives, []
    left = {name: given for name, given in config.options.items() if name in training.objectives}
    wanted = replace(config, objectives=training.objectives, options=left, set=())
    if config.are_usual and training.objectives == config.objectives:
        wanted = config  # of which some may be left out here, too
    inner = InnerRuns(wanted, config.output / "validation", data, progress)
    said = [note for note in inner.training.notes if "left out" in note]
    return inner, inner.training.objectives, [inner.describe(), *said]


def _write(results: TrainResults, config: TrainConfig, reward: LogReward | None) -> None:
    """Writes ``results.json`` and ``table.md``."""
    folder = config.output
    if config.schema is not None:  # so that results.json can be given as --config anywhere
        text = config.schema.read_text(encoding="utf-8")
        write_text(folder / SCHEMA_COPY / config.schema.name, text)
    write_json(folder / "results.json", results.to_json())
    table = results.table()
    notes = [*results.notes, *results.stop_sentences]
    notes += [] if reward is None else [reward.describe(), *reward.warnings]
    said = " ".join((*results.parts.sentences, *results.parts.warnings))
    paragraphs = [f"{table.title}.", table.to_markdown(), table.note, said, *notes]
    write_text(folder / "table.md", "\n\n".join(paragraphs) + "\n")


def _judge(data: SplitLog, config: TrainConfig, training: PolicyTraining) -> LoggedValue | None:
    """What estimates the policies' values; ``None`` without propensities or probabilities."""
    if not has_value(data, config):
        return None
    return LoggedValue(data, None if training.reward is None else training.reward.model)


def _values_of_rankings(judge: LoggedValue, data: SplitLog) -> dict[str, list[Values]]:
    """Of drawing items alike, and in proportion to how often they were logged."""
    count = torch.bincount(data.train_items(), minlength=data.num_items)
    scores = {"random": torch.zeros(data.num_items), "popularity": count.double().add(1).log()}
    return {name: [judge.of(static_policy(score))] for name, score in scores.items()}
