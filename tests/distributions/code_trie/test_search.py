"""The constrained search against the exact ranking, and against a walk over dicts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.distributions.code_trie.reference import (
    HEADS,
    INDEXES,
    N,
    V,
    catalogue,
    log_probs,
    policy,
    real_codes,
)
from torchrl_drpo.distributions.code_trie import CodeTrie, TrieCategorical, search
from torchrl_drpo.policies.semantic_id import make_decoder

heads = pytest.mark.parametrize("head", HEADS)


@heads
def test_all_beams_give_the_enumerated_ranking(head):
    dist = policy(head)
    expected = log_probs(dist).sort(-1, descending=True)
    for beam in (0, 1000):
        found = dist.topk(V, beam=beam)
        torch.testing.assert_close(found.values, expected.values)
        torch.testing.assert_close(log_probs(dist).gather(1, found.indices), found.values)
        assert (found.indices.sort(-1).values == torch.arange(V)).all()
        assert (found.pruned == -torch.inf).all()


def by_hand(dist: TrieCategorical, k: int, beam: int, excluded: set[int]) -> list[list[tuple]]:
    """Beam search with a dict of prefixes: each row's ``(log-probability, item)``, best first."""
    from tests.distributions.code_trie.reference import ranks

    paths, out = ranks(dist.trie.codes), []
    left = [item for item in range(len(paths)) if item not in excluded]
    for row in range(len(dist.hidden)):
        score = {(): 0.0}
        for level in range(dist.trie.num_levels):
            reached = {}
            for prefix, so_far in score.items():
                memory = dist.decoder.start(dist.hidden[row : row + 1])
                own = torch.zeros(1, 1, dtype=torch.long)
                for before, code in enumerate(prefix):
                    memory = dist.decoder.advance(memory, own, torch.full_like(own, code), before)
                logits = dist.decoder.logits(memory, level)[0, 0] / dist.temperature
                legal = sorted({path[level] for path in paths if path[:level] == prefix})
                among = logits[legal].log_softmax(-1)
                for code, value in zip(legal, among.tolist(), strict=True):
                    child = (*prefix, code)
                    if any(paths[item][: level + 1] == child for item in left):
                        reached[child] = so_far + value
            score = dict(sorted(reached.items(), key=lambda pair: -pair[1])[:beam])
        found = []
        for path, so_far in score.items():
            same = [item for item, theirs in enumerate(paths) if theirs == path]
            among = (dist.bias[same] / dist.temperature).log_softmax(-1).tolist()
            found += [
                (so_far + value, item)
                for value, item in zip(among, same, strict=True)
                if item not in excluded
            ]
        out.append(sorted(found, reverse=True)[:k])
    return out


@heads
def test_a_narrow_beam_is_that_of_a_walk_over_dicts(head):
    dist = policy(head)
    excluded = {0, 1, 2, 8, 20, 33}
    found = dist.topk(4, beam=5, exclude=torch.tensor([*excluded, -1, 99]))
    expected = by_hand(dist, 4, 5, excluded)
    for row in range(N):
        values, items = zip(*expected[row], strict=True)
        assert found.indices[row].tolist() == list(items)
        assert found.values[row].tolist() == pytest.approx(list(values))


