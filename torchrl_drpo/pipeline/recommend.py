"""``drpo recommend``: a user's raw id to a list of raw item ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.data import LogSchema
from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint
from torchrl_drpo.pipeline.artifacts.users import RawId
from torchrl_drpo.pipeline.config.serve import RecommendConfig
from torchrl_drpo.pipeline.terminal import print_json, show
from torchrl_drpo.report.tables import Table


class Recommendation(NamedTuple):
    """One place of a list.

    Attributes:
        item: raw item id.
        score: the policy's logit, or log-probability for one over semantic IDs; comparable within
            one list.
    """

    item: RawId
    score: float


def command(config: RecommendConfig) -> None:
    """``drpo recommend``."""
    found = run_recommend(config)
    if config.json:
        items = [place._asdict() for place in found]
        print_json({"user": config.user, "recommendations": items})
        return
    rows = [[str(rank), str(p.item), f"{p.score:.3f}"] for rank, p in enumerate(found, start=1)]
    whom = "somebody new" if config.user is None else f"user {config.user}"
    show(Table(f"For {whom}", ["rank", "item", "score"], rows))


def run_recommend(config: RecommendConfig) -> list[Recommendation]:
    """The list for ``config.user``, best first."""
    return recommend(
        PolicyCheckpoint.load(config.checkpoint),
        config.user,
        k=config.k,
        context=config.context or None,
        features=config.features or None,
        exclude_seen=config.exclude_seen,
        cold_start=config.cold_start,
    )


def recommend(
    checkpoint: PolicyCheckpoint,
    user: RawId | None = None,
    *,
    k: int = 10,
    history: Sequence[RawId] | None = None,
    context: Sequence[RawId] | None = None,
    features: Sequence[float] | None = None,
    exclude_seen: bool = True,
    cold_start: bool = False,
) -> list[Recommendation]:
    """The ``k`` items that the policy prefers for a user now.

    Args:
        checkpoint: the policy, with the users' latest histories, contexts and features.
        user: raw user id; ``None`` for somebody of whom nothing is known.
        k: how many items, at least 1; fewer come back only where the catalogue runs out.
        history: raw item ids, oldest first, instead of what the log knows of the user (a user
            who came after the log has one; ``user`` may then be ``None``).
        context: raw values of the context columns, in the schema's order, instead of the latest
            ones that the log knows of the user; a value that the log does not hold counts as
            unknown.
        features: raw numbers, in the schema's order and units, instead of the latest ones that
            the log knows of the user.
        exclude_seen: leave out the items of the user's whole history.
        cold_start: take an empty history for a user whom the log does not know.

    Returns:
        The list, best first.

    Raises:
        ValueError: if ``k`` is below 1, the user is unknown, ``history`` names an item that is not
            in the catalogue or has no times for a policy that reads them, ``context`` or
            ``features`` are of another number than the log's columns, or a feature is not finite.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    # Before the user is looked for: what is wrong for everybody is the first thing to say.
    given = (_context_now(checkpoint, context), _features_now(checkpoint, features))
    seen, about, *known = _situation(checkpoint, user, history, cold_start)
    state = checkpoint.state(
        seen,
        *(new if new is not None else old for new, old in zip(given, known, strict=True)),
        **about,
    )
    exclude = seen.unique() if exclude_seen else None
    k = min(k, len(checkpoint.items))
    scores, indices = checkpoint.ranking()(state, k, exclude)
    left = indices >= 0  # -1 where the rest of the catalogue was excluded
    items = checkpoint.items.decode(indices[left])
    return [Recommendation(*pair) for pair in zip(items, scores[left].tolist(), strict=True)]


def _situation(
    checkpoint: PolicyCheckpoint,
    user: RawId | None,
    history: Sequence[RawId] | None,
    cold_start: bool,
) -> tuple[Tensor, dict[str, Tensor], Tensor | None, Tensor | None]:
    """Item indices of the history, oldest first, and what else is known of its rows.

    Then context and features, where they are known.
    """
    users = checkpoint.users
    row = -1 if user is None else users.ids.find(user)
    context, features = (users.context[row], users.features[row]) if row >= 0 else (None, None)
    if history is not None:
        return _encode(checkpoint, history), {}, context, features
    if row >= 0:
        return users.sequence(row), users.about(row), context, features
    if user is not None and not cold_start:
        raise ValueError(
            f"user {user!r} is not among the {len(users.ids)} users of the log; pass the items "
            "seen as a history, or ask for the cold-start list"
        )
    return torch.zeros(0, dtype=torch.long), {}, None, None


def _encode(checkpoint: PolicyCheckpoint, history: Sequence[RawId]) -> Tensor:
    numbers = [checkpoint.items.find(item) for item in history]
    if -1 in numbers:
        raise ValueError(
            f"history names {history[numbers.index(-1)]!r}, which is not in the catalogue of "
            f"{len(checkpoint.items)} items ({numbers.count(-1)} of {len(numbers)} are unknown)"
        )
    return torch.tensor(numbers, dtype=torch.long)


def _context_now(checkpoint: PolicyCheckpoint, context: Sequence[RawId] | None) -> Tensor | None:
    """Numbers of raw context values, int64 ``[C]``; -1 for a value that the log does not hold."""
    if context is None:
        return None
    _check_count(checkpoint, "context", context, len(checkpoint.model["context_sizes"]))
    pairs = zip(checkpoint.contexts, context, strict=True)
    return torch.tensor([values.find(raw) for values, raw in pairs], dtype=torch.long)


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
    values: Sequence[RawId] | Sequence[float],
    count: int,
) -> None:
    """Raises ``ValueError`` unless there is one value for each of the log's columns."""
    if isinstance(values, str):  # a sequence of letters
        raise ValueError(f"{name} must be a sequence of values, got the text {values!r}")
    if len(values) == count:
        return
    schema = checkpoint.facts.get("schema")
    columns = [] if schema is None else list(getattr(LogSchema.from_json(schema), name))
    raise ValueError(
        f"{name} must hold one value for each of the {count} {name} columns of the log"
        f"{' (' + ', '.join(columns) + ')' if columns else ''}, got {len(values)}: {list(values)}"
    )
