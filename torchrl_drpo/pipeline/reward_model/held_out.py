"""A reward model for rows that it has not seen: what doubly robust estimates correct.

The rows to be judged come last in their log. A model of the rows before them is therefore new to
all of them, whichever fold it was fitted without: the run's own, where it has one, or one that is
fitted here. Either numbers items and contexts as the policy does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from torchrl_drpo.pipeline.artifacts.folder import Artifact, ArtifactError
from torchrl_drpo.pipeline.reward_model.fit import KIND, VERSION
from torchrl_drpo.pipeline.reward_model.folding import names_user
from torchrl_drpo.pipeline.reward_model.make import RewardConfig, RewardShape, reward_regression
from torchrl_drpo.rewards.catalogue import CatalogueReward
from torchrl_drpo.rewards.towers import CONTEXT, two_tower_module

#: Fitted to so many of the earlier rows at most: a correction has no use for the last digit.
SETTINGS = RewardConfig(max_rows=200_000)


def read_reward(
    folder: Path, fingerprint: str | None, shape: RewardShape
) -> CatalogueReward | None:
    """The reward model that a run has left in its folder.

    Args:
        folder: where it would lie.
        fingerprint: of the model that the policy's run had; ``None`` for none.
        shape: as it was fitted.

    Returns:
        The model; ``None`` where there is none, another one, or one of another make.
    """
    if fingerprint is None:
        return None
    try:
        artifact = Artifact(folder, kind=KIND, version=VERSION)
        if artifact.facts.get("fingerprint") != fingerprint:
            return None
        model = _untrained(shape, RewardConfig(folds=artifact.facts["facts"]["folds"]))
        model.load_state_dict(artifact.tensors("model"))
    except (ArtifactError, KeyError, RuntimeError):
        return None
    return model.requires_grad_(False).eval()


def fit_reward(
    rows: TensorDictBase,
    shape: RewardShape,
    *,
    moments: tuple[Tensor, Tensor] | None = None,
    settings: RewardConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CatalogueReward:
    """A model of the reward of rows that come before those that it is to judge.

    Args:
        rows: batch size ``[N]``, with the entries of ``shape``, the reward and, where the log has
            users, ``user``; they gain ``fold`` and ``predicted_reward``.
        shape: of the log.
        moments: mean and standard deviation of the numeric features.
        settings: numbers of the fit.
        progress: called with the number of members that are there, and of all.

    Raises:
        ValueError: for fewer users (or rows, where there are none) than folds.
    """
    settings = settings or SETTINGS
    by_user = "user" in rows.keys() and not (  # noqa: SIM118 (TensorDict)
        shape.context_sizes and names_user(rows.get("user"), rows.get(CONTEXT))
    )
    fit = reward_regression(two_tower_module, shape, settings, moments=moments, by_user=by_user)
    there = 0

    def counted(some: TensorDictBase) -> Any:
        nonlocal there
        member, there = fit(some), there + 1
        if progress is not None:
            progress(there, settings.folds)
        return member

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what it explains stands beside the estimates
        return CatalogueReward.fit(
            rows,
            counted,
            folds=settings.folds,
            group_key="user" if by_user else None,
            seed=settings.seed,
        )


def _untrained(shape: RewardShape, settings: RewardConfig) -> CatalogueReward:
    make = reward_regression(two_tower_module, shape, settings, moments=None, by_user=False)
    return CatalogueReward([make.untrained() for _ in range(settings.folds)])
