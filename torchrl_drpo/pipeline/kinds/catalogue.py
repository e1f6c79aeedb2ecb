"""How ``drpo train`` trains one policy: the loop that all kinds share, and softmax policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torchrl.modules import ProbabilisticActor
from torchrl.objectives.common import LossModule
from torchrl.record.loggers import CSVLogger, TensorboardLogger
from torchrl.record.loggers.common import Logger

from torchrl_drpo.pipeline.config import TrainCatalogueConfig
from torchrl_drpo.pipeline.objectives import MODELLED_OBJECTIVES, make_objective
from torchrl_drpo.pipeline.reward_model.fit import RewardFit
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward
from torchrl_drpo.pipeline.rows import CatalogueData
from torchrl_drpo.pipeline.trainer import OfflineTrainer, TrainConfig
from torchrl_drpo.policies.catalogue import catalogue_policy, make_catalogue_actor
from torchrl_drpo.rewards import AnnotatedBuffer

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
        reward: the reward model, where an objective that was asked for follows one.
        facts: what else there is to say of the policies' make, as JSON data.
        notes: the same in sentences.
    """

    reward: LogReward | None
    facts: dict[str, Any]
    notes: list[str]

    def depends_on(self, objective: str) -> list[Any]:
        """What a run depends on beside the settings, as JSON data."""
        ...

    def train(
        self, objective: str, seed: int, state: Path, progress: Callable[[int, int], None]
    ) -> Trained:
        """Trains one policy; goes on from the file ``state`` of a killed run."""
        ...


class CatalogueTraining:
    """Trains softmax policies over item numbers on one log; see :class:`PolicyTraining`."""

    def __init__(
        self, data: CatalogueData, config: TrainCatalogueConfig, progress: Progress
    ) -> None:
        self._data, self._config = data, config
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self.reward: LogReward | None = None
        if MODELLED_OBJECTIVES.keys() & set(config.objectives):
            fit = RewardFit(
                data, config.output / "reward", history=config.history, device=config.device
            )
            self.reward = fit.open(partial(progress, "reward model, folds"))
            self.reward.check(config.objectives)

    def depends_on(self, objective: str) -> list[Any]:
        """What a run depends on beside the settings, as JSON data."""
        reward = self._reward_of(objective)
        return [] if reward is None else [reward.fingerprint]

    def train(
        self, objective: str, seed: int, state: Path, progress: Callable[[int, int], None]
    ) -> Trained:
        """Trains one policy; goes on from the file ``state`` of a killed run."""
        data, config, reward = self._data, self._config, self._reward_of(objective)
        torch.manual_seed(seed)
        model = asdict(config.model) | {
            "num_items": data.num_items,
            "history": config.history,
            "context_sizes": data.context_sizes,
            "num_features": data.num_features,
        }
        actor = make_catalogue_actor(**model, device=config.device)
        if data.num_features:
            catalogue_policy(actor).encoder.scaler.fit_(*data.feature_moments())
        buffer = data.train_buffer(config.batch_size, seed, config.device)
        curve = run_trainer(
            make_objective(objective, actor, reward and reward.model).to(config.device),
            buffer if reward is None else AnnotatedBuffer(buffer, reward.columns),
            config,
            run=f"{objective}-{seed}",
            state=state,
            progress=progress,
        )
        return Trained(actor, model, curve)

    def _reward_of(self, objective: str) -> LogReward | None:
        return self.reward if objective in MODELLED_OBJECTIVES else None


def run_trainer(
    loss: LossModule,
    buffer: Any,
    config: TrainCatalogueConfig,
    *,
    run: str,
    state: Path,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Trains a loss on a buffer with the command's settings; gives the training curve."""
    trainer = OfflineTrainer(
        loss,
        buffer,
        TrainConfig(
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            log_every=20,
            checkpoint_every=200,
        ),
        progress=lambda step, values: progress(step, config.steps),
        loggers=_loggers(config, run),
        checkpoint=state,
    )
    return trainer.run().training


def _loggers(config: TrainCatalogueConfig, run: str) -> list[Logger]:
    if config.logger == "none":
        return []
    kind = CSVLogger if config.logger == "csv" else TensorboardLogger
    return [kind(exp_name=run, log_dir=str(config.output / "curves"))]
