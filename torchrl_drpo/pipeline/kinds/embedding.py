"""``drpo train --policy embedding``: Gaussians over item vectors, served by retrieval."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.crew import team
from torchrl_drpo.pipeline.kinds.item_vectors import item_vectors
from torchrl_drpo.pipeline.kinds.once import TrainsOnce
from torchrl_drpo.pipeline.kinds.training import (
    Course,
    Trained,
    followed,
    run_trainer,
)
from torchrl_drpo.pipeline.objectives.make import make_objective
from torchrl_drpo.pipeline.objectives.named import Objective, find_objective, following_model
from torchrl_drpo.pipeline.objectives.own import file_name
from torchrl_drpo.pipeline.reward_model.embedding import UphillRows, fit_embedding_reward
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.policies.retrieval import (
    RetrievalPolicy,
    VectorRows,
    gaussian_actor,
    make_retrieval_actor,
    retrieval_policy,
)
from torchrl_drpo.policies.uphill import make_uphill_actor
from torchrl_drpo.rewards import AnnotatedBuffer

_ROWS_AT_A_TIME = 8192


class EmbeddingTraining(TrainsOnce):
    """Trains policies over item vectors on one log.

    Args:
        data: the log.
        config: the settings.
        progress: called with a name, a step and the last step while the reward model is fitted.

    Attributes:
        template: a policy with the log's item vectors and calibrated states; its head is not
            trained.
    """

    def __init__(
        self,
        data: SplitLog,
        config: TrainConfig,
        progress: Callable[[str, int, int], None],
    ) -> None:
        super().__init__(config)
        self._data = data
        for name in config.objectives:
            tilt = config.objective(name).tilt
            if tilt is not None and tilt.tau is not None:
                raise ValueError(
                    f"{name!r} of a policy over item vectors has no tau, got {tilt.tau}: its mean "
                    "moves by --uphill-step"
                )
        vectors, source, unknown = item_vectors(data, config.model.dim)
        self._dim = vectors.shape[1]
        self.facts = {
            "item_vectors": source,
            "item_vectors_dim": self._dim,
            "items_without_vector": unknown,
        }
        self.notes = [
            f"Policies over item vectors of width {self._dim}, from the {source}; "
            f"{unknown:,} of {len(vectors):,} items have none and get a random one."
        ]
        self.template = self._make_template(vectors)
        del vectors  # the template has their directions; a table may be most of what memory holds
        fit = partial(
            fit_embedding_reward,
            data,
            VectorRows(self.template),
            config.output / "reward-embedding",
            config.kinds.embedding,
            lambda done, of: progress("reward model", done, of),
        )
        self.reward, self.objectives, left_out = followed(config, fit)
        self.notes += left_out

    def depends_on(self, objective: str) -> list[Any]:
        """What a run depends on beside the settings, as JSON data."""
        known: list[Any] = [self.facts["item_vectors"], self.facts["items_without_vector"]]
        reward = self._reward_of(objective)
        return known if reward is None else [*known, reward.fingerprint]

    def _learn(
        self,
        name: str,
        wanted: Objective,
        seed: int,
        state: Path,
        progress: Callable[[int, int], None],
        course: Course,
    ) -> Trained:
        config, device = self._config, self._config.device
        torch.manual_seed(seed)
        actor = make_retrieval_actor(**self._model)
        policy = retrieval_policy(actor)
        template = self.template
        policy.items = template.items  # nothing writes to it, so one table serves all policies
        policy.state.load_state_dict(template.state.state_dict())
        gaussian = gaussian_actor(policy).to(device)  # moves the head; rows are made on the CPU
        reward = self.reward if wanted.learns_from_model else None
        served = None
        if course.judge is not None:
            served = self._served(wanted, Trained(actor.to(device), self._model, {})).actor
        history = run_trainer(
            make_objective(
                name,
                gaussian,
                reward and reward.model,
                config.options.get(name),
                over=team(),
            ).to(device),
            self.rows(name, seed),
            config,
            run=f"{file_name(name)}-{seed}",
            state=state,
            progress=progress,
            served=served,
            course=course,
        )
        return Trained(actor.to(device), self._model, history.training, history.evaluation)

    def _served(self, objective: Objective, learned: Trained) -> Trained:
        """The trained policy, or one that asks it and moves its mean; weights are shared."""
        if objective.tilt is None:
            return learned
        assert self.reward is not None  # it follows a model
        models, typical = self.reward.model
        # Copies of its own: where a policy goes when it is saved, the others do not.
        critics = [copy.deepcopy(model).to(self._config.device) for model in models]
        step = self._config.kinds.embedding.uphill_step
        actor = make_uphill_actor(learned.actor, critics, typical=typical, step=step)
        made = {"uphill_step": step, "landmarks": [len(critic.landmarks) for critic in critics]}
        return replace(learned, actor=actor, model=learned.model | {"tilt": made})

    def rows(self, objective: str, seed: int) -> AnnotatedBuffer:
        """The training rows as the objective reads them, in random order.

        Args:
            objective: its name.
            seed: of the order.
        """
        config, vectors = self._config, VectorRows(self.template)
        reward = self.reward if find_objective(objective).learns_from_model else None
        buffer = self._data.train_buffer(config.batch_size, seed, "cpu")
        columns = TensorDict({}, [len(buffer)]) if reward is None else reward.columns
        uphill = None
        if find_objective(objective).moves:
            assert reward is not None  # it follows a model
            uphill = UphillRows(*reward.model, config.kinds.embedding.uphill_step)

        def prepared(rows: TensorDictBase) -> TensorDictBase:
            rows = vectors(rows)
            rows = rows if uphill is None else uphill(rows)
            return rows.to(config.device)

        return AnnotatedBuffer(buffer, columns, then=prepared)

    def _reward_of(self, objective: str) -> LogReward | None:
        return self.reward if following_model([objective]) else None

    @property
    def _model(self) -> dict[str, Any]:
        """The arguments of the actor, as JSON data."""
        data = self._data
        return {
            "num_items": data.num_items,
            "dim": self._dim,
            "history": self._config.history if data.has_histories else 0,
            "context_sizes": data.context_sizes,
            "num_features": data.num_features,
            "hidden": self._config.model.hidden,
        }

    def _make_template(self, vectors: Tensor) -> RetrievalPolicy:
        with torch.random.fork_rng(devices=[]):
            actor = make_retrieval_actor(**self._model, item_vectors=vectors)
        return retrieval_policy(actor).calibrate(self._data.train_batches(_ROWS_AT_A_TIME))
