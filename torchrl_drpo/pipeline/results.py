"""What ``drpo train`` found: numbers by method and seed, as JSON data and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torchrl_drpo.evaluation.statistics import Interval
from torchrl_drpo.pipeline import table as report
from torchrl_drpo.pipeline.objectives.own import file_name
from torchrl_drpo.pipeline.parts import PartFacts
from torchrl_drpo.pipeline.policy_value import VERDICTS
from torchrl_drpo.pipeline.run_value import ValueColumns
from torchrl_drpo.pipeline.stopping import describe_stop
from torchrl_drpo.report.tables import Table

RESULTS_VERSION = 1
#: What the table says of its intervals where no second seed gives any.
ONE_SEED = (
    "Intervals are 95%, over {unit} (delete-a-group jackknife, up to 30 groups): these policies on "
    "other {unit}. What another seed would change they do not tell; --seeds 3 does."
)


@dataclass(frozen=True)
class TrainResults:
    """What ``drpo train`` found.

    Attributes:
        summary: by method and metric, the mean over seeds with its 95% t interval; of one seed, its
            value with a 95% interval over users (over rows, where the log has none).
        runs: by method, the metrics of each seed.
        data: counts of the log: rows, users, items, rows of each part, ...
        config: the settings, as JSON data.
        k: list length of the table.
        checkpoints: by objective, the folder of the first seed's policy.
        parts: what was learned from and what was held out.
        reward_model: how good the log's reward model is, where an objective followed one.
        values: what the policies would have earned, where the log has propensities.
        notes: what else there is to say of the policies, in sentences.
        further: what else the page of a run shows, as JSON data; see
            :func:`~torchrl_drpo.pipeline.measured.measured`.
        stops: by objective, where each seed's training stopped early, if it did.
    """

    summary: dict[str, dict[str, Interval]]
    runs: dict[str, list[dict[str, float]]]
    data: dict[str, Any]
    config: dict[str, Any]
    k: int
    checkpoints: dict[str, Path]
    parts: PartFacts
    reward_model: dict[str, Any] | None = None
    values: ValueColumns | None = None
    notes: tuple[str, ...] = ()
    further: dict[str, Any] = field(default_factory=dict)
    stops: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Strict JSON data; what is not a number is ``null``, an infinity ``"inf"``."""
        reference = next(iter(self.checkpoints))  # the first objective that was asked for
        paired = report.differences(self.runs, reference)
        modelled = {} if self.reward_model is None else {"reward_model": self.reward_model}
        values = {} if self.values is None else {"off_policy": self.values.to_json()}
        return {
            "version": RESULTS_VERSION,
            "config": self.config,
            "data": self.data,
            "parts": self.parts.to_json(),
            **modelled,
            "summary": report.summary_json(self.summary),
            **values,
            **({"early_stopping": self.stops} if self.stops else {}),
            f"differences_from_{reference}": report.summary_json(paired),
            "runs": {
                method: [report.metrics_json(seed) for seed in seeds]
                for method, seeds in self.runs.items()
            },
            "notes": list(self.notes),
            **self.further,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], folder: Path) -> TrainResults:
        """The results that :meth:`to_json` gave, of a run that lies in ``folder``.

        Raises:
            ValueError: for data of another version.
            KeyError, TypeError: for what is not such data.
        """
        if data["version"] != RESULTS_VERSION:
            raise ValueError(f"version must be {RESULTS_VERSION}, got {data['version']!r}")
        values = data.get("off_policy")
        further = ("log", "mean_quality", "days", "held_out_rows", "reward_calibration", "contexts")
        return cls(
            summary=report.summary_from_json(data["summary"]),
            runs={
                method: [report.metrics_from_json(seed) for seed in seeds]
                for method, seeds in data["runs"].items()
            },
            data=data["data"],
            config=data["config"],
            k=data["config"]["ks"][-1],
            checkpoints={name: folder / file_name(name) for name in data["config"]["objectives"]},
            parts=PartFacts.from_json(data["parts"]),
            reward_model=data.get("reward_model"),
            values=values and ValueColumns(values["logging_policy"], values["runs"]),
            notes=tuple(data.get("notes", ())),
            further={name: data[name] for name in further if name in data},
            stops=data.get("early_stopping", {}),
        )

    @property
    def stop_sentences(self) -> list[str]:
        """Which step won in each run."""
        first = self.config["first_seed"]
        return [
            describe_stop(f"{objective}, seed {first + place}", facts)
            for objective, seeds in self.stops.items()
            for place, facts in enumerate(seeds)
        ]

    def table(self, *, upright: bool = False) -> Table:
        """The table; see :func:`~torchrl_drpo.pipeline.table.table`."""
        seeds = max(len(runs) for runs in self.runs.values())
        unit = "users" if self.data["users"] else "rows"
        over = f"{seeds} seeds, 95% t intervals" if seeds > 1 else f"1 seed, intervals over {unit}"
        title = f"{self.data['parts']['test']:,} held-out rows, {over}"
        remark = "" if seeds > 1 else ONE_SEED.format(unit=unit)
        further = {} if self.values is None else self.values.columns()
        found = report.table(
            self.summary, title, self.k, upright=upright, further=further, remark=remark
        )
        if self.values is None:
            return found
        return replace(found, note=f"{found.note} {self.values.note}", styles=VERDICTS)
