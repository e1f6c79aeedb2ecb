"""From states to lists of item numbers, for every kind of policy: the best, or drawn ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.distributions.code_trie import CodeTrie, TrieCategorical
from torchrl_drpo.functional.checks import check_fraction, check_positive
from torchrl_drpo.functional.sampling import DrawnLists
from torchrl_drpo.pipeline.artifacts.index import ItemIndex
from torchrl_drpo.policies.decoding import FaissDecoder
from torchrl_drpo.policies.decoding.approximate import Recall
from torchrl_drpo.policies.semantic_id import SemanticIDPolicy

#: What searches the item vectors: everything exactly, or one of faiss's indices.
Search = Literal["exact", "flat", "ivf", "hnsw"]


@dataclass(frozen=True)
class Sampling:
    """Draw lists, instead of taking the best items.

    Attributes:
        temperature: divides the policy's logits; above 0.
        top_p: draw from the nucleus, in (0, 1]; 1 draws from all items.
        generator: of the draws; torch's own by default, which begins alike in every process.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_fraction("top_p", self.top_p)


class FoundLists(NamedTuple):
    """Lists of some rows, best first, or in the order in which they were drawn.

    Attributes:
        items: item numbers, int64 ``[N, k]``; -1 where there are no more.
        scores: the policy's logits, or log-probabilities of one over semantic IDs, ``[N, k]``.
        propensities: probability of each place's item given those before it, float64 ``[N, k]``,
            under the law that it was really drawn by; ``None`` where nothing was drawn.
    """

    items: Tensor
    scores: Tensor
    propensities: Tensor | None = None


class IndexLists:
    """Lists of a policy whose logits are inner products with item vectors.

    Args:
        index: its item index.
        allowed: numbers of the only items that may come back, int64 ``[n]``, each once; all by
            default.
        search: how the best ones are found; what is drawn is drawn from all that are allowed.
        sample: states ``[N, D]`` that an approximate search's recall is measured on.
        k: length of these lists.
    """

    def __init__(
        self,
        index: ItemIndex,
        allowed: Tensor | None = None,
        *,
        search: Search = "exact",
        sample: Tensor | None = None,
        k: int = 10,
    ) -> None:
        self._whole, self._allowed = index, allowed
        if allowed is not None:
            ids = [index.ids[number] for number in allowed.tolist()]
            index = ItemIndex(ids, index.vectors[allowed], index.dim)
        self._index = index
        self.recall: Recall | None = None
        self._top_k: Callable[[Tensor, int, Tensor | None], tuple[Tensor, Tensor]]
        self._top_k = index.top_k
        if search != "exact":
            queries = None if sample is None else index.queries(sample)
            decoder = FaissDecoder(index.vectors, search, sample=queries, k=k)
            self.recall = decoder.recall
            self._top_k = lambda hidden, k, exclude: decoder.decode(
                index.queries(hidden), k, exclude
            )

    def restrict(self, allowed: Tensor) -> IndexLists:
        """The same of some items only; they are searched exactly."""
        if self._allowed is not None:
            allowed = allowed[torch.isin(allowed, self._allowed)]
        _check_some(allowed)
        return IndexLists(self._whole, allowed)

    def best(self, hidden: Tensor, k: int, exclude: Tensor | None = None) -> FoundLists:
        """The ``k`` best items at states ``[N, D]``, without ``exclude`` (``[E]``, ``[N, E]``)."""
        most = min(k, len(self._index.ids))
        scores, items = self._top_k(hidden, most, self._inside(exclude))
        return _padded(FoundLists(self._outside(items), scores), k)

    def drawn(
        self, hidden: Tensor, k: int, exclude: Tensor | None, sampling: Sampling
    ) -> FoundLists:
        """Lists of ``k`` different items drawn at states ``[N, D]``, without ``exclude``."""
        index, most = self._index, min(k, len(self._index.ids))
        queries = index.queries(hidden)
        policy = CatalogueCategorical(queries, index.vectors)
        found = policy.sample_lists(
            most,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            exclude=self._inside(exclude),
            generator=sampling.generator,
        )
        vectors = index.vectors[found.indices.clamp(min=0)]
        scores = (vectors @ queries.unsqueeze(-1)).squeeze(-1)
        return _padded(_of_drawn(found, self._outside(found.indices), scores), k)

    @cached_property
    def _place_of(self) -> Tensor:
        """Place of each item among the allowed ones, -1 of the others and, last, of padding."""
        assert self._allowed is not None
        place = torch.full((len(self._whole.ids) + 1,), -1)
        place[self._allowed] = torch.arange(len(self._allowed))
        return place

    def _inside(self, exclude: Tensor | None) -> Tensor | None:
        """Numbers among all items as those among the allowed ones."""
        if exclude is None or self._allowed is None:
            return exclude
        return self._place_of[exclude.clamp(min=-1)]

    def _outside(self, items: Tensor) -> Tensor:
        if self._allowed is None:
            return items
        return torch.where(items >= 0, self._allowed[items.clamp(min=0)], -1)


class TrieLists:
    """Lists of a policy over semantic IDs.

    Args:
        policy: the policy.
        trie: of the items that may come back; all by default.
    """

    recall: Recall | None = None

    def __init__(self, policy: SemanticIDPolicy, trie: CodeTrie | None = None) -> None:
        self._policy = policy
        self._trie = policy.trie if trie is None else trie

    def restrict(self, allowed: Tensor) -> TrieLists:
        """The same of some items only."""
        allowed = allowed[self._trie.place_of[allowed] >= 0]
        _check_some(allowed)
        return TrieLists(self._policy, self._trie.restrict(allowed))

    def best(self, hidden: Tensor, k: int, exclude: Tensor | None = None) -> FoundLists:
        """As :meth:`IndexLists.best`, by a search whose beam the distribution chooses."""
        found = self._at(hidden).topk(min(k, self._trie.num_items), exclude=exclude)
        return _padded(FoundLists(found.indices, found.values), k)

    def drawn(
        self, hidden: Tensor, k: int, exclude: Tensor | None, sampling: Sampling
    ) -> FoundLists:
        """As :meth:`IndexLists.drawn`; temperature and nucleus are those of every code."""
        policy, most = self._at(hidden), min(k, len(self._trie.item_at))
        found = policy.sample_lists(
            most,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            exclude=exclude,
            generator=sampling.generator,
        )
        scores = policy.log_prob(found.indices.T.clamp(min=0)).T
        return _padded(_of_drawn(found, found.indices, scores), k)

    def _at(self, hidden: Tensor) -> TrieCategorical:
        policy = self._policy
        return TrieCategorical(hidden, policy.decoder, self._trie, policy.bias, policy.temperature)


def _check_some(allowed: Tensor) -> None:
    if not len(allowed):
        raise ValueError("none of the items that are allowed is in the catalogue")


def _of_drawn(drawn: DrawnLists, items: Tensor, scores: Tensor) -> FoundLists:
    nothing = items < 0
    return FoundLists(items, scores.masked_fill(nothing, -torch.inf), drawn.log_probs.exp())


def _padded(found: FoundLists, k: int) -> FoundLists:
    """Lists of exactly ``k`` places."""
    short = k - found.items.shape[1]
    if short <= 0:
        return found
    fill = {"items": -1, "scores": -torch.inf, "propensities": 0.0}
    return FoundLists(
        *(
            None if each is None else torch.nn.functional.pad(each, (0, short), value=fill[name])
            for name, each in found._asdict().items()
        )
    )
