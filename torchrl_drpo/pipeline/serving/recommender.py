"""A loaded policy that answers requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.pipeline.artifacts.checkpoint import PolicyCheckpoint, policy_of
from torchrl_drpo.pipeline.artifacts.users import RawId
from torchrl_drpo.pipeline.serving.lists import (
    FoundLists,
    IndexLists,
    Sampling,
    Search,
    TrieLists,
)
from torchrl_drpo.pipeline.serving.situations import numbers_of, situation
from torchrl_drpo.policies.decoding.approximate import Recall
from torchrl_drpo.policies.semantic_id import SemanticIDPolicy

#: Users of the log whose states an approximate search's recall is measured on.
_SAMPLE = 256


class Recommendation(NamedTuple):
    """One place of a list.

    Attributes:
        item: raw item id.
        score: the policy's logit, or log-probability for one over semantic IDs; comparable within
            one list.
    """

    item: RawId
    score: float


class DrawnRecommendation(NamedTuple):
    """One place of a list that was drawn.

    Attributes:
        item: raw item id.
        score: as of a :class:`Recommendation`.
        propensity: how likely the item was at its place, given the items before it.
    """

    item: RawId
    score: float
    propensity: float


#: A list, best first, or in the order in which it was drawn.
RecommendedList = list[Recommendation] | list[DrawnRecommendation]


@dataclass(frozen=True)
class Request:
    """What is asked for one user.

    Attributes:
        user: raw user id; ``None`` for somebody of whom nothing is known.
        k: how many items, at least 1; fewer come back only where no more are left.
        history: raw item ids, oldest first, instead of what the log knows of the user.
        context: raw values of the context columns, instead of the latest ones.
        features: raw numbers, instead of the latest ones.
        exclude: raw ids of items that must not come back.
        allow: raw ids of the only items that may; ``None``: any.
        exclude_seen: leave out the items of the user's whole history.
        cold_start: take an empty history for a user whom the log does not know.
        sampling: draw the list; ``None`` takes the best items.
    """

    user: RawId | None = None
    k: int = 10
    history: Sequence[RawId] | None = None
    context: Sequence[RawId | None] | None = None
    features: Sequence[float] | None = None
    exclude: Sequence[RawId] = ()
    allow: Sequence[RawId] | None = None
    exclude_seen: bool = True
    cold_start: bool = False
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")


class Recommender:
    """A policy with what its lists are searched in, made once.

    Args:
        checkpoint: the policy.
        search: of the item vectors: ``"exact"``, or an index of faiss, which policies over
            semantic IDs do not have.
        allow: raw ids of the only items that may come back in any list; ``None``: any.
        k: length of the lists that an approximate search's recall is measured on.

    Raises:
        ValueError: if none of the allowed items is known, or for an index over semantic IDs.
    """

    def __init__(
        self,
        checkpoint: PolicyCheckpoint,
        *,
        search: Search = "exact",
        allow: Sequence[RawId] | None = None,
        k: int = 10,
    ) -> None:
        self.checkpoint = checkpoint
        allowed = None if allow is None else numbers_of(checkpoint.items, allow)
        policy = policy_of(checkpoint.actor)
        self._lists: IndexLists | TrieLists
        if isinstance(policy, SemanticIDPolicy):
            if search != "exact":
                raise ValueError(
                    f"a policy over semantic IDs searches its trie and has no {search} index; "
                    "leave --index out"
                )
            self._lists = TrieLists(policy)
            self._lists = self._lists if allowed is None else self._lists.restrict(allowed)
        else:
            if allowed is not None and not len(allowed):
                raise ValueError("none of the items that are allowed is in the catalogue")
            sample = None if search == "exact" else self._some_states()
            self._lists = IndexLists(checkpoint.index(), allowed, search=search, sample=sample, k=k)

    @property
    def recall(self) -> Recall | None:
        """Of an approximate search, against the exact one, on the log's users."""
        return self._lists.recall

    def recommend(self, request: Request) -> RecommendedList:
        """The list for one user; see :class:`Request`.

        Raises:
            ValueError: for a user, history, context or features that do not fit the log, or if
                none of the allowed items is known.
        """
        now = situation(
            self.checkpoint,
            request.user,
            request.history,
            request.context,
            request.features,
            request.cold_start,
        )
        state = self.checkpoint.state(*now).unsqueeze(0)
        items = self.checkpoint.items
        exclude = numbers_of(items, request.exclude)
        if request.exclude_seen:
            exclude = torch.cat([exclude, now.seen]).unique()
        lists = self._lists
        if request.allow is not None:
            lists = lists.restrict(numbers_of(items, request.allow))
        k = min(request.k, len(items))
        found = _found(lists, state, k, exclude if len(exclude) else None, request.sampling)
        return self._named(found)

    def lists(
        self, states: Tensor, k: int, exclude: Tensor | None, sampling: Sampling | None = None
    ) -> FoundLists:
        """Lists of item numbers at states ``[N, D]``; ``exclude`` is ``[N, E]``, -1 pads."""
        return _found(self._lists, states, min(k, len(self.checkpoint.items)), exclude, sampling)

    def _named(self, found: FoundLists) -> RecommendedList:
        left = found.items[0] >= 0  # -1 where nothing more may come back
        names = self.checkpoint.items.decode(found.items[0][left])
        scores = found.scores[0][left].tolist()
        if found.propensities is None:
            return [Recommendation(*pair) for pair in zip(names, scores, strict=True)]
        chances = found.propensities[0][left].tolist()
        return [DrawnRecommendation(*each) for each in zip(names, scores, chances, strict=True)]

    def _some_states(self) -> Tensor | None:
        """States of some of the log's users; ``None`` where it has none."""
        users = self.checkpoint.users
        if not len(users.ids):
            return None
        rows = torch.arange(0, len(users.ids), max(1, len(users.ids) // _SAMPLE))[:_SAMPLE]
        window = self.checkpoint.window
        return self.checkpoint.states(
            users.latest(rows, window),
            users.context[rows],
            users.features[rows],
            **users.latest_about(rows, window),
        )


@torch.no_grad()
def _found(
    lists: IndexLists | TrieLists,
    states: Tensor,
    k: int,
    exclude: Tensor | None,
    sampling: Sampling | None,
) -> FoundLists:
    if sampling is None:
        return lists.best(states, k, exclude)
    return lists.drawn(states, k, exclude, sampling)
