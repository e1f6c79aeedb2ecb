"""Lists that distributions over items draw, against every list's probability written out."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from torchrl_drpo.distributions import CatalogueCategorical
from torchrl_drpo.distributions.code_trie import CodeTrie, TrieCategorical
from torchrl_drpo.policies.semantic_id import make_decoder

CODES = [[0, 0], [0, 1], [0, 1], [1, 0], [2, 0], [2, 3]]
ROWS = 60_000


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def cut(chance: dict, top_p: float, least: int = 1) -> dict:
    """Chances of the nucleus, normalised."""
    total, mass, kept = sum(chance.values()), 0.0, {}
    for key, value in sorted(chance.items(), key=lambda pair: -pair[1]):
        if mass < top_p - 1e-9 or len(kept) < least:
            kept[key] = value
        mass += value / total
    return {key: value / sum(kept.values()) for key, value in kept.items()}


def catalogue_law(logits: Tensor, exclude: set, temperature: float, top_p: float, least: int):
    tempered = {i: math.exp(x / temperature) for i, x in enumerate(logits.tolist())}
    return cut({i: x for i, x in tempered.items() if i not in exclude}, top_p, least)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.6)])
def test_catalogue_lists_have_the_law_that_they_report(temperature: float, top_p: float) -> None:
    torch.manual_seed(0)
    items, bias = torch.randn(6, 3), torch.randn(6)
    policy = CatalogueCategorical(torch.randn(1, 3), items, bias, temperature=0.7)
    many = policy.expand((ROWS,))
    drawn = many.sample_lists(
        2,
        temperature=temperature,
        top_p=top_p,
        exclude=torch.tensor([4, -1]),
        generator=generator(),
    )
    chance = catalogue_law(policy.logits[0], {4}, temperature, top_p, least=2)
    count = Counter(map(tuple, drawn.indices.tolist()))
    assert 4 not in drawn.indices
    seen = 0.0
    for (first, second), times in count.items():
        wanted = chance[first] * chance[second] / (1 - chance[first])
        seen += wanted
        error = math.sqrt(wanted * (1 - wanted) / ROWS)
        assert times / ROWS == pytest.approx(wanted, abs=5 * error + 1e-9)
        row = (drawn.indices == torch.tensor([first, second])).all(-1).nonzero()[0]
        assert float(drawn.log_probs[row].sum().exp()) == pytest.approx(wanted, rel=1e-5)
    assert seen == pytest.approx(1, abs=0.01)


@torch.no_grad()
def walk_law(policy: TrieCategorical, banned: set[int], temperature: float, top_p: float):
    """The chance of each item by a walk that sees only what is left, from prefixes in a dict."""
    paths = [(*codes, item) for item, codes in enumerate(CODES) if item not in banned]
    ranks = [sorted({codes[level] for codes in CODES}) for level in range(2)]
    out: dict[int, float] = {}

    def go(prefix: tuple[int, ...], memory, chance: float) -> None:
        level = len(prefix)
        if level == 3:
            out[prefix[-1]] = chance
            return
        legal = sorted({path[level] for path in paths if path[:level] == prefix})
        if level == 2:
            score = {item: policy.bias[item] for item in legal}
        else:
            logits = policy.decoder.logits(memory, level)[0, 0]
            score = {code: logits[ranks[level].index(code)] for code in legal}
        scaled = {
            code: math.exp(float(x) / policy.temperature / temperature) for code, x in score.items()
        }
        for code, share in cut(scaled, top_p).items():
            after = memory
            if level == 0:
                number = torch.tensor([[ranks[0].index(code)]])
                after = policy.decoder.advance(memory, torch.zeros_like(number), number, 0)
            go((*prefix, code), after, chance * share)

    go((), policy.decoder.start(policy.hidden), 1.0)
    return out


@pytest.mark.parametrize("head", ["gru", "parallel", "transformer"])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 0.7)])
def test_trie_lists_have_the_law_that_they_report(
    head: str, temperature: float, top_p: float
) -> None:
    torch.manual_seed(2)
    trie = CodeTrie(torch.tensor(CODES))
    decoder = make_decoder(head, trie.sizes, 8).double()
    hidden = torch.randn(1, 8, dtype=torch.double)
    policy = TrieCategorical(hidden, decoder, trie, torch.randn(6).double(), temperature=0.8)
    many = policy.expand((ROWS // 4,))
    drawn = many.sample_lists(
        2,
        temperature=temperature,
        top_p=top_p,
        exclude=torch.tensor([3, 99]),
        generator=generator(),
    )
    first = walk_law(policy, {3}, temperature, top_p)
    assert sum(first.values()) == pytest.approx(1)
    count = Counter(map(tuple, drawn.indices.tolist()))
    for (one, two), times in count.items():
        wanted = [first[one], walk_law(policy, {3, one}, temperature, top_p)[two]]
        row = (drawn.indices == torch.tensor([one, two])).all(-1).nonzero()[0]
        assert drawn.log_probs[row].exp().flatten().tolist() == pytest.approx(wanted, rel=1e-9)
        chance = wanted[0] * wanted[1]
        error = math.sqrt(chance * (1 - chance) / len(drawn.indices))
        assert times / len(drawn.indices) == pytest.approx(chance, abs=5 * error)


def test_untempered_walks_have_the_policy_s_own_probabilities() -> None:
    torch.manual_seed(4)
    trie = CodeTrie(torch.tensor(CODES))
    policy = TrieCategorical(torch.randn(5, 8), make_decoder("gru", trie.sizes, 8), trie)
    drawn = policy.sample_lists(1)
    own = policy.log_prob(drawn.indices[:, 0]).double()
    torch.testing.assert_close(drawn.log_probs[:, 0], own, rtol=1e-5, atol=1e-6)


def test_where_items_run_out_places_are_empty() -> None:
    torch.manual_seed(4)
    trie = CodeTrie(torch.tensor(CODES))
    walks = TrieCategorical(torch.randn(3, 8), make_decoder("gru", trie.sizes, 8), trie)
    softmax = CatalogueCategorical(torch.randn(3, 2), torch.randn(6, 2))
    exclude = torch.tensor([[0, 1, 2], [0, 0, -1], [5, 4, 3]])
    for policy in (walks, softmax):
        drawn = policy.sample_lists(6, exclude=exclude, top_p=0.5, generator=generator())
        assert [(row >= 0).sum().item() for row in drawn.indices] == [3, 5, 3]
        assert torch.equal(drawn.indices < 0, drawn.log_probs == -torch.inf)
        for row, banned in zip(drawn.indices.tolist(), exclude.tolist(), strict=True):
            found = [item for item in row if item >= 0]
            assert len(set(found)) == len(found)
            assert not set(found) & set(banned)


def test_a_restricted_walk_draws_what_is_allowed() -> None:
    torch.manual_seed(4)
    trie = CodeTrie(torch.tensor(CODES)).restrict(torch.tensor([5, 1, 3]))
    policy = TrieCategorical(torch.randn(200, 8), make_decoder("gru", trie.sizes, 8), trie)
    drawn = policy.sample_lists(2)
    assert set(drawn.indices.unique().tolist()) == {1, 3, 5}
    with pytest.raises(ValueError, match=r"some of this trie's.* got 2"):
        trie.restrict(torch.tensor([1, 2]))


def test_bad_numbers_and_diverged_policies_are_refused() -> None:
    trie = CodeTrie(torch.tensor(CODES))
    walks = TrieCategorical(torch.full((2, 8), torch.nan), make_decoder("gru", trie.sizes, 8), trie)
    softmax = CatalogueCategorical(torch.full((2, 2), torch.nan), torch.randn(6, 2))
    for policy in (walks, softmax):
        with pytest.raises(ValueError, match="row 0 has no distribution"):
            policy.sample_lists(2)
        with pytest.raises(ValueError, match=r"k must lie in \[1, 6\]"):
            policy.sample_lists(7)
        with pytest.raises(ValueError, match="temperature"):
            policy.sample_lists(2, temperature=0.0)
        with pytest.raises(ValueError, match=r"exclude must have shape \[E\]"):
            policy.sample_lists(2, exclude=torch.zeros(3, 1, dtype=torch.long))