@heads
def test_what_it_missed_is_no_likelier_than_it_says(head):
    torch.manual_seed(3)
    codes = torch.randint(6, (300, 3))
    trie = CodeTrie(codes)
    decoder = make_decoder(head, trie.sizes, 8)
    for table in decoder.codes.outputs:
        torch.nn.init.normal_(table, std=1.0)
    dist = TrieCategorical(torch.randn(200, 8), decoder, trie)
    exact = dist.topk(8, beam=0)
    found = dist.topk(8, beam=8)
    missed = ~(exact.indices.unsqueeze(-1) == found.indices.unsqueeze(1)).any(-1)
    worst = exact.values.masked_fill(~missed, -torch.inf).amax(-1)
    # Beside what was pruned, lists end: an item of a code that is listed may come too late.
    assert (worst <= torch.maximum(found.pruned, found.values[:, -1]) + 1e-5).all()
    sure = found.pruned <= found.values[:, -1]
    assert sure.any()
    assert not sure.all()
    torch.testing.assert_close(found.values[sure], exact.values[sure])


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_excluded_items_never_come_out_and_take_no_place(data):
    dist = policy("parallel", codes=catalogue())
    per_row = data.draw(st.booleans())
    numbers = st.integers(-2, V + 2)
    rows = data.draw(
        st.lists(st.lists(numbers, min_size=12, max_size=12), min_size=N, max_size=N)
        if per_row
        else st.lists(st.lists(numbers, min_size=0, max_size=39), min_size=1, max_size=1)
    )
    exclude = torch.tensor(rows, dtype=torch.long).view(len(rows), -1)
    beam = data.draw(st.sampled_from([0, 10, 50]))
    found = dist.topk(10, beam=beam, exclude=exclude if per_row else exclude[0])
    expected = log_probs(dist).detach()
    for row in range(N):
        banned = {item for item in rows[row if per_row else 0] if 0 <= item < V}
        listed = [item for item in found.indices[row].tolist() if item >= 0]
        assert not banned & set(listed)
        assert len(set(listed)) == len(listed) == min(10, V - len(banned))
        if beam != 10:
            left = expected[row].clone()
            left[sorted(banned)] = -torch.inf
            torch.testing.assert_close(found.values[row], left.sort(descending=True).values[:10])


@pytest.mark.skipif(not INDEXES, reason="needs real logs")
@pytest.mark.parametrize("path", INDEXES, ids=lambda path: path.name.split("_")[0])
@heads
def test_on_real_indexes_all_beams_are_the_teacher_forced_ranking(path, head):
    """Every item's log-probability by its own codes, 4,000 of them, sorted: no search at all."""
    codes = real_codes(path)
    trie = CodeTrie(codes)
    decoder = make_decoder(head, trie.sizes, 16).double()
    for table in decoder.codes.outputs:
        torch.nn.init.normal_(table, std=1.0)  # far from uniform
    dist = TrieCategorical(
        torch.randn(3, 16, dtype=torch.double),
        decoder,
        trie,
        torch.randn(len(codes), dtype=torch.double),
    )
    with torch.no_grad():
        every = dist.log_prob(torch.arange(len(codes)).unsqueeze(1).expand(-1, 3)).T
    expected = every.sort(-1, descending=True)
    torch.testing.assert_close(every.logsumexp(-1), torch.zeros(3, dtype=torch.double))
    found = dist.topk(len(codes), beam=len(codes))
    torch.testing.assert_close(found.values, expected.values)
    assert torch.equal(found.indices, expected.indices)  # no two items are as likely
    banned = expected.indices[:, :40]
    rest = dist.topk(50, beam=200, exclude=banned)
    assert not (rest.indices.unsqueeze(-1) == banned.unsqueeze(1)).any()
    sure = rest.pruned <= rest.values[:, -1]
    torch.testing.assert_close(rest.values[sure], expected.values[sure, 40:90])


def test_rows_come_in_blocks_where_they_are_many(monkeypatch):
    dist = policy("transformer")
    exclude = torch.randint(V, (N, 4))
    whole = [dist.topk(5, beam=beam, exclude=exclude) for beam in (0, 7)]
    monkeypatch.setitem(search.NUMBERS_AT_A_TIME, "cpu", 1)
    for beam, expected in zip((0, 7), whole, strict=True):
        for ours, theirs in zip(dist.topk(5, beam=beam, exclude=exclude), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_one_level_and_one_item():
    trie = CodeTrie(torch.tensor([[3]]))
    dist = TrieCategorical(torch.randn(2, 4), make_decoder("gru", trie.sizes, 4), trie)
    assert dist.topk(1).indices.tolist() == [[0], [0]]
    assert dist.sample((3,)).tolist() == [[0, 0]] * 3
    torch.testing.assert_close(dist.log_prob(torch.zeros(2, dtype=torch.long)), torch.zeros(2))
