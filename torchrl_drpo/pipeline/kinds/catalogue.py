"""``drpo train --policy catalogue``: softmax policies over item numbers."""

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
from torchrl.modules import ProbabilisticActor

from torchrl_drpo.objectives import AllPlaces
from torchrl_drpo.pipeline.config.train import TrainConfig
from torchrl_drpo.pipeline.crew import team
from torchrl_drpo.pipeline.kinds.once import TrainsOnce
from torchrl_drpo.pipeline.kinds.served import critic_shape, with_level
from torchrl_drpo.pipeline.kinds.training import (
    Course,
    Progress,
    Trained,
    followed,
    run_trainer,
)
from torchrl_drpo.pipeline.objectives.make import make_objective
from torchrl_drpo.pipeline.objectives.named import Objective, following_model
from torchrl_drpo.pipeline.objectives.own import file_name
from torchrl_drpo.pipeline.reward_model.fit import RewardFit
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.policies.catalogue import catalogue_policy, make_catalogue_actor
from torchrl_drpo.policies.conditioned import (
    UNKNOWN,
    level_edges,
    make_conditioned_actor,
    quality_levels,
)
from torchrl_drpo.policies.encoders import HistoryEncoder
from torchrl_drpo.policies.item_tables import ItemTableConfig
from torchrl_drpo.policies.tilted import make_tilted_actor
from torchrl_drpo.references import allowing
from torchrl_drpo.rewards import AnnotatedBuffer, CatalogueReward

#: Temperature of a tilt that is not told, in standard deviations of the training rows' quality.
TAU = 1 / 3


