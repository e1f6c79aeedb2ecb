"""What is known of users, as the numbers that a policy reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.data import LogSchema
from torchrl_drpo.data.catalogue import Catalogue
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.artifacts.users import RawId


class Situation(NamedTuple):
    """One user now.

    Attributes:
        seen: item numbers of the whole history, oldest first, int64 ``[n]``.
        context: int64 ``[C]``, or ``None`` where nothing is known of it.
        features: float32 ``[F]``, or ``None``.
        times: when its items were logged, int64 ``[n]``, where the policy reads that.
        feedback: what they were worth, ``[n]``, likewise.
    """

    seen: Tensor
    context: Tensor | None
    features: Tensor | None
    times: Tensor | None = None
    feedback: Tensor | None = None


def situation(
    checkpoint: PolicyCheckpoint,
    user: RawId | None,
    history: Sequence[RawId] | None = None,
    context: Sequence[RawId | None] | None = None,
    features: Sequence[float] | None = None,
    cold_start: bool = False,
) -> Situation:
    """What is known of a user, with what the caller says in the place of what the log knows.

    Raises:
        ValueError: for a user whom the log does not know, unless there is a history or
            ``cold_start``; for a history's item that is not in the catalogue; for a number of
            columns that is not the log's, or a feature that is not finite.
    """
    # Before the user is looked for: what is wrong for everybody is the first thing to say.
    now = _context_now(checkpoint, context), _features_now(checkpoint, features)
    users = checkpoint.users
    row = -1 if user is None else users.ids.find(user)
    known = (users.context[row], users.features[row]) if row >= 0 else (None, None)
    about: dict[str, Tensor] = {}
    if history is not None:
        seen = _encode(checkpoint, history)
    elif row >= 0:
        seen, about = users.sequence(row), users.about(row)
    elif user is not None and not cold_start:
        raise ValueError(unknown_user(checkpoint, user))
    else:
        seen = torch.zeros(0, dtype=torch.long)
    return Situation(
        seen,
        *(new if new is not None else old for new, old in zip(now, known, strict=True)),
        **about,
    )


def unknown_user(checkpoint: PolicyCheckpoint, user: RawId) -> str:
    """What to say of a user whom the log does not know."""
    return (
        f"user {user!r} is not among the {len(checkpoint.users.ids)} users of the log; ask for the "
        "cold-start list (--cold-start, in Python and in requests cold_start), or say what "
        "was seen (--history of one user, history in Python and in requests)"
    )


def numbers_of(items: Catalogue, raws: Sequence[RawId]) -> Tensor:
    """Numbers of the items that the catalogue has, int64 ``[n]``, each once; others are left out.

    For lists of what may and may not be recommended: an item that the policy does not know is
    never recommended.
    """
    found = items.find_all(raws)
    return found[found >= 0].unique()


def log_columns(checkpoint: PolicyCheckpoint, name: Literal["context", "features"]) -> list[str]:
    """Names of the log's columns of that kind, as far as the checkpoint knows them."""
    schema = checkpoint.facts.get("schema")
    return [] if schema is None else list(getattr(LogSchema.from_json(schema), name))


def _encode(checkpoint: PolicyCheckpoint, history: Sequence[RawId]) -> Tensor:
    if isinstance(history, str):
        raise ValueError(f"history must be a sequence of item ids, got the text {history!r}")
    numbers = checkpoint.items.find_all(history)
    unknown = (numbers < 0).nonzero().flatten().tolist()
    if unknown:
        raise ValueError(
            f"history names {history[unknown[0]]!r}, which is not in the catalogue of "
            f"{len(checkpoint.items)} items ({len(unknown)} of {len(numbers)} are unknown)"
        )
    return numbers


def _context_now(
    checkpoint: PolicyCheckpoint, context: Sequence[RawId | None] | None
) -> Tensor | None:
    """Numbers of raw context values, int64 ``[C]``; -1 for a value that the log does not hold."""
    if context is None:
        return None
    _check_count(checkpoint, "context", context, len(checkpoint.model["context_sizes"]))
    pairs = zip(checkpoint.contexts, context, strict=True)
    return torch.tensor(
        [-1 if raw is None else values.find(raw) for values, raw in pairs], dtype=torch.long
    )


def _features_now(checkpoint: PolicyCheckpoint, features: Sequence[float] | None) -> Tensor | None:
    """Raw numbers as the policy reads them, float32 ``[F]``."""
    if features is None:
        return None
    _check_count(checkpoint, "features", features, checkpoint.model.get("num_features", 0))
    numbers = torch.tensor([float(value) for value in features], dtype=torch.float32)
    bad = (~numbers.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"features must be finite float32 numbers but number {bad[0]} (from 0) is "
            f"{features[bad[0]]}; leave features out to take the latest ones that the log knows"
        )
    return numbers


def _check_count(
    checkpoint: PolicyCheckpoint,
    name: Literal["context", "features"],
    values: Sequence[RawId | None] | Sequence[float],
    count: int,
) -> None:
    """Raises ``ValueError`` unless there is one value for each of the log's columns."""
    if isinstance(values, str):  # a sequence of letters
        raise ValueError(f"{name} must be a sequence of values, got the text {values!r}")
    if len(values) == count:
        return
    columns = log_columns(checkpoint, name)
    raise ValueError(
        f"{name} must hold one value for each of the {count} {name} columns of the log"
        f"{' (' + ', '.join(columns) + ')' if columns else ''}, got {len(values)}: {list(values)}"
    )
