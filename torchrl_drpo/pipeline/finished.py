"""One run of ``drpo train``: read where the very same has finished, else trained and written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torchrl_drpo.evaluation.ranking import QUALITY_LIST, CatalogueScores
from torchrl_drpo.files import fingerprint, read_sealed_json, write_sealed_json
from torchrl_drpo.functional.checks import DivergedError
from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint, saved_fingerprint
from torchrl_drpo.pipeline.config.kinds import KINDS
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.crew import Crew
from torchrl_drpo.pipeline.following import FINISHED, forget, run_state, word_of
from torchrl_drpo.pipeline.kinds.training import Course, PolicyTraining, Progress, Trained
from torchrl_drpo.pipeline.measured import context_rates
from torchrl_drpo.pipeline.objectives.named import following_model
from torchrl_drpo.pipeline.objectives.own import digests_of_code, file_name
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.run_value import LoggedValue
from torchrl_drpo.pipeline.scores import (
    ROWS_SCORED,
    counted_rows,
    held_out_intervals,
    held_out_metrics,
    policy_scores,
)
from torchrl_drpo.pipeline.validation.inner import CHOSEN_BY
from torchrl_drpo.pipeline.validation.runs import InnerRuns
from torchrl_drpo.references import is_reference


@dataclass(frozen=True)
class TrainRuns:
    """The runs of one command.

    Attributes:
        data: the log.
        config: the settings.
        training: what trains policies.
        judge: what estimates their values; ``None`` without propensities or probabilities.
        inner: what says how many steps are best; ``None`` where all are taken.
        progress: called with a run's name, its step and its last step.
        crew: the ranks that train along.
    """

    data: SplitLog
    config: TrainConfig
    training: PolicyTraining
    judge: LoggedValue | None
    inner: InnerRuns | None
    progress: Progress
    crew: Crew

    def finished(self, objective: str, seed: int) -> dict[str, Any]:
        """What is written of one run, read where the very same run has finished before.

        Its ``metrics`` and, where there is a judge, its ``off_policy`` estimates, among the rest.
        """
        config, name = self.config, run_name(objective, seed)
        identity = self._identity(objective, seed)
        folder = config.output / file_name(objective)
        path = config.output / "runs" / f"{folder.name}-{seed}.json"
        old = _read_run(path)
        # Policies of both kinds lie at the same place: a killed run may have left another one.
        saved = seed > config.first_seed or saved_fingerprint(folder) == identity
        wide = config.seeds > 1 or "half_widths" in old  # a run among several has no interval
        if old.get("fingerprint") == identity and saved and wide:
            self.progress(name, config.steps, config.steps)
            self.crew.call(FINISHED)
            return old
        started = time.perf_counter()
        self.crew.call(word_of(identity))
        state = run_state(config, objective, seed, word_of(identity))
        trained, stopped = self._trained(objective, seed, state)
        run = {
            "fingerprint": identity,
            "objective": objective,
            "seed": seed,
            **self._judged(name, trained),
        }
        run["seconds"] = round(time.perf_counter() - started, 1)
        if stopped is not None:
            run["early_stopping"] = stopped
        if following_model([objective]) and self.training.reward is not None:
            run["reward_model"] = self.training.reward.facts
        if seed == config.first_seed:
            self._save_checkpoint(folder, run, trained)
        write_sealed_json(path, {**run, "curve": trained.curve})
        for each in (state, _inner_state(state)):
            forget(each)
        return run

    def _trained(
        self, objective: str, seed: int, state: Path
    ) -> tuple[Trained, dict[str, Any] | None]:
        """The policy; and where training stopped early, which step was best."""
        name = run_name(objective, seed)
        if self.inner is None:
            progress = partial(self.progress, name)
            return self.training.train(objective, seed, state, progress), None
        stopped = self.inner.run(
            self.inner.training,
            self.config.stopping.patience,
            objective,
            seed,
            _inner_state(state),
            partial(self.progress, looked_at(name)),
        )
        refit = self.config.stopping.refit
        facts = stopped.facts | {"refit": refit}
        if not refit:
            return stopped.trained, facts
        course, progress = Course(until=stopped.step), partial(self.progress, name)
        return self.training.train(objective, seed, state, progress, course), facts

    def _judged(self, name: str, trained: Trained) -> dict[str, Any]:
        """What the held-out rows say of a policy, as JSON data."""
        data, longest = self.data, max(*self.config.ks, QUALITY_LIST)
        held_out = counted_rows(
            data.test_batches(ROWS_SCORED), f"{name}, held-out rows", len(data.test), self.progress
        )
        try:
            scores = policy_scores(trained.actor, held_out, longest=longest)
        except DivergedError as error:
            raise DivergedError(f"{name}: {error}") from None
        metrics, half_widths = metrics_of(scores, data, self.config)
        found: dict[str, Any] = {"metrics": report.metrics_json(metrics)}
        if half_widths:
            found["half_widths"] = report.metrics_json(half_widths)
        rates = context_rates(scores, data, self.config)
        if rates is not None:
            found["contexts"] = rates
        if self.judge is not None:
            found["off_policy"] = self.judge.of(trained.actor)
        return found

    def _save_checkpoint(self, folder: Path, run: dict[str, Any], trained: Trained) -> None:
        """Writes the policy with all that evaluating it and recommending with it need."""
        data, config = self.data, self.config
        facts = {**run, "config": config.settings(), "data": data.facts}
        if self.training.reward is not None:  # evaluation knows it again, whoever follows it
            facts["reward_fingerprint"] = self.training.reward.fingerprint
        if is_reference(config.model.encoder):  # which may change; loading says so
            (code,) = digests_of_code("", config.model.encoder)
            facts["code"] = {config.model.encoder: code}
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

    def _identity(self, objective: str, seed: int) -> str:
        """What a run depends on; two runs of one fingerprint are the same run."""
        config, data = self.config, self.data
        known = [objective, seed, config.settings(), data.identity, data.log.schema.to_json()]
        known += self.training.depends_on(objective)
        known += [config.options[objective]] if config.options.get(objective) else []
        known += digests_of_code(objective, config.model.encoder)
        # Runs that finished before there were these metrics are not to be read for them.
        known += ["lift, GAUC and rows within contexts"] if data.context_sizes else []
        # Nor those that finished before there were values.
        known += ["off-policy value"] if has_value(data, config) else []
        by_lift = self.inner is not None and self.inner.metric.startswith("lift")
        known += [CHOSEN_BY] if by_lift else []
        return fingerprint(known)


def run_name(objective: str, seed: int) -> str:
    """What a run is called where its progress is told."""
    return f"{objective}, seed {seed}"


def looked_at(name: str) -> str:
    """What a run is called while it is trained to find its best step."""
    return f"{name}, looked at"


def has_value(data: SplitLog, config: TrainConfig) -> bool:
    """Whether what policies would have earned can be estimated."""
    return data.log.schema.propensity is not None and KINDS[config.policy].probabilities


def metrics_of(
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


def _inner_state(state: Path) -> Path:
    """Where the state of the run lies that is looked at."""
    return state.with_name(f"{state.stem}-inner{state.suffix}")


def _read_run(path: Path) -> dict[str, Any]:
    try:
        return read_sealed_json(path)
    except (OSError, ValueError):  # never ran, damaged, or not by this program: train
        return {}
