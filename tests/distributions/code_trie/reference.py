"""The distribution over items of a trie written out again: a dict of prefixes, float64, no tensors
of nodes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from tests.conftest import DATA_ROOT
from torchrl_drpo.distributions.code_trie import CodeTrie, TrieCategorical
from torchrl_drpo.policies.semantic_id import make_decoder

#: Public indexes of semantic IDs, where they are at hand.
INDEXES = sorted((DATA_ROOT / "amazon_semantic_ids").glob("*.json"))
HEADS = ("parallel", "gru", "transformer")
V, D, N = 40, 8, 6


def real_codes(path: Path) -> Tensor:
    """Codes of a public index, ``[V, 3]``."""
    index = json.loads(path.read_text())
    return torch.tensor([[int(code[3:-1]) for code in row] for row in index.values()])


def catalogue() -> Tensor:
    """Codes of any range, some items that share theirs, and some IDs that end early."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, 4, (V, 3), generator=generator) * torch.tensor([3, 1, 50_000]) + 5
    codes[3, 2] = -1
    codes[4, 1:] = -1
    codes[5:7] = -7
    return codes


def policy(head: str, *, bias: bool = True, codes: Tensor | None = None) -> TrieCategorical:
    """A policy at N states, float64, with a gradient."""
    trie = CodeTrie(catalogue() if codes is None else codes)
    decoder = make_decoder(head, trie.sizes, D).double()
    hidden = torch.randn(N, D, dtype=torch.double, requires_grad=True)
    own = torch.randn(trie.num_items, dtype=torch.double) if bias else None
    return TrieCategorical(hidden, decoder, trie, own, temperature=0.7)


def ranks(codes: Tensor) -> list[tuple[int, ...]]:
    """Each item's codes by their rank within the level; the end of an ID is the last of them."""
    columns = []
    for column in codes.T.tolist():
        known = sorted({code for code in column if code >= 0})
        columns.append([known.index(code) if code >= 0 else len(known) for code in column])
    return list(zip(*columns, strict=True))


def log_probs(policy: TrieCategorical) -> Tensor:
    """Log-probabilities of all items, ``[N, V]``, one item and one prefix after the other."""
    paths, decoder, hidden = ranks(policy.trie.codes), policy.decoder, policy.hidden
    following: dict[tuple[int, ...], set[int]] = {}
    for path in paths:
        for level in range(len(path)):
            following.setdefault(path[:level], set()).add(path[level])
    bias = torch.zeros(len(paths)) if policy.bias is None else policy.bias
    own = torch.zeros(len(hidden), 1, dtype=torch.long)
    out = []
    for item, path in enumerate(paths):
        memory, total = decoder.start(hidden), 0
        for level, code in enumerate(path):
            logits = decoder.logits(memory, level)[:, 0] / policy.temperature
            legal = sorted(following[path[:level]])
            total = total + logits[:, code] - logits[:, legal].logsumexp(-1)
            if level + 1 < len(path):
                memory = decoder.advance(memory, own, torch.full_like(own, code), level)
        same = [other for other, theirs in enumerate(paths) if theirs == path]
        scores = bias / policy.temperature
        out.append(total + scores[item] - scores[same].logsumexp(0))
    return torch.stack(out, -1)
