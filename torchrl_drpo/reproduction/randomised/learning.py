"""Training on self-selected ratings: rows, reward model, policies; the state is the user's id."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import TensorDictReplayBuffer, TensorStorage
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.pipeline.config.trainer import TrainerConfig
from torchrl_drpo.pipeline.objectives.make import make_objective
from torchrl_drpo.pipeline.reward_model.make import RewardConfig, RewardShape, reward_regression
from torchrl_drpo.pipeline.trainer import OfflineTrainer
from torchrl_drpo.policies.catalogue import make_catalogue_actor
from torchrl_drpo.policies.conditioned import ConditionOnQuality, level_edges
from torchrl_drpo.reproduction.randomised.methods import Job
from torchrl_drpo.reproduction.randomised.ratings import Ratings
from torchrl_drpo.rewards.catalogue import CatalogueReward
from torchrl_drpo.rewards.towers import two_tower_module

#: A seed has streams of its own: reward model (two), initial policies, batches, hidden levels.
_STREAMS = 5


def state_rows(user: Tensor) -> TensorDict:
    """States of users ``[n]``: no history, the id as the context."""
    history = torch.full((len(user), 1), -1)
    state = {"history": history, "context": user.unsqueeze(1)}
    return TensorDict({"observation": state}, [len(user)])


def train_rows(ratings: Ratings) -> TensorDict:
    """The self-selected ratings as TED rows of one step each, the quality as the reward."""
    rows = state_rows(ratings.train.user)
    rows["action"] = ratings.train.item
    rows["next", "reward"] = ratings.train.quality.unsqueeze(1)
    for name in ("done", "terminated"):
        rows["next", name] = torch.ones(len(rows), 1, dtype=torch.bool)
    return rows


class Learner:
    """What one seed learns from.

    Args:
        ratings: the file's.
        seed: moves folds and members of the reward model, initial policies and batches, each by a
            stream of its own.
        training: numbers of :class:`~torchrl_drpo.pipeline.config.trainer.TrainerConfig`.
        reward: numbers of :class:`~torchrl_drpo.pipeline.reward_model.make.RewardConfig`.

    Attributes:
        critic: the reward model, cross-fitted by rows: where the state *is* the user, a member
            that has not seen a user has nothing to say of him.
    """

    def __init__(
        self, ratings: Ratings, seed: int, training: Mapping[str, Any], reward: Mapping[str, Any]
    ) -> None:
        self._ratings, self._stream, self._training = ratings, _STREAMS * seed, dict(training)
        self._rows = train_rows(ratings)
        settings = RewardConfig(seed=self._stream, **reward)
        shape = RewardShape(ratings.num_items, history=1, context_sizes=(ratings.num_users,))
        fit = reward_regression(two_tower_module, shape, settings, moments=None, by_user=False)
        # Each row gains its fold and the prediction of the member that has not seen it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the section says what it explains
            self.critic = CatalogueReward.fit(
                self._rows, fit, folds=settings.folds, seed=settings.seed
            )

    def train(self, job: Job, look: Callable[[int, ProbabilisticActor], None]) -> None:
        """Trains a policy, and shows it every few steps to ``look`` with the step."""
        torch.manual_seed(self._stream + 2)
        edges = level_edges(self._ratings.train.quality)
        levels = (len(edges) + 1,) if job.conditioned else ()
        actor = make_catalogue_actor(
            self._ratings.num_items, history=1, context_sizes=(self._ratings.num_users, *levels)
        )
        loss = make_objective(job.objective, actor, self.critic, job.options)
        buffer = TensorDictReplayBuffer(
            storage=TensorStorage(self._rows),
            generator=torch.Generator().manual_seed(self._stream + 3),
        )
        if job.conditioned:
            buffer.append_transform(ConditionOnQuality(edges, seed=self._stream + 4))

        def evaluate(step: int) -> dict[str, float]:
            look(step, actor)
            return {}

        config = TrainerConfig(log_every=self._training["steps"], **self._training)
        OfflineTrainer(loss, buffer, config, evaluate=evaluate).run()
