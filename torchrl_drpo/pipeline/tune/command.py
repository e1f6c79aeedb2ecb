"""``drpo tune``: trials of one objective's settings, a table of them, and the choice as a file."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from torchrl_drpo.files import fingerprint, write_json, write_text
from torchrl_drpo.pipeline.config.space import SETTINGS, SHAPE, applied
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.config.tune import TuneConfig
from torchrl_drpo.pipeline.crew import found_device
from torchrl_drpo.pipeline.kinds.training import Progress
from torchrl_drpo.pipeline.loggers import check_logger
from torchrl_drpo.pipeline.objectives.make import check_options
from torchrl_drpo.pipeline.objectives.own import digests_of_code
from torchrl_drpo.pipeline.stopping import NoBestStepError
from torchrl_drpo.pipeline.terminal import print_json, progress_bars, say, show
from torchrl_drpo.pipeline.tune.results import TuneResults
from torchrl_drpo.pipeline.tune.search import Carried, Trial, load_optuna, search
from torchrl_drpo.pipeline.validation.inner import CHOSEN_BY
from torchrl_drpo.pipeline.validation.runs import InnerRuns, Stopped


def command(config: TuneConfig) -> None:
    """``drpo tune``."""
    with progress_bars() as progress:
        results = run_tune(config, progress)
    if config.json:
        print_json(results.to_json())
        return
    say(results.validation)
    show(results.table())
    if results.warning:
        say(results.warning)
    if len(results.trials) > 1 and results.choice.steps == config.steps:
        say(f"it was best at its last step, {config.steps:,}: more --steps may be better")
    file, output = shlex.quote(str(config.output / "choice.json")), "runs/chosen"
    say(f"trial {results.choice.number} it is: drpo train --config {file} --output {output}")


def run_tune(config: TuneConfig, progress: Progress = lambda *_: None) -> TuneResults:
    """Carries out ``drpo tune``.

    Args:
        config: what to search.
        progress: called with a stage's name, what is done, and of how much.

    Returns:
        The results, which also lie in ``config.output`` as ``tune.json``, ``table.md`` and
        ``choice.json``.

    Raises:
        ValueError: for a log, setting or space that cannot be used, or if no trial gave a number.
        ModuleNotFoundError: without optuna.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("drpo tune runs in one process; leave torchrun out")
    check_logger(config.logger)
    load_optuna()  # missing, it is missed before anything is fitted
    config = replace(config, device=found_device(config.device))
    for dimension in config.dimensions:
        for value in dimension.ends:
            trial = applied(config.trained, {dimension.name: value})
            check_options(config.name, trial.objective(config.name), config.policy)
    inner = InnerRuns(config.trained, config.output / "validation", None, progress)
    for each in config.dimensions:
        if each.name == "batch_size":
            inner.data.train_buffer(max(map(int, each.ends)), 0, "cpu")
    for metric in config.wanted:
        inner.judge.check(metric)
    trials: list[Trial] = []
    carry = _Carrier(config, inner, progress, trials)
    for trial in search(
        carry,
        config.dimensions,
        journal=config.output / "trials.log",
        name=carry.identity,
        metrics=len(config.wanted),
        trials=config.trials,
        seed=config.search_seed,
        first=_own(config),
    ):
        trials.append(trial)
        progress("trials", len(trials), config.trials)
    if not any(trial.metrics for trial in trials):
        raise ValueError(
            f"{config.wanted[0]} was a finite number in none of {len(trials)} trials; choose "
            "another metric, or hold out more validation rows"
        )
    results = TuneResults(
        config.name, config.wanted, trials, config.keep, inner.describe(), options={}
    )
    chosen = results.choice
    results = replace(results, options=config.choice(chosen.values, chosen.steps))
    write_json(config.output / "tune.json", results.to_json())
    write_json(config.output / "choice.json", results.options)
    table = results.table()
    said = (table.note, results.validation, *([results.warning] if results.warning else []))
    text = "\n\n".join((f"{table.title}.", table.to_markdown(), *said))
    write_text(config.output / "table.md", text + "\n")
    return results


