"""Down the trie: log-probabilities of items, and draws.

A code's probability is renormalised over its legal siblings, so no mass lies on codes that no item
carries: the likelihood that training maximises, the propensity of a draw and the order of a search
are one distribution over items. Items of one semantic ID share it by a softmax of their biases.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.distributions._sweeps import check_scores
from torchrl_drpo.distributions.code_trie.decoder import CodeDecoder
from torchrl_drpo.distributions.code_trie.trie import Children, CodeTrie


class CodePolicy(NamedTuple):
    """What makes a distribution over the items of a trie at any state.

    Attributes:
        decoder: the network that scores codes.
        trie: the catalogue's semantic IDs.
        bias: one logit an item among those of its semantic ID, ``[V]``; ``None``: all alike.
        inverse_temperature: multiplies all logits.
    """

    decoder: CodeDecoder
    trie: CodeTrie
    bias: Tensor | None
    inverse_temperature: float

    def child_log_probs(self, logits: Tensor | None, children: Children) -> Tensor:
        """Log-probabilities of children among their siblings, ``[*, W]``; -inf for padding.

        Args:
            logits: of all codes of their level, ``[*, C]``; ``None`` at the items' level.
            children: what may come, ``[*, W]`` each.
        """
        if logits is None:
            scores = self.item_scores(children.node)
        else:
            logits = logits.expand(*children.code.shape[:-1], logits.shape[-1])
            scores = logits.gather(-1, children.code)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        scores = (scores * self.inverse_temperature).masked_fill(~children.valid, -torch.inf)
        return scores - scores.logsumexp(-1, keepdim=True)

    def item_scores(self, place: Tensor) -> Tensor:
        """Biases of the items at places, of their shape; zeros where items are alike."""
        if self.bias is None:
            return torch.zeros(place.shape, device=place.device)
        return self.bias[self.trie.items(place)]

    @property
    def item_level_decides(self) -> bool:
        """Whether some semantic ID has several items."""
        return self.trie.widths[-1] > 1


def code_log_probs(policy: CodePolicy, hidden: Tensor, item: Tensor) -> Tensor:
    """Log-probability of each code of items behind the ones before it.

    Args:
        policy: the distribution.
        hidden: states, ``[N, D]``.
        item: item numbers, int64 ``[N]``.

    Returns:
        ``[N, T + 1]``, the item's among those of its semantic ID last; differentiable.
    """
    decoder, trie = policy.decoder, policy.trie
    path = trie.path(item)
    node, own = torch.zeros_like(item), torch.zeros_like(item).unsqueeze(-1)
    memory, found = decoder.start(hidden), []
    for level in range(trie.num_levels):
        logits = decoder.logits(memory, level).squeeze(1)
        if trie.widths[level] > 1:
            children = trie.children_of(node, level)
            among = policy.child_log_probs(logits, children)
            found.append(_of_child(among, children, path[level]))
        else:  # every prefix goes on in one way: there is nothing to choose
            found.append(logits.new_zeros(len(item), dtype=_accumulated(logits)))
        node = path[level]
        if level + 1 < trie.num_levels:
            code = trie.code_of_each(level)[node].long().unsqueeze(-1)
            memory = decoder.advance(memory, own, code, level)
    if policy.item_level_decides:
        children = trie.children_of(node, trie.num_levels)
        found.append(_of_child(policy.child_log_probs(None, children), children, path[-1]))
    else:
        found.append(torch.zeros_like(found[0]))
    return torch.stack([each.to(found[0].dtype) for each in found], -1)


def _of_child(among: Tensor, children: Children, node: Tensor) -> Tensor:
    """The entry of a node among the children of its parent: they are consecutive."""
    place = node - children.node[..., 0]
    return among.gather(-1, place.unsqueeze(-1)).squeeze(-1)


def _accumulated(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


@torch.no_grad()
def sample(policy: CodePolicy, hidden: Tensor, count: int) -> Tensor:
    """Draws ``count`` items a row, int64 ``[N, count]``: a code a level, legal ones only."""
    decoder, trie = policy.decoder, policy.trie
    rows = len(hidden)
    node = torch.zeros(rows, 1, dtype=torch.long, device=hidden.device)
    parent = node.expand(rows, count)
    memory = decoder.start(hidden)
    for level in range(trie.num_levels + 1):
        last = level == trie.num_levels
        logits = None if last else decoder.logits(memory, level)
        children = trie.children_of(node, level)
        chance = policy.child_log_probs(logits, children).exp()
        if level == 0:
            check_scores(chance.amax(-1).squeeze(1))
        drawn = _draw(chance.expand(rows, -1, -1), count if level == 0 else 1)
        if level == 0:
            drawn = drawn.transpose(1, 2)  # one prefix, many draws: from here on many prefixes
            children = Children(*(each.expand(rows, count, -1) for each in children))
        node = children.node.gather(-1, drawn).squeeze(-1)
        if level + 1 < trie.num_levels:
            code = children.code.gather(-1, drawn).squeeze(-1)
            memory = decoder.advance(memory, parent, code, level)
            parent = torch.arange(count, device=node.device).expand(rows, count)
    return trie.items(node)


def _draw(chance: Tensor, count: int) -> Tensor:
    """Draws by ``[N, K, W]`` chances, ``[N, K, count]``."""
    flat = chance.reshape(-1, chance.shape[-1])
    return flat.multinomial(count, replacement=True).reshape(*chance.shape[:-1], count)
