"""``drpo train --policy catalogue``: softmax policies over item numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.crew import team
from torchrl_drpo.pipeline.kinds.training import Progress, Trained, run_trainer
from torchrl_drpo.pipeline.objectives.make import make_objective
from torchrl_drpo.pipeline.objectives.named import following_model
from torchrl_drpo.pipeline.reward_model.fit import RewardFit
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.policies.catalogue import catalogue_policy, make_catalogue_actor
from torchrl_drpo.rewards import AnnotatedBuffer


class CatalogueTraining:
    """Trains softmax policies over item numbers on one log; see :class:`PolicyTraining`."""

    def __init__(self, data: SplitLog, config: TrainConfig, progress: Progress) -> None:
        self._data, self._config = data, config
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self.reward: LogReward | None = None
        if following_model(config.objectives):
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
        model = config.settings()["model"] | {
            "num_items": data.num_items,
            "history": config.history,
            "context_sizes": data.context_sizes,
            "num_features": data.num_features,
        }
        actor, model = self.make_actor(model)
        buffer = data.train_buffer(config.batch_size, seed, config.device)
        curve = run_trainer(
            make_objective(
                objective,
                actor,
                reward and reward.model,
                config.options.get(objective),
                over=team(),
            ).to(config.device),
            buffer if reward is None else AnnotatedBuffer(buffer, reward.columns),
            config,
            run=f"{objective}-{seed}",
            state=state,
            progress=progress,
        )
        return Trained(actor, model, curve)

    def make_actor(self, model: dict[str, Any]) -> tuple[ProbabilisticActor, dict[str, Any]]:
        """An actor with fresh weights, and the arguments that a checkpoint keeps of it."""
        actor = make_catalogue_actor(**model, device=self._config.device)
        if self._data.num_features:
            catalogue_policy(actor).encoder.scaler.fit_(*self._data.feature_moments())
        return actor, model

    def _reward_of(self, objective: str) -> LogReward | None:
        return self.reward if following_model([objective]) else None