class _Carrier:
    """Carries out trials: runs of all seeds, and what their best looks found on average.

    Args:
        config: what is searched.
        inner: the rows.
        progress: called while a trial's reward model is fitted.
        ended: the trials so far; the next one's number is how many they are.

    Attributes:
        identity: what they all depend on.
    """

    def __init__(
        self, config: TuneConfig, inner: InnerRuns, progress: Progress, ended: Sequence[Trial]
    ) -> None:
        self._config, self._inner, self._progress, self._ended = config, inner, progress, ended
        self.identity = _identity(config, inner)

    def __call__(self, values: dict[str, Any]) -> Carried:
        """See :data:`~torchrl_drpo.pipeline.tune.search.Carry`."""
        config = applied(self._config.trained, values)
        training = self._inner.trained_with(config, self._progress)
        states = [self._state(config, seed) for seed in self._config.every_seed]
        runs = []
        try:
            for seed, state in zip(self._config.every_seed, states, strict=True):
                quietly = partial(_quiet, seed)
                patience, name = config.stopping.patience, self._config.name
                curves = f"trial-{len(self._ended)}-{seed}"
                runs.append(self._inner.run(training, patience, name, seed, state, quietly, curves))
        except NoBestStepError:
            means, steps, few = (), config.steps, None
        else:
            means = tuple(fmean(run.metrics[name] for run in runs) for name in self._config.wanted)
            means = means if all(map(math.isfinite, means)) else ()
            steps = round(fmean(run.step for run in runs))
            few = self._few_worst_hits(runs)
        for state in states:
            state.unlink(missing_ok=True)
        return Carried(means, steps, few if means else None)

    def _few_worst_hits(self, runs: Sequence[Stopped]) -> tuple[float, int] | None:
        """The fewest hits of worst rows that a lift counted as one, if any; and these rows."""
        found = (
            self._inner.judge.few_worst_hits(name, run.metrics)
            for name in self._config.wanted
            for run in runs
        )
        return min((few for few in found if few is not None), default=None)

    def _state(self, config: TrainConfig, seed: int) -> Path:
        """Where the state of a run lies until its trial has been told."""
        known = [self.identity, config.settings(), config.options.get(self._config.name, {}), seed]
        return self._config.output / "runs" / f"{fingerprint(known)[:16]}.state"


def _quiet(seed: int, step: int, steps: int) -> None:
    """Bars are of trials."""


def _identity(config: TuneConfig, inner: InnerRuns) -> str:
    """What a search depends on; more trials of the same go on from those that there are."""
    asked = [config.name, *digests_of_code(config.name, config.model.encoder)]
    asked += [config.settings(), config.options, [str(each) for each in config.dimensions]]
    asked += [list(config.wanted), config.search_seed, config.first_seed, config.seeds]
    asked += [inner.training.depends_on(config.name), inner.data.log.schema.to_json()]
    asked += [CHOSEN_BY] if any(each.startswith("lift") for each in config.wanted) else []
    return fingerprint([asked, inner.data.identity])


def _own(config: TuneConfig) -> Mapping[str, Any]:
    """The objective's and the settings' own values, as far as they lie in the space."""
    objective, own = config.objective(config.name), {}
    parts = (objective.options, objective.condition, objective.tilt)
    options = {
        f"{config.name}.{option}": value
        for part in parts
        if part is not None
        for option, value in vars(part).items()
    }
    options |= {name: getattr(config, name) for name in SETTINGS}
    options |= {name: getattr(config.model, name) for name in SHAPE}
    for each in config.dimensions:
        value = options.get(each.name)
        if each.choices and str(value) in each.choices:
            own[each.name] = str(value)
        elif _is_number(value) and not each.choices and each.low <= value <= each.high:
            own[each.name] = value
    return own


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
