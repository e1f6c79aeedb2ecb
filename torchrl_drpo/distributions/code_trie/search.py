"""The likeliest items: a beam search that never leaves the catalogue, and the exact ranking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from torchrl_drpo.distributions.code_trie.trie import Children, CodeTrie
from torchrl_drpo.distributions.code_trie.walk import CodePolicy
from torchrl_drpo.functional.masks import without

#: Numbers of one step held at a time; rows beyond them come in blocks. 4 MiB of float32 stay in a
#: CPU's cache, which makes a search over a million items twice as fast; an accelerator wants few,
#: large launches (128 MiB). Assign to trade memory for time.
NUMBERS_AT_A_TIME = {"cpu": 1 << 20, "accelerator": 1 << 25}


class SearchedTopK(NamedTuple):
    """Items found for each row, likeliest first.

    Attributes:
        values: log-probabilities in nats, ``[*B, k]``; -inf where the catalogue ran out.
        indices: item numbers, int64 ``[*B, k]``; -1 there.
        pruned: log-probability of the likeliest prefix that the search let go, ``[*B]``; -inf where
            it let none go. No item behind those is likelier, so a row's list is the exact one
            wherever this is not above its last value.
    """

    values: Tensor
    indices: Tensor
    pruned: Tensor


class Excluded:
    """Items that must not come back, by the places that they have in a trie.

    Args:
        trie: the catalogue's.
        items: item numbers, int64 ``[E]`` for all rows or ``[N, E]``; those outside the catalogue
            are padding.
        portable: by operations that every runtime of graphs has, at several times the cost.
    """

    def __init__(self, trie: CodeTrie, items: Tensor, *, portable: bool = False) -> None:
        known = (items >= 0) & (items < trie.num_items)
        place = torch.where(known, trie.place_of[torch.where(known, items, 0)].long(), -1)
        behind = trie.num_items  # beyond every place: one that is not there, or not for the first
        place = torch.atleast_2d(torch.where(place < 0, behind, place)).sort(-1).values
        again = torch.zeros_like(place, dtype=torch.bool)
        again[:, 1:] = place[:, 1:] == place[:, :-1]
        self._place = torch.where(again, behind, place).sort(-1).values.contiguous()
        self._trie = trie
        self._rank = rank_by_halving if portable else torch.searchsorted

    def rows(self, part: slice) -> Excluded:
        """Those of some rows."""
        if part == slice(None) or self._place.shape[0] == 1:
            return self
        new = object.__new__(Excluded)
        new._trie, new._place, new._rank = self._trie, self._place[part], self._rank
        return new

    def leaves_nothing_below(self, node: Tensor, level: int) -> Tensor:
        """Which nodes ``[N, ...]`` have no item left, bool of that shape."""
        begin, end = (each.flatten(1).contiguous() for each in self._trie.spans(node, level))
        place = self._place.expand(node.shape[0], -1).contiguous()
        gone = self._rank(place, end) - self._rank(place, begin)
        return (gone == end - begin).view(node.shape)

    def without(self, score: Tensor) -> Tensor:
        """Scores of all places ``[N, V]``, -inf at those that must not come back."""
        return without(score, self._place)


@torch.no_grad()
def beam_search(
    policy: CodePolicy, hidden: Tensor, k: int, beam: int, excluded: Excluded | None = None
) -> SearchedTopK:
    """The ``k`` likeliest items of each row among those below the ``beam`` best prefixes a level.

    Args:
        policy: the distribution.
        hidden: states, ``[N, D]``.
        k: length of the lists, at least 1.
        beam: prefixes that go on from a level to the next, at least ``k``.
        excluded: what must not come back; it takes no place in the beam.

    Returns:
        Lists ``[N, k]``. Nothing is read back from the device.
    """
    widest = max(policy.trie.widths[:-1])
    parts = [
        _search(policy, block, k, beam, excluded and excluded.rows(rows))
        for rows, block in _blocks(hidden, beam * widest)
    ]
    return parts[0] if len(parts) == 1 else SearchedTopK(*map(torch.cat, zip(*parts, strict=True)))


def _search(
    policy: CodePolicy, hidden: Tensor, k: int, beam: int, excluded: Excluded | None
) -> SearchedTopK:
    decoder, trie = policy.decoder, policy.trie
    node = torch.zeros(hidden.shape[0], 1, dtype=torch.long, device=hidden.device)
    score = pruned = None
    memory = decoder.start(hidden)
    for level in range(trie.num_levels):
        children = trie.children_of(node, level)
        reached = _continued(policy, decoder.logits(memory, level), children, score)
        if excluded is not None:
            gone = excluded.leaves_nothing_below(children.node, level)
            reached = reached.masked_fill(gone, -torch.inf)
        score, chosen, best_lost = _best(reached.flatten(1), beam)
        if best_lost is not None:
            pruned = best_lost if pruned is None else torch.maximum(pruned, best_lost)
        node = children.node.flatten(1).gather(1, chosen)
        if level + 1 < trie.num_levels:
            code = children.code.flatten(1).gather(1, chosen)
            memory = decoder.advance(memory, chosen // trie.widths[level], code, level)
    assert score is not None  # a trie has a level
    if policy.item_level_decides:
        children = trie.children_of(node, trie.num_levels)
        reached = _continued(policy, None, children, score)
        if excluded is not None:
            gone = excluded.leaves_nothing_below(children.node, trie.num_levels)
            reached = reached.masked_fill(gone, -torch.inf)
        score, chosen, _ = _best(reached.flatten(1), k)
        node = children.node.flatten(1).gather(1, chosen)
    else:
        node = trie.children_of(node, trie.num_levels).node.squeeze(-1)
    if pruned is None:
        pruned = score.new_full((hidden.shape[0],), -torch.inf)
    return _listed(trie, score[:, :k], node[:, :k], k, pruned)


def _continued(
    policy: CodePolicy, logits: Tensor | None, children: Children, score: Tensor | None
) -> Tensor:
    """Log-probabilities of prefixes with one more code, ``[N, K, W]``; -inf of dead ones."""
    among = policy.child_log_probs(logits, children)
    return among if score is None else score.unsqueeze(-1) + among


def _best(reached: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """The best of each row, in order, where they are, and the best of what is left."""
    if reached.shape[1] <= count:
        score, chosen = reached.sort(1, descending=True)
        return score, chosen, None
    score, chosen = reached.topk(count + 1, 1)
    return score[:, :count], chosen[:, :count], score[:, count]


def _listed(trie: CodeTrie, score: Tensor, place: Tensor, k: int, pruned: Tensor) -> SearchedTopK:
    """Lists of exactly ``k`` places."""
    item = trie.items(place).masked_fill(score == -torch.inf, -1)
    short = k - score.shape[1]
    if short > 0:
        score = torch.nn.functional.pad(score, (0, short), value=-torch.inf)
        item = torch.nn.functional.pad(item, (0, short), value=-1)
    return SearchedTopK(score, item, pruned)


def place_log_probs(policy: CodePolicy, hidden: Tensor) -> Tensor:
    """Log-probabilities of all items by place, ``[N, V]``: every prefix is asked once.

    Differentiable. Holds the decoder's memory of every inner node for each row.
    """
    decoder, trie = policy.decoder, policy.trie
    score: Tensor | None = None
    memory = decoder.start(hidden)
    for level in range(trie.num_levels):
        parent = trie.parent_of_each(level).long()
        code = trie.code_of_each(level).long()
        logits = decoder.logits(memory, level)
        alike = logits.shape[1] == 1
        scores = logits[:, 0 if alike else parent, code]
        score = _among_siblings(policy, scores, parent, trie, level, score)
        if level + 1 < trie.num_levels:
            rows = hidden.shape[0], code.shape[0]
            memory = decoder.advance(memory, parent.expand(rows), code.expand(rows), level)
    assert score is not None
    parent = trie.parent_of_each(trie.num_levels).long()
    if not policy.item_level_decides:
        return score[:, parent]
    place = torch.arange(len(parent), device=hidden.device)
    scores = policy.item_scores(place).expand(hidden.shape[0], -1)
    return _among_siblings(policy, scores, parent, trie, trie.num_levels, score)


def _among_siblings(
    policy: CodePolicy,
    scores: Tensor,
    parent: Tensor,
    trie: CodeTrie,
    level: int,
    above: Tensor | None,
) -> Tensor:
    """Log-probabilities of nodes, ``[N, n]``, of their scores and those of their parents."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    scores = scores * policy.inverse_temperature
    parents = 1 if level == 0 else trie.num_nodes(level - 1)
    index = parent.expand_as(scores)
    most = scores.new_full((scores.shape[0], parents), -torch.inf)
    most = most.scatter_reduce(1, index, scores.detach(), "amax")
    total = torch.zeros_like(most).index_add(1, parent, (scores - most[:, parent]).exp())
    found = scores - (most + total.log())[:, parent]
    return found if above is None else above[:, parent] + found


