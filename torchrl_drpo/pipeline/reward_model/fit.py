"""The reward model of a log: fitted to its training rows once, and kept in the output folder.

Q(s, a) and, on the same folds and from the same rows, V(s), which is fitted whatever was asked
for: how much of Q is the item is what everybody should know of it, and one fit serves all commands.
All objectives and seeds of a command share it. A fit that is killed keeps the members that it has
finished; a model that was fitted to other rows, or with other numbers, is fitted anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor

from torchrl_drpo.pipeline.artifacts.folder import Artifact, ArtifactError, save_artifact
from torchrl_drpo.pipeline.reward_model.folding import fold_groups, log_folds
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward, reward_columns
from torchrl_drpo.pipeline.reward_model.make import RewardConfig, RewardShape, reward_regression
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.rewards import CrossFittedReward, RewardRegression
from torchrl_drpo.rewards.catalogue import CatalogueReward
from torchrl_drpo.rewards.regression import StandardisedReward
from torchrl_drpo.rewards.towers import state_module, two_tower_module

KIND, MEMBER_KIND = "torchrl-drpo catalogue reward model", "torchrl-drpo catalogue reward member"
VERSION = 3  # 1 had no V; 2 no standard error, and folds of users where the state is the user
_ROWS_AT_A_TIME = 8192

#: Called with the number of members that are there, and of all.
Progress = Callable[[int, int], None]


class RewardFit:
    """Where and how a log's reward model is made.

    Args:
        data: the log.
        folder: where the model is kept, and found again.
        history: length of the histories that it reads.
        device: where to fit.
        settings: numbers of the fit.
    """

    def __init__(
        self,
        data: SplitLog,
        folder: Path,
        *,
        history: int,
        device: str = "cpu",
        settings: RewardConfig | None = None,
    ) -> None:
        self._data, self._folder, self._device = data, folder, device
        self._history, self._settings = history, settings or RewardConfig()

    @cached_property
    def fingerprint(self) -> str:
        """What the model depends on; known before it is fitted."""
        train = self._data.log.split("train").storage.state_dict()
        schema = self._data.log.schema.to_json()
        known = [VERSION, self._settings.to_json(), self._history, train, schema]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def open(self, progress: Progress) -> LogReward:
        """The model: read where this very fit has finished before, else fitted and written.

        Raises:
            ValueError: for a log with fewer users (or rows, where it has no users) than folds.
        """
        try:
            artifact = _own(self._folder, KIND, self.fingerprint)
        except ArtifactError:
            return self._fit(progress)
        folds = self._settings.folds
        progress(2 * folds, 2 * folds)
        columns = artifact.tensors("columns")
        model, state_model = (
            kind([regression.untrained() for _ in range(folds)], out_key=key)
            for kind, key, regression in self._kinds()
        )
        model.load_state_dict(artifact.tensors("model"))
        state_model.load_state_dict(artifact.tensors("state_model"))
        return LogReward(
            model.requires_grad_(False).eval().to(self._device),
            state_model.requires_grad_(False).eval().to(self._device),
            TensorDict(columns, [len(columns["fold"])]),
            artifact.facts["facts"],
            self.fingerprint,
        )

    # -- fitting --------------------------------------------------------------------------------

    def _fit(self, progress: Progress) -> LogReward:
        settings = self._settings
        train = self._data.log.split("train")
        user = train.column("user") if self._data.log.schema.user is not None else None
        fold = log_folds(len(train), self._groups, settings.folds, seed=settings.seed)
        rows = self._chosen_rows(fold, user)
        group_key = None if user is None else "user"
        models = []
        for number, (kind, key, regression) in enumerate(self._kinds()):
            fit = _Members(
                regression,
                self._folder / "members" / key,
                self.fingerprint,
                lambda there, before=number * settings.folds: progress(
                    before + there, 2 * settings.folds
                ),
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # LogReward.check says it better
                fitted = kind.fit(rows, fit, folds=settings.folds, out_key=key, group_key=group_key)
            models.append(fitted)
        model, state_model = models
        columns = reward_columns(fold, self._judged(model, fold), self._judged(state_model, fold))
        facts = {
            "explained_variance": model.explained_variance.item(),
            "explained_variance_error": model.explained_variance_error.item(),
            "explained_variance_of_state": state_model.explained_variance.item(),
            "scale": model.scale.item(),
            "rows": len(rows),
            "folds": settings.folds,
            "folds_of": "rows" if self._groups is None else "users",
        }
        save_artifact(
            self._folder,
            kind=KIND,
            version=VERSION,
            facts={"fingerprint": self.fingerprint, "facts": facts},
            tensors={
                "model": model.state_dict(),
                "state_model": state_model.state_dict(),
                "columns": dict(columns.items()),
            },
        )
        shutil.rmtree(self._folder / "members", ignore_errors=True)  # the artifact has them all
        return LogReward(model, state_model, columns, facts, self.fingerprint)

    def _chosen_rows(self, fold: Tensor, user: Tensor | None) -> TensorDictBase:
        """The rows that are learned from, in memory: what the network reads, reward, user, fold."""
        count, most = len(fold), self._settings.max_rows
        chosen = torch.ones(count, dtype=torch.bool)
        if count > most:
            generator = torch.Generator().manual_seed(self._settings.seed)
            chosen[torch.randperm(count, generator=generator)[most:]] = False
        parts = []
        for start, block in self._blocks():
            mine = slice(start, start + len(block))
            rows = block.select(*self._shape.inputs, ("next", "reward"))
            rows.set("fold", fold[mine])
            if user is not None:
                rows.set("user", user[mine])
            parts.append(rows[chosen[mine]])
        return torch.cat(parts).to(self._device)

    def _judged(self, model: CrossFittedReward, fold: Tensor) -> Tensor:
        """Out-of-fold predictions of all training rows, float32 ``[N]``."""
        parts = []
        for start, block in self._blocks():
            rows = block.select(*self._shape.inputs)
            rows.set("fold", fold[start : start + len(block)])
            parts.append(model.out_of_fold(rows.to(self._device)).cpu())
        return torch.cat(parts)

    def _blocks(self) -> Iterator[tuple[int, TensorDictBase]]:
        blocks = self._data.train_batches(_ROWS_AT_A_TIME)
        return ((number * _ROWS_AT_A_TIME, block) for number, block in enumerate(blocks))

    @cached_property
    def _groups(self) -> Tensor | None:
        return fold_groups(self._data)

    @cached_property
    def _shape(self) -> RewardShape:
        data = self._data
        return RewardShape(data.num_items, self._history, data.context_sizes, data.num_features)

    def _kinds(self) -> tuple[tuple[type[CrossFittedReward], str, RewardRegression], ...]:
        """Of Q and of V: what holds the members, what they write, and how one is fitted."""
        return (
            (CatalogueReward, "predicted_reward", self._regression(two_tower_module)),
            (CrossFittedReward, "state_value", self._regression(state_module)),
        )

    def _regression(self, make: Callable[..., TensorDictModule]) -> RewardRegression:
        moments = self._data.feature_moments() if self._data.num_features else None
        return reward_regression(
            make, self._shape, self._settings, moments=moments, by_user=self._groups is not None
        )


class _Members:
    """Fits members in turn, writing each when it is done; one that is there is read instead."""

    def __init__(
        self,
        regression: RewardRegression,
        folder: Path,
        fingerprint: str,
        progress: Callable[[int], None],
    ) -> None:
        self._regression, self._folder = regression, folder
        self._fingerprint, self._progress = fingerprint, progress
        self._there = 0

    def __call__(self, rows: TensorDictBase) -> StandardisedReward:
        folder = self._folder / str(self._there)
        try:
            state = _own(folder, MEMBER_KIND, self._fingerprint).tensors("model")
            model = self._regression.untrained()
            model.load_state_dict(state)
            model = model.requires_grad_(False).eval().to(rows.get("action").device)
        except ArtifactError:
            model = self._regression(rows)
            save_artifact(
                folder,
                kind=MEMBER_KIND,
                version=VERSION,
                facts={"fingerprint": self._fingerprint},
                tensors={"model": model.state_dict()},
            )
        self._there += 1
        self._progress(self._there)
        return model


def _own(folder: Path, kind: str, fingerprint: str) -> Artifact:
    """The artifact of this very fit.

    Raises:
        ArtifactError: if there is none, or that of another fit.
    """
    artifact = Artifact(folder, kind=kind, version=VERSION)
    if artifact.facts.get("fingerprint") != fingerprint:
        raise ArtifactError(f"{folder} holds a {kind} of other rows or settings")
    return artifact
