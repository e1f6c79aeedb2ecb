"""The reward model behind ``uphill``, ``-q`` and ``-a`` for policies over item vectors.

Bilinear models of state and item direction, cross-fitted, in closed form: seconds, where
the two towers of a catalogue's model take minutes. Beside them the same of the state alone, which
``-a`` needs. They are fitted once a command and kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from torchrl_drpo.pipeline.artifacts.folder import Artifact, ArtifactError, save_artifact
from torchrl_drpo.pipeline.config.kinds import EmbeddingOptions
from torchrl_drpo.pipeline.reward_model.folding import fold_groups, log_folds
from torchrl_drpo.pipeline.reward_model.log_reward import LogReward, reward_columns
from torchrl_drpo.pipeline.rows import SplitLog
from torchrl_drpo.policies.retrieval import VectorRows
from torchrl_drpo.rewards.bilinear import BilinearReward
from torchrl_drpo.rewards.explained import explained_variance
from torchrl_drpo.rewards.uphill import cross_fit_bilinear, out_of_fold, uphill_actions

KIND = "torchrl-drpo embedding reward model"
VERSION = 3  # 1 had no V; 2 no standard error, and folds of users where the state is the user
_ROWS_AT_A_TIME = 8192

#: Called with the number of steps that are done, and of all.
Progress = Callable[[int, int], None]


class UphillRows:
    """Moves the actions of rows of :class:`~torchrl_drpo.policies.retrieval.VectorRows` uphill.

    Args:
        models: one a fold.
        typical: mean length of the slopes over the log.
        step: ``uphill_step`` of :class:`EmbeddingOptions`.
    """

    def __init__(self, models: Sequence[BilinearReward], typical: float, step: float) -> None:
        self._models, self._typical, self._step = models, typical, step

    def __call__(self, rows: TensorDictBase) -> TensorDictBase:
        """Moves ``action`` by the model of the row's ``fold``; ``logged_action`` is as it was."""
        action = rows.get("action")
        _, slope = out_of_fold(self._models, rows.get("fold"), rows.get("state"), action)
        rows.set("logged_action", action)
        moved = uphill_actions(action, slope, self._step, typical=self._typical)
        return rows.set("action", moved)


def fit_embedding_reward(
    data: SplitLog,
    vectors: VectorRows,
    folder: Path,
    settings: EmbeddingOptions,
    progress: Progress,
) -> LogReward:
    """The log's models: read where this very fit has finished before, else fitted and written.

    Args:
        data: the log.
        vectors: gives states and item vectors.
        folder: where the models are kept, and found again.
        settings: numbers of the fit.
        progress: told when it is done.

    Returns:
        ``model`` is a pair of the models and of their slopes' mean length, as
        :class:`UphillRows` takes them; ``state_model`` the models of the state alone, which read
        :func:`no_action`; ``columns`` as for a catalogue's model.

    Raises:
        ValueError: for a log with fewer users (or rows, where it has no users) than folds.
    """
    fingerprint = _fingerprint(data, vectors, settings)
    progress(0, 1)
    try:
        reward = _read(folder, fingerprint)
    except ArtifactError:
        reward = _fit(data, vectors, settings, fingerprint)
        _write(reward, folder)
    progress(1, 1)
    return reward


def _fit(
    data: SplitLog, vectors: VectorRows, settings: EmbeddingOptions, fingerprint: str
) -> LogReward:
    train = data.log.split("train")
    user = fold_groups(data)
    fold = log_folds(len(train), user, settings.folds, remedy="fewer folds, or for ")
    rows = _chosen_rows(data, vectors, fold, settings.max_rows)
    models, state_models = (
        cross_fit_bilinear(
            rows["state"],
            action,
            rows["reward"],
            folds=settings.folds,
            fold=rows["fold"],
            landmarks=settings.landmarks,
        )[0]
        for action in (rows["action"], no_action(rows["state"]))
    )
    fitted_to = len(rows)
    del rows
    predicted, value, length = [], [], []
    for start, block in _blocks(data, vectors):
        mine, state = fold[start : start + len(block)], block["state"]
        judged, slope = out_of_fold(models, mine, state, block["action"])
        predicted.append(judged)
        length.append(slope.norm(dim=-1).sum(dtype=torch.float64))
        value.append(out_of_fold(state_models, mine, state, no_action(state))[0])
    columns = reward_columns(fold, torch.cat(predicted), torch.cat(value))
    typical = (torch.stack(length).sum() / len(train)).item()
    independent = None if data.log.schema.user is None else train.column("user")
    explained, of_state = (
        explained_variance(columns[name], train.quality, independent)
        for name in ("predicted_reward", "state_value")
    )
    facts = {
        "explained_variance": explained.share.item(),
        "explained_variance_error": explained.error.item(),
        "explained_variance_of_state": of_state.share.item(),
        "scale": columns["predicted_reward"].std(correction=0).item(),
        "slope": typical,
        "ridge": float(models[0].ridge),
        "rows": fitted_to,
        "folds": settings.folds,
        "folds_of": "rows" if user is None else "users",
    }
    return LogReward((models, typical), state_models, columns, facts, fingerprint)


