"""What several objectives serve, each in its way, is trained once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.kinds.training import WHOLE, Course, Trained
from torchrl_drpo.pipeline.objectives.named import Objective


class TrainedOnce:
    """Trained policies that another objective of the same command is going to serve.

    Args:
        config: says which objectives there are.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._kept: dict[tuple[Objective, int, int | None], Trained] = {}

    def get(
        self,
        objective: Objective,
        seed: int,
        learn: Callable[[], Trained],
        progress: Callable[[int, int], None],
        course: Course = WHOLE,
    ) -> Trained:
        """What training gives for an objective and a seed.

        Args:
            objective: as :attr:`Objective.trained` has it.
            seed: of the run.
            learn: trains it.
            progress: told that all steps are done where nothing is left to train.
            course: how far it goes.
        """
        if course.judge is not None:  # each is looked at as it is served
            return learn()
        once = objective, seed, course.until
        if once not in self._kept:
            learned = learn()
            others = (self._config.objective(each).trained for each in self._config.objectives)
            if sum(other == objective for other in others) < 2:
                return learned
            self._kept[once] = learned
        kept = self._kept[once]
        progress(self._config.steps, self._config.steps)
        return replace(kept, actor=kept.actor.to(self._config.device))
