"""What ``drpo tune`` found: trials, the frontier between two metrics, and the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchrl_drpo.pipeline.stopping import say_few
from torchrl_drpo.pipeline.table import number
from torchrl_drpo.pipeline.tune.search import Trial, chosen, frontier
from torchrl_drpo.report.tables import Table

NOTE = (
    "Values are those of the best look at validation rows inside the training period; the rows of "
    "drpo train's table were not read. The best of many trials looks better than it is: train the "
    "choice, and read that table."
)


@dataclass(frozen=True)
class TuneResults:
    """What a search found.

    Attributes:
        objective: which was tuned.
        metrics: names of what was to be largest.
        trials: all of them, in order.
        keep: see :func:`~torchrl_drpo.pipeline.tune.search.chosen`.
        validation: what they were judged on, in a sentence.
        options: of the choice, as ``drpo train --config`` reads them.

    """

    objective: str
    metrics: tuple[str, ...]
    trials: Sequence[Trial]
    keep: float
    validation: str
    options: dict[str, Any]

    @property
    def choice(self) -> Trial:
        """The trial whose settings are recommended."""
        return chosen(self.trials, self.keep)

    @property
    def warning(self) -> str:
        """That the choice's lift is over too few hits to have a size; empty where it has one."""
        few = self.choice.few
        return "" if few is None else f"Trial {self.choice.number}: {say_few(*few)}"

    def to_json(self) -> dict[str, Any]:
        """Strict JSON data."""
        out: dict[str, Any] = {
            "objective": self.objective,
            "metrics": list(self.metrics),
            "validation": self.validation,
            "trials": [
                {
                    "number": trial.number,
                    "values": trial.values,
                    "metrics": [number(value) for value in trial.metrics],
                    "steps": trial.steps,
                    **_counts(trial.few),
                }
                for trial in self.trials
            ],
            "choice": self.choice.number,
        }
        if self.warning:
            out["warning"] = self.warning
        if len(self.metrics) > 1:
            out["frontier"] = [trial.number for trial in frontier(self.trials)]
        return out

    def table(self) -> Table:
        """All trials, the best first; ``*`` marks the choice, ``+`` the frontier."""
        names = list(self.trials[0].values)
        front = {trial.number for trial in frontier(self.trials)} if len(self.metrics) > 1 else {}
        ordered = sorted(
            self.trials, key=lambda trial: (trial.metrics, -trial.number), reverse=True
        )
        body = [
            [
                f"{trial.number}{self._mark(trial, front)}",
                *(_shown(trial.values[name]) for name in names),
                str(trial.steps),
                *(f"{value:.4f}" for value in trial.metrics or [float("nan")] * len(self.metrics)),
            ]
            for trial in ordered
        ]
        header = ["trial", *names, "steps", *(f"{metric} ↑" for metric in self.metrics)]
        return Table(f"{self.objective}: {len(self.trials)} trials", header, body, note=NOTE)

    def _mark(self, trial: Trial, front: Any) -> str:
        if trial.number == self.choice.number:
            return " *"
        return " +" if trial.number in front else ""


def _counts(few: tuple[float, int] | None) -> dict[str, float]:
    return {} if few is None else {"worst_hits": few[0], "worst_rows": few[1]}


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
