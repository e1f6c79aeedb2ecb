"""Reports on codes against counts by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import pytest
import torch
from scipy.stats import entropy

from torchrl_drpo.tokenization import code_quality, collisions, hits_lost, residual_kmeans
from torchrl_drpo.tokenization.leaves import prefixes
from torchrl_drpo.tokenization.purity import neighbour_pairs, purity


def some_codes(items: int = 80) -> torch.Tensor:
    return torch.randint(0, 4, (items, 3), generator=torch.Generator().manual_seed(0))


def test_entropies_and_prefixes() -> None:
    codes = some_codes()
    found = code_quality(codes)
    for level, quality in enumerate(found.levels):
        counts = Counter(codes[:, level].tolist())
        assert quality.used == len(counts)
        assert quality.perplexity == pytest.approx(math.exp(entropy(list(counts.values()))))
        begins = Counter(tuple(row[: level + 1]) for row in codes.tolist())
        assert quality.prefixes == len(begins)
        assert quality.largest == max(begins.values()) / 80
    assert found.levels[0].neighbours is found.levels[0].spread is found.lost is None


def test_collisions_and_what_they_cost() -> None:
    codes = some_codes()
    draw = torch.Generator().manual_seed(1)
    popularity = torch.randint(0, 20, (80,), generator=draw)
    events = torch.randint(0, 20, (80,), generator=draw)
    leaves: dict[tuple[int, ...], list[int]] = {}
    for item, row in enumerate(codes.tolist()):
        leaves.setdefault(tuple(row), []).append(item)
    sizes = [len(items) for items in leaves.values()]
    found = collisions(codes)
    assert found == (
        len(leaves), sizes.count(1) / 80, sum(s for s in sizes if s > 1), max(sizes),
    )  # fmt: skip
    lost = places = random = 0.0
    for items in leaves.values():
        ordered = sorted(items, key=lambda item: (-popularity[item].item(), item))
        for place, item in enumerate(ordered):
            n = events[item].item()
            lost, places = lost + n * (place > 0), places + n * place
            random += n * (1 - 1 / len(items))
    whole = events.sum().item()
    assert hits_lost(codes, popularity, events) == pytest.approx(
        (lost / whole, random / whole, places / whole)
    )
    assert hits_lost(codes, events).one_a_leaf <= lost / whole  # in the order of the events
    with pytest.raises(ValueError, match="there are none"):
        hits_lost(codes, popularity, torch.zeros(80))


def test_chance_is_what_shuffled_pairs_share() -> None:
    draw = torch.Generator().manual_seed(0)
    prefix = prefixes(some_codes())[0]
    first = torch.multinomial(torch.rand(80, generator=draw) ** 4, 4_000, True, generator=draw)
    second = torch.multinomial(torch.rand(80, generator=draw) ** 4, 4_000, True, generator=draw)
    first, second = first[first != second], second[first != second]
    found = purity(prefix, first, second)
    alike = apart = 0
    for _ in range(50):
        other = second[torch.randperm(len(second), generator=draw)]
        apart += int((first != other).sum())
        alike += int(((prefix[first] == prefix[other]) & (first != other)).sum())
    assert found.chance == pytest.approx(alike / apart, abs=0.005)
    assert found.share == pytest.approx(found.chance, abs=0.03)  # the sides are independent
    assert math.isnan(purity(prefix, first, first).share)


def test_neighbours_are_those_of_all_distances() -> None:
    vectors = 1_000 + torch.randn(300, 5)
    item, other = neighbour_pairs(vectors, neighbours=4, sample=50)
    distance = torch.cdist(vectors.double(), vectors.double()).fill_diagonal_(torch.inf)
    near = distance.topk(4, largest=False).indices
    found: dict[int, set[int]] = {}
    for a, b in zip(item.tolist(), other.tolist(), strict=True):
        found.setdefault(a, set()).add(b)
    assert len(found) == 50
    assert all(found[a] == set(near[a].tolist()) for a in found)


def test_codes_of_the_vectors_are_pure_and_shuffled_ones_are_not() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(20, 6)[torch.arange(600) % 20] + 0.2 * torch.randn(600, 6)
    codes = residual_kmeans(vectors, levels=2, codes=8).codes
    users = [torch.randint(0, 30, (40,)) * 20 + topic % 20 for topic in range(200)]
    pairs = tuple(torch.cat([user[side] for user in users]) for side in (slice(39), slice(1, 40)))
    good = code_quality(codes, vectors=vectors, together=pairs)
    bad = code_quality(codes[torch.randperm(600)], vectors=vectors, together=pairs)
    for level, of_chance in itertools.product(range(2), (bad, good)):
        for kind in ("neighbours", "together"):
            found = getattr(of_chance.levels[level], kind)
            assert (found.share > 2.5 * found.chance) == (of_chance is good), (level, kind)
    assert good.levels[1].spread < good.levels[0].spread < 0.5
    assert bad.levels[0].spread > 0.95


def test_items_without_codes_or_vectors_are_counted_and_left_out() -> None:
    codes, vectors = some_codes(), torch.randn(80, 4)
    pairs = torch.randint(0, 80, (500,)), torch.randint(0, 80, (500,))
    popularity = torch.ones(80)
    given = {"vectors": vectors, "together": pairs, "popularity": popularity}
    whole = code_quality(codes, **given)
    more = torch.cat([codes[:40], torch.full((7, 3), -1), codes[40:]])
    wider = torch.cat([vectors[:40], torch.zeros(7, 4), vectors[40:]])
    moved = tuple(torch.where(side >= 40, side + 7, side) for side in pairs)
    counted = torch.cat([popularity, 100 * torch.ones(7)])
    counted = torch.cat([counted[:40], counted[80:], counted[40:80]])
    found = code_quality(more, vectors=wider, together=moved, popularity=counted)
    assert (found.items, found.without) == (80, 7)
    assert found.levels == whole.levels
    assert (found.collisions, found.lost) == (whole.collisions, whole.lost)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["without_codes"] == 7
    with pytest.raises(ValueError, match="none of the 2 items has a code"):
        code_quality(torch.full((2, 3), -1))
