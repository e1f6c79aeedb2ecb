"""``drpo recommend``: a user's raw id to a list of raw item ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.experiments.catalogue_checkpoint import CatalogueCheckpoint, RawId, find


@dataclass(frozen=True)
class RecommendConfig:
    """Recommend items to one user of the log.

    Attributes:
        checkpoint: directory of a trained policy, as `drpo train` writes it.
        user: the user's id, as in the log.
        k: how many items.
        exclude_seen: leave out what the user has seen in the log.
        cold_start: give an unknown user the list for an empty history, instead of an error.
        json: print the list as JSON instead of a table.
    """

    checkpoint: Path
    user: str
    k: int = 10
    exclude_seen: bool = True
    cold_start: bool = False
    json: bool = False


class Recommendation(NamedTuple):
    """One place of a list.

    Attributes:
        item: raw item id.
        score: the policy's logit; comparable within one list.
    """

    item: RawId
    score: float


def run_recommend(config: RecommendConfig) -> list[Recommendation]:
    """The list for ``config.user``, best first."""
    return recommend(
        CatalogueCheckpoint.load(config.checkpoint),
        config.user,
        k=config.k,
        exclude_seen=config.exclude_seen,
        cold_start=config.cold_start,
    )


def recommend(
    checkpoint: CatalogueCheckpoint,
    user: RawId | None = None,
    *,
    k: int = 10,
    history: Sequence[RawId] | None = None,
    exclude_seen: bool = True,
    cold_start: bool = False,
) -> list[Recommendation]:
    """The ``k`` items that the policy prefers for a user now.

    Args:
        checkpoint: the policy, with the users' latest histories, contexts and features.
        user: raw user id.
        k: how many items, at least 1; fewer come back only where the catalogue runs out.
        history: raw item ids, oldest first, instead of what the log knows of the user (a user
            who came after the log has one; ``user`` may then be ``None``).
        exclude_seen: leave out the items of the user's whole history.
        cold_start: take an empty history for a user whom the log does not know.

    Returns:
        The list, best first.

    Raises:
        ValueError: if ``k`` is below 1, the user is unknown, or ``history`` names an item that
            is not in the catalogue.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    seen, context, features = _situation(checkpoint, user, history, cold_start)
    state = checkpoint.state(seen, context, features)
    exclude = seen.unique() if exclude_seen else None
    k = min(k, len(checkpoint.items))
    scores, indices = checkpoint.index().top_k(state, k, exclude)
    left = indices >= 0  # -1 where the rest of the catalogue was excluded
    items = checkpoint.items.decode(indices[left])
    return [Recommendation(*pair) for pair in zip(items, scores[left].tolist(), strict=True)]


def _situation(
    checkpoint: CatalogueCheckpoint,
    user: RawId | None,
    history: Sequence[RawId] | None,
    cold_start: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Item indices of the history, oldest first; context and features where they are known."""
    users = checkpoint.users
    row = -1 if user is None else find(users.ids, user)
    context, features = (users.context[row], users.features[row]) if row >= 0 else (None, None)
    if history is not None:
        return _encode(checkpoint, history), context, features
    if row >= 0:
        return users.sequence(row), context, features
    if not cold_start:
        raise ValueError(
            f"user {user!r} is not among the {len(users.ids)} users of the log; pass the items "
            "seen as a history, or ask for the cold-start list"
        )
    return torch.zeros(0, dtype=torch.long), None, None


def _encode(checkpoint: CatalogueCheckpoint, history: Sequence[RawId]) -> Tensor:
    numbers = [find(checkpoint.items, item) for item in history]
    if -1 in numbers:
        raise ValueError(
            f"history names {history[numbers.index(-1)]!r}, which is not in the catalogue of "
            f"{len(checkpoint.items)} items ({numbers.count(-1)} of {len(numbers)} are unknown)"
        )
    return torch.tensor(numbers, dtype=torch.long)