class CatalogueTraining(TrainsOnce):
    """Trains softmax policies over item numbers on one log; see :class:`PolicyTraining`."""

    def __init__(self, data: SplitLog, config: TrainConfig, progress: Progress) -> None:
        super().__init__(config)
        self._data = data
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self._item_data = self._read_items()
        if config.train_places == "all":
            data.train_sequences(config.batch_size, 0, "cpu")  # refused before anything is fitted
            if team() is not None:
                raise ValueError(
                    "all places are trained by one process; leave torchrun out, or train the last "
                    "places"
                )

        def fit() -> LogReward:
            folder = config.output / "reward"
            made = RewardFit(data, folder, history=config.history, device=config.device)
            return made.open(partial(progress, "reward model, folds"))

        self.reward, self.objectives, left_out = followed(config, fit)
        self.notes += left_out

    def depends_on(self, objective: str) -> list[Any]:
        """What a run depends on beside the settings, as JSON data."""
        reward = self._reward_of(objective)
        return [] if reward is None else [reward.fingerprint]

    def _learn(
        self,
        name: str,
        wanted: Objective,
        seed: int,
        state: Path,
        progress: Callable[[int, int], None],
        course: Course,
    ) -> Trained:
        objective = wanted.trained
        data, config = self._data, self._config
        reward = self.reward if objective.learns_from_model else None
        torch.manual_seed(seed)
        model = config.settings()["model"] | {
            "num_items": data.num_items,
            "history": config.history,
            "context_sizes": data.context_sizes,
            "num_features": data.num_features,
        }
        edges: tuple[float, ...] = ()
        if objective.condition is not None:
            edges = level_edges(data.log.split("train").quality)
            model = with_level(model, len(edges) + 1)
        actor, model = self.make_actor(model)
        make_loss = partial(
            make_objective,
            name,
            reward_model=reward and reward.model,
            options=config.options.get(name),
            over=team(),
        )
        buffer: Any
        if config.train_places == "all":
            buffer = data.train_sequences(config.batch_size, seed, config.device)
            loss, batch_size = AllPlaces(make_loss, actor), buffer.batch_size
        else:
            buffer = data.train_buffer(config.batch_size, seed, config.device)
            buffer = buffer if reward is None else AnnotatedBuffer(buffer, reward.columns)
            if objective.condition is not None:
                buffer = self._with_levels(buffer, edges, objective.condition.unknown, seed)
            loss, batch_size = make_loss(actor), config.batch_size
        served = self._served(wanted, Trained(actor, model, {})) if course.judge else None
        history = run_trainer(
            loss.to(config.device),
            buffer,
            config,
            run=f"{file_name(name)}-{seed}",
            state=state,
            progress=progress,
            batch_size=batch_size,
            served=served and served.actor,
            course=course,
        )
        return Trained(actor, model, history.training, history.evaluation)

    def _with_levels(
        self, buffer: Any, edges: tuple[float, ...], unknown: float, seed: int
    ) -> AnnotatedBuffer:
        """Rows whose context ends with their level of quality, hidden in some of them.

        Which ones is a matter of the seed and the row's number alone, so that a run that goes on
        after a kill, or on several ranks, sees the same rows.
        """
        quality = self._data.log.split("train").quality
        level = quality_levels(quality, edges)
        drawn = torch.rand(len(level), generator=torch.Generator().manual_seed(seed))
        level = level.masked_fill(drawn < unknown, UNKNOWN).to(torch.int16)
        key = ("observation", "context")

        def appended(rows: TensorDictBase) -> TensorDictBase:
            column = rows.pop("level").long().unsqueeze(-1)
            context = rows.get(key, None)
            return rows.set(key, column if context is None else torch.cat([context, column], -1))

        return AnnotatedBuffer(buffer, TensorDict({"level": level}, [len(level)]), then=appended)

    def _served(self, objective: Objective, learned: Trained) -> Trained:
        """What is made of a trained policy when it is served; its weights are shared."""
        actor, model = learned.actor, dict(learned.model)
        if objective.condition is not None:
            *columns, levels = model["context_sizes"]
            guidance = objective.condition.guidance
            actor = make_conditioned_actor(actor, guidance)
            model["context_sizes"] = tuple(columns)
            model["condition"] = {"levels": levels, "guidance": guidance}
        if objective.tilt is not None:
            assert self.reward is not None  # it follows a model
            tau = objective.tilt.tau
            if tau is None:
                tau = TAU * self._data.quality_moments()[1].item()
            # Its own copy: where a policy goes when it is saved, the others do not.
            critic = copy.deepcopy(self.reward.model).to(self._config.device)
            actor = self.tilted(actor, critic, tau)
            model["tilt"] = {"tau": tau, "critic": critic_shape(critic)}
        return replace(learned, actor=actor, model=model)

    def tilted(
        self, actor: ProbabilisticActor, critic: CatalogueReward, tau: float
    ) -> ProbabilisticActor:
        """Policy times critic."""
        return make_tilted_actor(actor, critic, tau)

    def make_actor(self, model: dict[str, Any]) -> tuple[ProbabilisticActor, dict[str, Any]]:
        """An actor with fresh weights, and the arguments that a checkpoint keeps of it."""
        if "item_table" in model:
            made = ItemTableConfig.of(model["item_table"], self._item_data, self._data.num_items)
            model = model | {"item_table": made.to_json()}
        device = self._config.device
        with allowing(self._config.model.encoder):  # which the settings name
            actor = make_catalogue_actor(**model, item_data=self._item_data, device=device)
        self._fit_scalers(catalogue_policy(actor).encoder)
        return actor, model

    def _fit_scalers(self, encoder: HistoryEncoder) -> None:
        """Fits what an encoder reads in standard units to the training rows."""
        if self._data.num_features:
            encoder.scaler.fit_(*self._data.feature_moments())
        if self._config.model.history_feedback:
            encoder.feedback_scaler.fit_(*self._data.quality_moments())

    def _read_items(self) -> Tensor | None:
        """What item vectors are made of, where these are not the items' own alone."""
        kind, log = self._config.kind_options.item_table, self._data.log
        if kind == "ids":
            return None
        found = log.item_codes if kind == "codes" else log.item_embeddings
        if found is None:
            columns = "codes=(...)" if kind == "codes" else "embedding=..."
            raise ValueError(
                f"item vectors of {kind} need them in the schema's item table, as "
                f"items=ItemTable(path=..., id=..., {columns}); this log has none"
            )
        known = (found >= 0).any(1) if kind == "codes" else found.any(1)
        without, cold = int((~known).sum()), ~self._data.trained_items()
        served = int((cold & known).sum())
        self.facts |= {
            "item_table": kind,
            "items_without_data": without,
            "cold_items_with_data": served,
        }
        self.notes.append(
            f"Item vectors are made of {kind}; {without:,} of {len(known):,} items have none. Of "
            f"{int(cold.sum()):,} items that no training row shows, {served:,} have a vector all "
            "the same."
        )
        return found

    def _reward_of(self, objective: str) -> LogReward | None:
        return self.reward if following_model([objective]) else None
