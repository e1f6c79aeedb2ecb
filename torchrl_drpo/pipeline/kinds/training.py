"""How one policy is trained, whatever its kind: what a kind must give, and the loop of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torchrl.modules import ProbabilisticActor
from torchrl.objectives.common import LossModule
from torchrl.record.loggers import CSVLogger, TensorboardLogger
from torchrl.record.loggers.common import Logger

from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.crew import team
from torchrl_drpo.pipeline.objectives.named import following_model
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward
from torchrl_drpo.pipeline.trainer import OfflineTrainer

#: Called with a run's name, its step and its last step.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trained:
    """A trained policy.

    Attributes:
        actor: reads rows of the log; ``get_dist`` gives a policy over items.
        model: the arguments that made it, as JSON data.
        curve: what was logged while it was trained.
    """

    actor: ProbabilisticActor
    model: dict[str, Any]
    curve: dict[str, Any]


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
        self, objective: str, seed: int, state: Path, progress: Callable[[int, int], None]
    ) -> Trained:
        """Trains one policy; goes on from ``state`` of a killed run, a file or a folder."""
        ...


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
) -> dict[str, Any]:
    """Trains a loss on a buffer with the command's settings; gives the training curve.

    ``batch_size`` is what the buffer is asked for, where that is not rows.
    """
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
            checkpoint_every=200,
        ),
        progress=lambda step, values: progress(step, config.steps),
        loggers=_loggers(config, run),
        checkpoint=state,
        mesh=team(),
    )
    return trainer.run().training


def _loggers(config: TrainConfig, run: str) -> list[Logger]:
    if config.logger == "none":
        return []
    kind = CSVLogger if config.logger == "csv" else TensorboardLogger
    return [kind(exp_name=run, log_dir=str(config.output / "curves"))]