@torch.no_grad()
def exact_search(
    policy: CodePolicy, hidden: Tensor, k: int, excluded: Excluded | None = None
) -> SearchedTopK:
    """The ``k`` likeliest items of each row, of all there are; see :func:`beam_search`."""
    trie = policy.trie
    numbers = max(trie.num_nodes(trie.num_levels), trie.num_inner_nodes * hidden.shape[-1])
    parts = []
    for rows, block in _blocks(hidden, numbers):
        score = place_log_probs(policy, block)
        if excluded is not None:
            score = excluded.rows(rows).without(score)
        best, place = score.topk(min(k, score.shape[1]), 1)
        nothing = best.new_full((best.shape[0],), -torch.inf)
        parts.append(_listed(trie, best, place, k, nothing))
    return SearchedTopK(*map(torch.cat, zip(*parts, strict=True)))


def rank_by_halving(ordered: Tensor, values: Tensor) -> Tensor:
    """``torch.searchsorted`` by gathers alone: how many of ``[N, E]`` lie below ``[N, M]``."""
    count = ordered.shape[1]
    low = torch.zeros_like(values)
    if not count:
        return low
    step = 1 << (count.bit_length() - 1)
    while step:
        probe = (low + step - 1).clamp(max=count - 1)
        below = (low + step <= count) & (ordered.gather(1, probe) < values)
        low = torch.where(below, low + step, low)
        step //= 2
    return low


def _blocks(hidden: Tensor, numbers: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows that are searched together, where each takes so many numbers."""
    if torch.compiler.is_compiling():  # a graph has as many rows as it is given
        yield slice(None), hidden
        return
    budget = NUMBERS_AT_A_TIME["cpu" if hidden.device.type == "cpu" else "accelerator"]
    step = max(1, budget // numbers)
    for start in range(0, max(1, len(hidden)), step):
        rows = slice(start, start + step)
        yield rows, hidden[rows]
