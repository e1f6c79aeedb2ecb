"""How one policy is trained, whatever its kind: what a kind must give, and the loop of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torchrl.modules import ProbabilisticActor
from torchrl.objectives.common import LossModule

from torchrl_drpo.functional.checks import DivergedError
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.crew import team
from torchrl_drpo.pipeline.loggers import loggers, tell_again
from torchrl_drpo.pipeline.objectives.named import following_model
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.pipeline.stopping import EarlyStopping
from torchrl_drpo.pipeline.trainer import History, OfflineTrainer

#: Called with a run's name, its step and its last step.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trained:
    """A trained policy.

    Attributes:
        actor: reads rows of the log; ``get_dist`` gives a policy over items.
        model: the arguments that made it, as JSON data.
        curve: what was logged while it was trained.
        looks: what was found of it on validation rows while it was trained, by metric.
    """

    actor: ProbabilisticActor
    model: dict[str, Any]
    curve: dict[str, Any]
    looks: dict[str, Any] = field(default_factory=dict)


#: Metrics of a policy on validation rows, by name.
Judge = Callable[[ProbabilisticActor], dict[str, float]]


@dataclass(frozen=True)
class Course:
    """How far a run goes.

    Attributes:
        until: its last step; the settings' steps by default.
        judge: looks at the served policy every so many steps.
        stopping: what its looks are told, and what ends the run; with a judge alone. The policy is
            then that of the best step.
        curves: what its curves are called; by default the objective and the seed.
    """

    until: int | None = None
    judge: Judge | None = None
    stopping: EarlyStopping | None = None
    curves: str = ""


#: All steps, with nobody looking.
WHOLE = Course()


class PolicyTraining(Protocol):
    """What the command asks of a kind of policy; made of a log, the settings and a progress.

    Attributes:
        objectives: what is trained: what was asked for, but for what cannot be where nobody did.
        reward: the reward model, where one of these follows one.
        facts: what else there is to say of the policies' make, as JSON data.
        notes: the same in sentences.
    """

    objectives: tuple[str, ...]
    reward: LogReward | None
    facts: dict[str, Any]
    notes: list[str]

    def depends_on(self, objective: str) -> list[Any]:
        """What a run depends on beside the settings, as JSON data."""
        ...

    def train(
        self,
        objective: str,
        seed: int,
        state: Path,
        progress: Callable[[int, int], None],
        course: Course = WHOLE,
    ) -> Trained:
        """Trains one policy; goes on from ``state`` of a killed run, a file or a folder."""
        ...


def check_quality(config: TrainConfig, data: SplitLog) -> None:
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


def followed(
    config: TrainConfig, fit: Callable[[], LogReward]
) -> tuple[LogReward | None, tuple[str, ...], list[str]]:
    """The reward model that the objectives follow, if they do and it can be followed.

    Args:
        config: names the objectives.
        fit: fits the model.

    Returns:
        The model; the objectives that are to be trained; and, in sentences, what is left out of
        those that nobody asked for by name.

    Raises:
        ValueError: for a model that cannot be fitted, or knows nothing, where somebody did.
    """
    following = following_model(config.objectives)
    if not following:
        return None, config.objectives, []
    try:
        reward = fit()
        reward.check(config.objectives)
        if config.are_usual and reward.warnings:
            raise ValueError(reward.warnings[0].rstrip("."))
    except ValueError as error:
        if not config.are_usual:
            raise
        left = tuple(name for name in config.objectives if name not in following)
        why = str(error)
        return None, left, [f"{', '.join(following)}: left out. {why[0].upper()}{why[1:]}."]
    return reward, config.objectives, []


def run_trainer(
    loss: LossModule,
    buffer: Any,
    config: TrainConfig,
    *,
    run: str,
    state: Path,
    progress: Callable[[int, int], None],
    batch_size: int | None = None,
    served: ProbabilisticActor | None = None,
    course: Course = WHOLE,
) -> History:
    """Trains a loss on a buffer with the command's settings; gives the training curve.

    ``batch_size`` is what the buffer is asked for, where that is not rows; ``served`` what a
    course's judge looks at, whose weights are the loss's.
    """
    weights = {name: each for name, each in loss.named_parameters() if each.requires_grad}
    judge, stopping = course.judge, course.stopping

    def look(step: int) -> dict[str, float]:
        assert judge is not None  # nobody calls otherwise
        assert served is not None
        found = judge(served)
        if stopping is not None:
            stopping.look(step, found, weights)
        return found

    with loggers(config, course.curves or run, state) as into:
        trainer = OfflineTrainer(
            loss,
            buffer,
            TrainerConfig(
                steps=config.steps,
                batch_size=batch_size or config.batch_size,
                learning_rate=config.learning_rate,
                weight_decay=config.weight_decay,
                max_grad_norm=config.max_grad_norm,
                warm_up=config.warm_up,
                decay=config.decay,
                log_every=20,
                evaluate_every=config.stopping.evaluate_every,
                checkpoint_every=200,
            ),
            evaluate=None if judge is None else look,
            stop=None if stopping is None else lambda: stopping.done,
            extra_state={} if stopping is None else {"stopping": stopping},
            progress=lambda step, values: progress(step, course.until or config.steps),
            loggers=into,
            checkpoint=state,
            mesh=team(),
        )
        before = trainer.history
        tell_again(into, {"train": before.training, "evaluation": before.evaluation})
        try:
            history = trainer.run(course.until)
        except DivergedError:
            if stopping is None:
                raise
            history = trainer.history  # an earlier look may have been the best
    if stopping is not None:
        stopping.restore(weights)
    return history
