"""Runs on the inner training rows, which say how many steps are best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchrl_drpo.pipeline.config.kinds import KINDS
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.crew import team
from torchrl_drpo.pipeline.kinds.training import (
    Course,
    PolicyTraining,
    Progress,
    Trained,
    check_quality,
)
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.stopping import EarlyStopping
from torchrl_drpo.pipeline.table import number
from torchrl_drpo.pipeline.validation.inner import Judge, open_inner


@dataclass(frozen=True)
class Stopped:
    """A run that was looked at, and where it stopped.

    Attributes:
        trained: the policy of the best step, of the inner training rows.
        step: that step.
        metrics: what was found there, the numbers behind a lift among it.
        facts: all of it, as JSON data.
    """

    trained: Trained
    step: int
    metrics: dict[str, float]
    facts: dict[str, Any]


class InnerRuns:
    """Trains policies on the inner training rows, and says after which step they were best.

    Args:
        config: the settings; ``config.stopping`` says what is held out and looked at.
        folder: for the conversion of these rows, and a reward model of theirs.
        data: the log with its test rows, which are not read, where it is open.
        progress: called while it converts and fits.

    Raises:
        ValueError: for rows, a metric or an objective that is not to be had.
    """

    def __init__(
        self, config: TrainConfig, folder: Path, data: SplitLog | None, progress: Progress
    ) -> None:
        if team() is not None:
            raise ValueError(
                "early stopping looks at validation rows in one process; leave torchrun out, or "
                "--early-stopping"
            )
        self._folder = folder
        self.data = open_inner(config, folder / "log", data, progress)
        self.judge = Judge(self.data, config.stopping.validation_rows, config.ks)
        self.metric = config.stopping.metric(config.ks[-1])
        self.judge.check(self.metric)
        try:
            check_quality(config, self.data)
            self.data.train_buffer(config.batch_size, 0, "cpu")
            self.training = self.trained_with(config, progress)
        except ValueError as error:
            raise ValueError(f"of the training rows beside the validation rows: {error}") from None

    def describe(self) -> str:
        """What the steps were chosen on, in a sentence."""
        return f"Steps were chosen by {self.metric} on {self.judge.describe()}."

    def trained_with(self, config: TrainConfig, progress: Progress) -> PolicyTraining:
        """What trains policies on these rows, with other settings."""
        inner = replace(config, output=self._folder)
        training: PolicyTraining = KINDS[config.policy].load_training()(self.data, inner, progress)
        return training

    def run(
        self,
        training: PolicyTraining,
        patience: int,
        objective: str,
        seed: int,
        state: Path,
        progress: Callable[[int, int], None],
        curves: str = "",
    ) -> Stopped:
        """Trains one policy until it is no longer getting better.

        Args:
            training: of :meth:`trained_with`.
            patience: looks without a new best after which it stops.
            objective: its name.
            seed: of the run.
            state: of the run under way; a killed run goes on from it.
            progress: called with the step and the last step.
            curves: what its curves are called; by default the objective and the seed.
        """
        stopping = EarlyStopping(self.metric, patience)
        course = Course(judge=self.judge, stopping=stopping, curves=curves)
        trained = training.train(objective, seed, state, progress, course)
        best = stopping.best
        assert best is not None  # else restoring it was refused
        place = stopping.looks.index(best)
        metrics = {name: values[place][1] for name, values in trained.looks.items()}
        few = self.judge.few_worst_hits(self.metric, metrics)
        facts = {
            "metric": self.metric,
            "step": best.step,
            "value": number(best.value),
            "trained": stopping.looks[-1].step,
            "curve": [[look.step, number(look.value)] for look in stopping.looks],
            **({} if few is None else {"worst_hits": few[0], "worst_rows": few[1]}),
        }
        return Stopped(trained, best.step, metrics, facts)
