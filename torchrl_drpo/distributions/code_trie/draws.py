"""Lists drawn from the trie: no item twice, none that is excluded, and the propensity of each."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrl_drpo.distributions.code_trie.search import Excluded
from torchrl_drpo.distributions.code_trie.trie import Children
from torchrl_drpo.distributions.code_trie.walk import CodePolicy
from torchrl_drpo.functional.sampling import DrawnLists, draw_lists, nucleus


@torch.no_grad()
def sample_lists(
    policy: CodePolicy,
    hidden: Tensor,
    k: int,
    *,
    top_p: float = 1.0,
    exclude: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> DrawnLists:
    """Draws ``k`` items a row, each by a walk from the root that avoids those before it.

    A step chooses among the codes that still have an item below them, and of these among the
    nucleus: what is reported is the product of the probabilities of exactly these choices.

    Args:
        policy: the distribution; its temperature counts at every step.
        hidden: states, ``[N, D]``.
        k: length of the lists, at least 1.
        top_p: of the nucleus of every step, in (0, 1].
        exclude: item numbers that must not be drawn, int64 ``[E]`` or ``[N, E]``; those outside
            the catalogue are padding.
        generator: of the draws.
    """
    rows = len(hidden)
    banned = hidden.new_full((rows, 0), -1, dtype=torch.long)
    if exclude is not None:
        banned = exclude.expand(rows, -1)
    items, chances = [], []
    for _ in range(k):
        item, chance = _walk(policy, hidden, Excluded(policy.trie, banned), top_p, generator)
        items.append(item)
        chances.append(chance)
        banned = torch.cat([banned, item.unsqueeze(-1)], -1)
    return DrawnLists(torch.stack(items, -1), torch.stack(chances, -1))


def _walk(
    policy: CodePolicy,
    hidden: Tensor,
    excluded: Excluded,
    top_p: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """One item a row and its log-probability, ``[N]`` each; -1 and -inf where none is left."""
    decoder, trie = policy.decoder, policy.trie
    node = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)
    parent = torch.zeros_like(node)
    total = hidden.new_zeros(len(hidden), dtype=torch.double)
    memory = decoder.start(hidden)
    for level in range(trie.num_levels + 1):
        logits = None if level == trie.num_levels else decoder.logits(memory, level)
        children = trie.children_of(node, level)
        left = children.valid & ~excluded.leaves_nothing_below(children.node, level)
        chance = policy.child_log_probs(logits, Children(children.node, children.code, left))
        chance = chance.masked_fill(~left, -torch.inf)  # where none is left they are NaN
        drawn = draw_lists(nucleus(chance, top_p), 1, generator)
        total = total + drawn.log_probs.flatten()
        place = drawn.indices.clamp(min=0)
        node = children.node.gather(-1, place).squeeze(-1)
        if level + 1 < trie.num_levels:
            code = children.code.gather(-1, place).squeeze(-1)
            memory = decoder.advance(memory, parent, code, level)
    return trie.items(node.squeeze(-1)).masked_fill(total == -torch.inf, -1), total
