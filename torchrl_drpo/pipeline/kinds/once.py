"""What several objectives serve, each in its way, is trained once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.kinds.training import WHOLE, Course, Trained
from torchrl_drpo.pipeline.objectives.named import Objective


class TrainsOnce(ABC):
    """Keeps trained policies that another objective of the same command is going to serve.

    Args:
        config: says which objectives there are.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._kept: dict[tuple[Objective, int, int | None], Trained] = {}

    def train(
        self,
        objective: str,
        seed: int,
        state: Path,
        progress: Callable[[int, int], None],
        course: Course = WHOLE,
    ) -> Trained:
        """Trains one policy.

        Args:
            objective: its name.
            seed: of the initial weights and of the batches.
            state: file of the run under way; a killed run goes on from it.
            progress: called with the step and the last step.
            course: how far it goes.
        """
        wanted = self._config.objective(objective)
        learn = partial(self._learn, objective, wanted, seed, state, progress, course)
        if course.judge is not None:  # each is looked at as it is served
            return self._served(wanted, learn())
        once = wanted.trained, seed, course.until
        if once not in self._kept:
            learned = learn()
            others = (self._config.objective(each).trained for each in self._config.objectives)
            if sum(other == wanted.trained for other in others) < 2:
                return self._served(wanted, learned)
            self._kept[once] = learned
        progress(self._config.steps, self._config.steps)
        kept = self._kept[once]
        return self._served(wanted, replace(kept, actor=kept.actor.to(self._config.device)))

    @abstractmethod
    def _learn(
        self,
        name: str,
        wanted: Objective,
        seed: int,
        state: Path,
        progress: Callable[[int, int], None],
        course: Course,
    ) -> Trained:
        """Trains what ``wanted`` serves."""

    @abstractmethod
    def _served(self, objective: Objective, learned: Trained) -> Trained:
        """The trained policy as ``objective`` serves it."""
