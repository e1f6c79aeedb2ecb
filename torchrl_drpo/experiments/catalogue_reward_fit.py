"""The reward model of a log: fitted to its training rows once, and kept in the output folder.

All objectives and seeds of a command share it. A fit that is killed keeps the members that it has
finished; a model that was fitted to other rows, or with other numbers, is fitted anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor

from torchrl_drpo.experiments.artifacts import Artifact, ArtifactError, save_artifact
from torchrl_drpo.experiments.catalogue_data import CatalogueData
from torchrl_drpo.experiments.catalogue_reward import (
    CONTEXT,
    FEATURES,
    HISTORY,
    CatalogueReward,
    two_tower_module,
)
from torchrl_drpo.rewards import RewardRegression, assign_folds
from torchrl_drpo.rewards.regression import StandardisedReward

KIND, MEMBER_KIND = "torchrl-drpo catalogue reward model", "torchrl-drpo catalogue reward member"
VERSION = 1
_ROWS_AT_A_TIME = 8192

#: Called with the number of members that are there, and of all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RewardConfig:
    """Numbers of the fit.

    Attributes:
        folds: of the cross-fitting; all rows of a user lie in one.
        dim: width of the towers.
        hidden: widths of the state tower's hidden layers.
        steps: gradient steps a member at most; the rows that it holds out stop it earlier.
        batch_size: rows a step.
        learning_rate: of AdamW.
        max_rows: fit to so many training rows at most, drawn at random; all rows are judged.
        seed: of the folds, the drawing and the members.
    """

    folds: int = 5
    dim: int = 32
    hidden: tuple[int, ...] = (64,)
    steps: int = 4_000
    batch_size: int = 1_024
    learning_rate: float = 3e-4
    max_rows: int = 2_000_000
    seed: int = 0


@dataclass(frozen=True)
class LogReward:
    """A log's reward model and what it says of the training rows.

    Attributes:
        model: the model, frozen: a :class:`CatalogueReward`, or what
            :func:`~torchrl_drpo.experiments.embedding_reward.fit_embedding_reward` says.
        columns: ``fold`` and the out-of-fold ``predicted_reward`` of every training row, in
            storage order: columns for an :class:`~torchrl_drpo.rewards.AnnotatedBuffer`.
        facts: how it was fitted and how good it is, as JSON data; ``explained_variance`` is the
            share of the variance of rewards that no member in question had seen.
        fingerprint: of what the model depends on.
    """

    model: Any
    columns: TensorDict
    facts: dict[str, Any]
    fingerprint: str

    def describe(self) -> str:
        """One sentence for people."""
        facts = self.facts
        return (
            "The reward model behind uphill, guided and the objectives that end in -q explains "
            f"{facts['explained_variance']:.1%} of the variance of quality in {facts['rows']:,} "
            f"training rows, each judged by one of {facts['folds']} models that saw nothing of its "
            f"fold of {facts['folds_of']}."
        )

    def check(self) -> None:
        """Refuses a model that knows nothing.

        Raises:
            ValueError: if it explains nothing of the rewards that it had not seen.
        """
        explained = self.facts["explained_variance"]
        if not explained > 0:
            raise ValueError(
                f"the reward model explains nothing of this log (out-of-fold explained variance "
                f"{explained:.4f} over {self.facts['rows']:,} training rows), so following it "
                "would be following noise; leave out the objectives that need it "
                "(uphill, guided and those that end in -q)"
            )


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
        data: CatalogueData,
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
        known = [VERSION, asdict(self._settings), self._history, train, schema]
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
        progress(self._settings.folds, self._settings.folds)
        make = self._regression().untrained
        model = CatalogueReward([make() for _ in range(self._settings.folds)])
        model.load_state_dict(artifact.tensors("model"))
        columns = artifact.tensors("columns")
        return LogReward(
            model.requires_grad_(False).eval().to(self._device),
            TensorDict(columns, [len(columns["fold"])]),
            artifact.facts["facts"],
            self.fingerprint,
        )

    # -- fitting --------------------------------------------------------------------------------

    def _fit(self, progress: Progress) -> LogReward:
        settings = self._settings
        train = self._data.log.split("train")
        user = train.column("user") if self._by_user else None
        fold = assign_folds(len(train), settings.folds, group=user, seed=settings.seed)
        rows = self._chosen_rows(fold, user)
        fit = _Members(
            self._regression(),
            self._folder,
            self.fingerprint,
            lambda there: progress(there, settings.folds),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # LogReward.check says it better
            model = CatalogueReward.fit(rows, fit, folds=settings.folds)
        columns = TensorDict(
            {"fold": fold.to(torch.int16), "predicted_reward": self._judged(model, fold)},
            [len(fold)],
        )
        facts = {
            "explained_variance": model.explained_variance.item(),
            "scale": model.scale.item(),
            "rows": len(rows),
            "folds": settings.folds,
            "folds_of": "users" if self._by_user else "rows",
        }
        save_artifact(
            self._folder,
            kind=KIND,
            version=VERSION,
            facts={"fingerprint": self.fingerprint, "facts": facts},
            tensors={"model": model.state_dict(), "columns": dict(columns.items())},
        )
        fit.forget()  # the artifact has them all
        return LogReward(model, columns, facts, self.fingerprint)

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
            rows = block.select(*self._inputs, ("next", "reward"))
            rows.set("fold", fold[mine])
            if user is not None:
                rows.set("user", user[mine])
            parts.append(rows[chosen[mine]])
        return torch.cat(parts).to(self._device)

    def _judged(self, model: CatalogueReward, fold: Tensor) -> Tensor:
        """Out-of-fold predictions of all training rows, float32 ``[N]``."""
        parts = []
        for start, block in self._blocks():
            rows = block.select(*self._inputs)
            rows.set("fold", fold[start : start + len(block)])
            parts.append(model.out_of_fold(rows.to(self._device)).cpu())
        return torch.cat(parts)

    def _blocks(self) -> Iterator[tuple[int, TensorDictBase]]:
        blocks = self._data.train_batches(_ROWS_AT_A_TIME)
        return ((number * _ROWS_AT_A_TIME, block) for number, block in enumerate(blocks))

    @property
    def _by_user(self) -> bool:
        return self._data.log.schema.user is not None

    @property
    def _inputs(self) -> list[NestedKey]:
        keys: list[NestedKey] = ["action", HISTORY]
        keys += [CONTEXT] if self._data.context_sizes else []
        keys += [FEATURES] if self._data.num_features else []
        return keys

    def _network(self) -> TensorDictModule:
        """An untrained member. All read features in the same units.

        Those of all training rows, a member's held-out fold included: its features then move the
        units a little, but of its rewards, which are what a member must not know, nothing is seen.
        """
        data, settings = self._data, self._settings
        network = two_tower_module(
            data.num_items,
            dim=settings.dim,
            history=self._history,
            context_sizes=data.context_sizes,
            hidden=settings.hidden,
            num_features=data.num_features,
        )
        if data.num_features:
            network.module.encoder.scaler.fit_(*data.feature_moments())
        return network

    def _regression(self) -> RewardRegression:
        settings = self._settings
        return RewardRegression(
            self._network,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            group_key="user" if self._by_user else None,
            seed=settings.seed,
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
        self._regression, self._folder = regression, folder / "members"
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

    def forget(self) -> None:
        """Removes what was kept for a fit that might have been killed."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _own(folder: Path, kind: str, fingerprint: str) -> Artifact:
    """The artifact of this very fit.

    Raises:
        ArtifactError: if there is none, or that of another fit.
    """
    artifact = Artifact(folder, kind=kind, version=VERSION)
    if artifact.facts.get("fingerprint") != fingerprint:
        raise ArtifactError(f"{folder} holds a {kind} of other rows or settings")
    return artifact
