"""The settings of ``drpo tune``."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from torchrl_drpo.pipeline.config.space import Dimension, applied, space_of
from torchrl_drpo.pipeline.config.train import TrainConfig


@dataclass(frozen=True)
class TuneConfig(TrainConfig):
    """Choose the settings of one objective on rows inside the training period.

    What is held out for `drpo train`'s table is not read. Each trial trains on the other training
    rows, is looked at on the validation rows, and is worth what its best look found; so the number
    of steps is chosen on the way. The choice is written as a file for `drpo train --config`. A
    search that is killed and given again goes on where it stopped, to the same end.

    Attributes:
        output: folder for everything that is written.
        objectives: the objective, by name; one.
        seeds: runs of each trial; it is worth their mean.
        steps: the most gradient steps a run.
        trials: how many settings are tried; the first has the objective's own values, as far as
            they are numbers within the space.
        space: what is searched, each NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=A,B: options of the
            objective (drpo.kappa=0.05..0.5 drpo.weighting=linear,kl), learning_rate, weight_decay,
            max_grad_norm, batch_size, dim, dropout, layers. By default the options that have a
            range, and the learning rate.
        metrics: one metric, or two for the frontier between them, by their names in results.json:
            hr@50_best lift@50. The first is what stops a run; ndcg@K_best by default.
        keep: of two metrics: chosen is the trial with most of the second among those that keep this
            share of the largest first.
        search_seed: of the search.
        json: print the trials as JSON instead of a table.
    """

    output: Path = Path("runs/tune")
    trials: int = 30
    space: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    keep: float = 0.98
    search_seed: int = 0

    def __post_init__(self) -> None:
        if len(self.objectives) != 1:
            raise ValueError(
                f"one objective is tuned at a time, got {len(self.objectives)}; name it: "
                "--objectives drpo"
            )
        if len(self.metrics) > 2 or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"name one metric, or two others, got {' '.join(self.metrics)}")
        stopping = self.stopping
        if self.metrics:
            if stopping.validation_metric not in (None, self.metrics[0]):
                raise ValueError(
                    "--metrics says what stops a run, too, by its first name; leave out "
                    "--validation-metric"
                )
            stopping = replace(stopping, validation_metric=self.metrics[0])
        # A schedule that falls to zero ends with the last step: no earlier one is worth a look.
        every = stopping.evaluate_every if self.decay == "constant" else self.steps
        stopping = replace(stopping, early_stopping=True, evaluate_every=every)
        object.__setattr__(self, "stopping", stopping)
        super().__post_init__()
        if self.trials < 1:
            raise ValueError(f"trials must be at least 1, got {self.trials}")
        if self.warm_up > self.stopping.evaluate_every:
            raise ValueError(
                f"a trial may be best at its first look, after {self.stopping.evaluate_every} steps"
                f", and the learning rate would still rise there: warm_up is {self.warm_up} steps; "
                "look later (--evaluate-every), or warm up in fewer"
            )
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must lie in (0, 1], got {self.keep}")
        if self.search_seed < 0:
            raise ValueError(f"search_seed must be at least 0, got {self.search_seed}")
        for dimension in self.dimensions:
            made = [applied(self.trained, {dimension.name: value}) for value in dimension.ends]
            runs = [(each.settings(), each.options) for each in made]
            if len(runs) > 1 and all(run == runs[0] for run in runs):
                raise ValueError(
                    f"--space {dimension}: all its values train the same run, as {self.policy} "
                    f"policies with the encoder {self.model.encoder!r} have no other use for it; "
                    "leave it out"
                )

    @property
    def name(self) -> str:
        """Of the objective."""
        return self.objectives[0]

    @property
    def wanted(self) -> tuple[str, ...]:
        """The metrics that are to be largest."""
        return self.metrics or (self.stopping.metric(self.ks[-1]),)

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """What is searched."""
        return space_of(self.space, self.name, self.objective(self.name))

    @property
    def trained(self) -> TrainConfig:
        """What a trial trains, before anything of it is chosen."""
        return TrainConfig(**{each.name: getattr(self, each.name) for each in fields(TrainConfig)})

    def choice(self, values: dict[str, Any], steps: int) -> dict[str, Any]:
        """The options that train with the values of a trial on all training rows, as JSON data."""
        stopping = type(self.stopping)()
        chosen = replace(applied(self.trained, values), steps=steps, stopping=stopping)
        said = chosen.to_file(chosen.objectives)
        places = {name: getattr(self, name) for name in ("logs", "schema", "root")}
        return said | {name: str(each) for name, each in places.items() if each is not None}