def no_action(state: Tensor) -> Tensor:
    """The action ``[N, 1]`` of models of the state ``[N, p]`` alone.

    A bilinear reward reads an action's direction, and zero has none: what is left of the model is
    the kernel ridge regression on the state.

    Example:
        >>> import torch
        >>> no_action(torch.ones(2, 5))
        tensor([[0.],
                [0.]])
    """
    return state.new_zeros(len(state), 1)


def _chosen_rows(data: SplitLog, vectors: VectorRows, fold: Tensor, most: int) -> TensorDict:
    """The rows that are learned from, in memory: state, action, reward, fold."""
    chosen = torch.ones(len(fold), dtype=torch.bool)
    if len(fold) > most:
        generator = torch.Generator().manual_seed(0)
        chosen[torch.randperm(len(fold), generator=generator)[most:]] = False
    parts = []
    for start, block in _blocks(data, vectors):
        mine = slice(start, start + len(block))
        columns = {
            "state": block["state"],
            "action": block["action"],
            "reward": block["next", "reward"].reshape(-1),
            "fold": fold[mine],
        }
        parts.append(TensorDict(columns, [len(block)])[chosen[mine]])
    return torch.cat(parts)


def _blocks(data: SplitLog, vectors: VectorRows) -> Iterator[tuple[int, TensorDictBase]]:
    for number, block in enumerate(data.train_batches(_ROWS_AT_A_TIME)):
        yield number * _ROWS_AT_A_TIME, vectors(block)


def _fingerprint(data: SplitLog, vectors: VectorRows, settings: EmbeddingOptions) -> str:
    """What the models depend on: rows, states, vectors and numbers, but for the step."""
    numbers = {name: value for name, value in asdict(settings).items() if name != "uphill_step"}
    train = data.log.split("train").storage.state_dict()
    known: list[Any] = [VERSION, numbers, train, data.log.schema.to_json()]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for tensor in (vectors.policy.items, *vectors.policy.state.state_dict().values()):
        digest.update(tensor.contiguous().numpy())  # as it lies there: a table is not copied
    return digest.hexdigest()


def _write(reward: LogReward, folder: Path) -> None:
    models, _ = reward.model
    save_artifact(
        folder,
        kind=KIND,
        version=VERSION,
        facts={"fingerprint": reward.fingerprint, "facts": reward.facts},
        tensors={
            "models": _tensors(models),
            "state_models": _tensors(reward.state_model),
            "columns": dict(reward.columns.items()),
        },
    )


def _read(folder: Path, fingerprint: str) -> LogReward:
    artifact = Artifact(folder, kind=KIND, version=VERSION)
    if artifact.facts.get("fingerprint") != fingerprint:
        raise ArtifactError(f"{folder} holds a {KIND} of other rows or settings")
    facts, columns = artifact.facts["facts"], artifact.tensors("columns")
    models, state_models = (
        _models(artifact.tensors(group), facts["folds"]) for group in ("models", "state_models")
    )
    rows = TensorDict(columns, [len(columns["fold"])])
    return LogReward((models, facts["slope"]), state_models, rows, facts, fingerprint)


def _tensors(models: Sequence[BilinearReward]) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": tensor
        for number, model in enumerate(models)
        for name, tensor in model.state_dict().items()
    }


def _models(tensors: dict[str, Tensor], count: int) -> list[BilinearReward]:
    models = []
    for number in range(count):
        mine = f"{number}."
        parts = {k.removeprefix(mine): v for k, v in tensors.items() if k.startswith(mine)}
        models.append(BilinearReward(**parts))
    return models
