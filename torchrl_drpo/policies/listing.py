"""A policy as one module from observations to lists: what is exported, and runs anywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrl_drpo.distributions.code_trie import search
from torchrl_drpo.distributions.code_trie.categorical import usual_beam
from torchrl_drpo.distributions.code_trie.walk import CodePolicy
from torchrl_drpo.functional.masks import without
from torchrl_drpo.policies.catalogue import CataloguePolicy
from torchrl_drpo.policies.retrieval import RetrievalPolicy
from torchrl_drpo.policies.semantic_id import SemanticIDPolicy
from torchrl_drpo.policies.served import ServedPolicy

#: Items that are compared at a time: a batch of a thousand holds 128 MiB of their scores.
ITEMS_AT_A_TIME = 32_768


class PolicyLists(nn.Module):
    """From observation tensors to the ``k`` likeliest items and their log-probabilities.

    Plain tensor operations, and none of them depends on a value: the module is exported by
    ``torch.export`` and ONNX, and compiled in one graph. Item table, semantic IDs and encoder are
    its parameters and buffers. Of a policy that is served otherwise than it was trained (tilted,
    conditioned) the items are kept as they are now.

    Args:
        policy: of any kind, whole (not shared out among processes).
        k: length of the lists, in [1, V].
        beam: of a policy over semantic IDs: prefixes kept from a level to the next, 0 for all of
            them, ``None`` as :meth:`TrieCategorical.topk` chooses.
        portable: use only operations that ONNX has, too; slower where items are excluded from a
            search over semantic IDs.

    Raises:
        ValueError: for a ``k`` or a beam out of range, a beam of a policy that has none, or a
            policy whose table is shared out.

    Example:
        >>> from torchrl_drpo import make_catalogue_actor
        >>> from torchrl_drpo.policies.catalogue import catalogue_policy
        >>> lists = PolicyLists(catalogue_policy(make_catalogue_actor(9, dim=4, history=3)), k=2)
        >>> items, log_probs = lists(history=torch.tensor([[-1, 7, 2]]))
        >>> items.shape, bool((log_probs < 0).all())
        (torch.Size([1, 2]), True)
    """

    def __init__(
        self,
        policy: CataloguePolicy | ServedPolicy | RetrievalPolicy | SemanticIDPolicy,
        k: int,
        *,
        beam: int | None = None,
        portable: bool = False,
    ) -> None:
        super().__init__()
        over_codes = isinstance(policy, SemanticIDPolicy)
        if over_codes:
            self.num_items = policy.trie.num_items
        else:
            vectors = isinstance(policy, RetrievalPolicy)
            self.num_items = policy.items.shape[0] if vectors else policy.num_items
        if getattr(policy, "shards", None) is not None:
            raise ValueError(
                "the policy's item table is shared out among processes; load its checkpoint whole"
            )
        if not 1 <= k <= self.num_items:
            raise ValueError(f"k must lie in [1, {self.num_items}] (the catalogue), got {k}")
        if beam is not None and not over_codes:
            raise ValueError("beam is of policies over semantic IDs; this one compares all items")
        if over_codes:
            beam = usual_beam(policy.trie, k) if beam is None else beam
            if beam and beam < k:
                raise ValueError(f"beam must be at least k = {k}, or 0 for all, got {beam}")
        self.policy, self.k, self.beam = policy, k, beam
        if isinstance(policy, ServedPolicy):  # else they would be put together for every batch
            bias = policy.bias
            self.register_buffer("vectors", policy.item_vectors().detach().clone())
            self.register_buffer("scores", None if bias is None else bias.detach().clone())
        self.portable = portable

    @torch.no_grad()
    def forward(
        self,
        history: Tensor | None = None,
        context: Tensor | None = None,
        features: Tensor | None = None,
        times: Tensor | None = None,
        feedback: Tensor | None = None,
        exclude: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Lists of item numbers.

        Args:
            history: item numbers, int64 ``[B, L]``; -1 pads.
            context: int64 ``[B, C]``; where the policy reads a context, as the others.
            features: raw numbers, ``[B, F]``.
            times: int64 ``[B, L]``.
            feedback: ``[B, L]``.
            exclude: items that must not come back, int64 ``[B, E]``; -1 pads.

        Returns:
            Item numbers, int64, and log-probabilities in nats, ``[B, k]``, likeliest first; -1 and
            -inf where the catalogue ran out.
        """
        policy = self.policy
        if isinstance(policy, RetrievalPolicy):
            given = {"history": history, "context": context, "features": features}
            observed = [given[name] for name in policy.inputs]
            hidden = policy(*observed)
        else:
            hidden = policy(history, context, features, times, feedback)
        if isinstance(policy, SemanticIDPolicy):
            return self._searched(policy, hidden, exclude)
        return self._compared(hidden, exclude)

    def _searched(
        self, policy: SemanticIDPolicy, hidden: Tensor, exclude: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        codes = CodePolicy(policy.decoder, policy.trie, policy.bias, 1 / policy.temperature)
        excluded = None
        if exclude is not None:
            excluded = search.Excluded(policy.trie, exclude, portable=self.portable)
        if self.beam:
            found = search.beam_search(codes, hidden, self.k, self.beam, excluded)
        else:
            found = search.exact_search(codes, hidden, self.k, excluded)
        return found.indices, found.values

    def _compared(self, hidden: Tensor, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
        policy, best, where, sums = self.policy, [], [], []
        items, bias = self._items()
        for start in range(0, self.num_items, ITEMS_AT_A_TIME):
            tile = slice(start, min(start + ITEMS_AT_A_TIME, self.num_items))
            scores = hidden @ items[tile].T
            if bias is not None:
                scores = scores + bias[tile]
            scores = scores * (1 / policy.temperature)
            sums.append(scores.logsumexp(-1, keepdim=True))
            if exclude is not None:
                scores = without(scores, exclude - start)  # in this tile
            value, index = scores.topk(min(self.k, scores.shape[1]), -1)
            best.append(value)
            where.append(index + start)
        value, order = torch.cat(best, -1).topk(self.k, -1)
        items = torch.cat(where, -1).gather(-1, order).masked_fill(value == -torch.inf, -1)
        return items, value - torch.cat(sums, -1).logsumexp(-1, keepdim=True)

    def _items(self) -> tuple[Tensor, Tensor | None]:
        if isinstance(self.policy, ServedPolicy):
            return self.vectors, self.scores
        return self.policy.item_vectors(), self.policy.bias

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        return f"items={self.num_items}, k={self.k}, beam={self.beam}"
