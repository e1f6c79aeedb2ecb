"""The search as one graph: no value decides what is computed."""

from __future__ import annotations

import pytest
import torch

from tests.distributions.code_trie.reference import HEADS, D, N, catalogue
from torchrl_drpo.distributions.code_trie import CodeTrie, search
from torchrl_drpo.distributions.code_trie.walk import CodePolicy
from torchrl_drpo.policies.semantic_id import make_decoder


@pytest.mark.parametrize("head", HEADS)
def test_the_beam_search_compiles_in_one_graph(head: str) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    trie = CodeTrie(catalogue())
    decoder = make_decoder(head, trie.sizes, D).requires_grad_(False)
    policy = CodePolicy(decoder, trie, torch.randn(trie.num_items), 1.0)

    def lists(hidden: torch.Tensor, exclude: torch.Tensor) -> search.SearchedTopK:
        return search.beam_search(policy, hidden, 5, 12, search.Excluded(trie, exclude))

    compiled = torch.compile(lists, fullgraph=True, dynamic=True, backend="eager")
    for rows in (N, N + 3):
        hidden = torch.randn(rows, D)
        exclude = torch.randint(-1, trie.num_items, (rows, 4))
        for mine, wanted in zip(compiled(hidden, exclude), lists(hidden, exclude), strict=True):
            torch.testing.assert_close(mine, wanted)


def test_ranks_by_halving_are_those_of_a_search() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 3, 7, 8, 20):
        ordered = torch.randint(0, 30, (40, count), generator=generator).sort(1).values
        values = torch.randint(-2, 33, (40, 25), generator=generator)
        wanted = torch.searchsorted(ordered, values)
        assert torch.equal(search.rank_by_halving(ordered, values), wanted)
