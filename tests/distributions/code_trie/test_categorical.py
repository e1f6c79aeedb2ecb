"""TrieCategorical against the enumeration of all items, one prefix after the other."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from tests.distributions.code_trie.reference import HEADS, N, V, log_probs, policy
from torchrl_drpo.distributions.code_trie import CodeTrie, TrieCategorical
from torchrl_drpo.policies.semantic_id import make_decoder

heads = pytest.mark.parametrize("head", HEADS)


@heads
@pytest.mark.parametrize("bias", [True, False])
def test_probabilities_and_gradients_equal_the_enumeration(head, bias):
    dist = policy(head, bias=bias)
    expected = log_probs(dist)
    torch.testing.assert_close(expected.logsumexp(-1), torch.zeros(N, dtype=torch.double))
    torch.testing.assert_close(dist.logits, expected)
    torch.testing.assert_close(dist.probs, expected.exp())
    item = torch.randint(V, (5, N))
    wanted = expected.gather(1, item.T).T
    torch.testing.assert_close(dist.log_prob(item), wanted)
    torch.testing.assert_close(dist.log_prob(item[0].int()), wanted[0])
    torch.testing.assert_close(dist.code_log_prob(item).sum(-1), wanted)
    leaves = [dist.hidden, *dist.decoder.parameters()]
    for ours in (dist.log_prob(item), dist.logits.gather(1, item.T).T):
        ours = torch.autograd.grad(ours.square().sum(), leaves, allow_unused=True)
        theirs = torch.autograd.grad(
            wanted.square().sum(), leaves, allow_unused=True, retain_graph=True
        )
        for mine, other in zip(ours, theirs, strict=True):
            mine, other = (torch.zeros(()) if g is None else g for g in (mine, other))
            torch.testing.assert_close(mine, other.expand_as(mine), check_dtype=False)
    entropy = -(expected.exp() * expected).sum(-1)
    torch.testing.assert_close(dist.entropy(), entropy)
    best = expected.gather(1, dist.mode.unsqueeze(-1)).squeeze(-1)  # items of one code may tie
    torch.testing.assert_close(best, expected.amax(-1))
    assert torch.equal(dist.deterministic_sample, dist.mode)


@heads
def test_draws_stay_in_the_catalogue_with_the_frequencies_of_their_propensities(head):
    dist = policy(head)
    drawn = dist.sample((20_000,))
    assert drawn.shape == (20_000, N)
    for row in range(N):
        chance = log_probs(dist)[row].exp().detach()
        counts = drawn[:, row].bincount(minlength=V)
        assert len(counts) == V
        expected = (chance / chance.sum() * len(drawn)).numpy()
        assert chisquare(counts.numpy(), expected).pvalue > 1e-4


def test_a_restricted_policy_draws_and_finds_what_is_allowed_alone():
    dist = policy("gru")
    allowed = torch.tensor([1, 5, 7, 9])
    some = TrieCategorical(dist.hidden, dist.decoder, dist.trie.restrict(allowed), dist.bias)
    assert set(some.sample((300,)).unique().tolist()) <= set(allowed.tolist())
    torch.testing.assert_close(some.logits.logsumexp(-1), torch.zeros(N, dtype=torch.double))
    assert torch.equal(
        some.logits == -torch.inf, ~torch.isin(torch.arange(V), allowed).expand(N, V)
    )
    assert (some.log_prob(torch.full((N,), 2)) == -torch.inf).all()
    found = some.topk(6)
    assert torch.equal(found.indices[:, 4:], torch.full((N, 2), -1))
    assert (found.values[:, 4:] == -torch.inf).all()
    torch.testing.assert_close(found.values[:, :4].exp().sum(-1), torch.ones(N, dtype=torch.double))


def test_batches_of_any_shape():
    dist = policy("gru")
    grid = TrieCategorical(dist.hidden.view(2, 3, -1), dist.decoder, dist.trie, dist.bias, 0.7)
    item = torch.randint(V, (4, 2, 3))
    torch.testing.assert_close(grid.log_prob(item), dist.log_prob(item.view(4, 6)).view(4, 2, 3))
    assert grid.sample((4,)).shape == item.shape
    assert [each.shape for each in grid.topk(3)] == [(2, 3, 3), (2, 3, 3), (2, 3)]
    exclude = torch.randint(V, (2, 3, 5))
    assert torch.equal(
        grid.topk(3, exclude=exclude).indices.view(6, 3),
        dist.topk(3, exclude=exclude.view(6, 5)).indices,
    )
    one = TrieCategorical(dist.hidden[0], dist.decoder, dist.trie, dist.bias, 0.7)
    torch.testing.assert_close(one.log_prob(torch.tensor(3)), dist.log_prob(torch.full((N,), 3))[0])
    assert one.expand((4,)).log_prob(torch.arange(4)).shape == (4,)
    empty = TrieCategorical(dist.hidden[:0], dist.decoder, dist.trie)
    assert empty.log_prob(torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert empty.sample().shape == (0,)
    assert empty.topk(2).indices.shape == (0, 2)
    assert grid.enumerate_support().shape == (V, 2, 3)


def test_a_large_trie_estimates_its_entropy():
    codes = torch.cartesian_prod(torch.arange(70), torch.arange(70), torch.arange(2))
    trie = CodeTrie(codes)
    assert trie.num_inner_nodes == 1 + 70 + 4900
    dist = TrieCategorical(torch.randn(3, 4), make_decoder("parallel", trie.sizes, 4), trie)
    logits = dist.logits
    exact = -(logits.exp() * logits).sum(-1).detach()
    estimate = dist.entropy(num_samples=4000)
    assert not torch.equal(estimate, exact)
    torch.testing.assert_close(estimate, exact, atol=0.1, rtol=0)


def test_what_it_refuses():
    dist = policy("parallel")
    with pytest.raises(ValueError, match=r"row \(1, 0\) holds 40"):
        dist.log_prob(torch.tensor([[0] * N, [40] + [0] * (N - 1)]))
    with pytest.raises(ValueError, match="integer item indices"):
        dist.log_prob(torch.zeros(N))
    with pytest.raises(ValueError, match="do not fit the batch shape"):
        dist.log_prob(torch.zeros(N + 1, dtype=torch.long))
    for k in (0, V + 1):
        with pytest.raises(ValueError, match=f"k must lie in .*got {k}"):
            dist.topk(k)
    with pytest.raises(ValueError, match="beam must be at least k = 5"):
        dist.topk(5, beam=4)
    with pytest.raises(ValueError, match="exclude must have shape"):
        dist.topk(5, exclude=torch.zeros(2, 3, dtype=torch.long))
    broken = torch.full_like(dist.hidden, torch.nan)
    diverged = TrieCategorical(broken, dist.decoder, dist.trie)
    for ask in (diverged.sample, lambda: diverged.topk(3), lambda: diverged.mode):
        with pytest.raises(ValueError, match="diverged"):
            ask()
    with pytest.raises(ValueError, match="load them from a state dict"):
        TrieCategorical(dist.hidden, dist.decoder, CodeTrie(None, num_items=V, sizes=(5, 5, 5)))
    with pytest.raises(ValueError, match=r"shape \(40,\)"):
        TrieCategorical(dist.hidden, dist.decoder, dist.trie, torch.zeros(3))
    with pytest.raises(ValueError, match="temperature"):
        TrieCategorical(dist.hidden, dist.decoder, dist.trie, temperature=0.0)
    with pytest.raises(ValueError, match="hidden must be floating"):
        TrieCategorical(torch.zeros(2, 3, dtype=torch.long), dist.decoder, dist.trie)


@pytest.mark.gpu
@heads
def test_a_gpu_gives_what_the_cpu_gives(head):
    dist = policy(head)
    there = TrieCategorical(
        dist.hidden.detach().cuda(), dist.decoder.cuda(), dist.trie.cuda(), dist.bias.cuda(), 0.7
    )
    item = torch.randint(V, (N,))
    found, log_prob = there.topk(20, beam=24, exclude=item.cuda()), there.log_prob(item.cuda())
    drawn = there.sample((50,))
    here = TrieCategorical(dist.hidden, dist.decoder.cpu(), dist.trie.cpu(), dist.bias, 0.7)
    torch.testing.assert_close(log_prob.cpu(), here.log_prob(item))
    expected = here.topk(20, beam=24, exclude=item)
    torch.testing.assert_close(found.values.cpu(), expected.values)
    torch.testing.assert_close(found.pruned.cpu(), expected.pruned)
    assert ((drawn >= 0) & (drawn < V)).all()
