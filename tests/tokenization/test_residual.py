"""Semantic IDs from vectors: planted hierarchies, reproducible codes, levels that tell apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchrl_drpo.tokenization import assignment, residual_kmeans, told_apart


def planted(groups: int = 6, members: int = 5, items: int = 20) -> tuple[Tensor, Tensor]:
    """Groups far apart, within each the same members, apart by less, and noise by still less."""
    torch.manual_seed(3)
    first = torch.arange(groups).repeat_interleave(members * items)
    second = torch.arange(members).repeat_interleave(items).repeat(groups)
    member = 5 * torch.randn(members, 8)
    member -= member.mean(0)
    noise = 0.05 * torch.randn(len(first), 8)
    vectors = 60 * torch.randn(groups, 8)[first] + member[second] + noise
    return vectors, torch.stack([first, second], 1)


def same_partition(one: Tensor, other: Tensor) -> bool:
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


@pytest.mark.parametrize("balanced", [False, True])
def test_a_planted_hierarchy_is_recovered(balanced: bool) -> None:
    vectors, truth = planted()
    best = min(
        (residual_kmeans(vectors, levels=2, codes=c, balanced=balanced, seed=s) for s in range(3)
         for c in (6,)),
        key=lambda found: found.error[-1],
    )  # fmt: skip
    assert same_partition(best.codes[:, 0], truth[:, 0])
    assert best.error[0] > best.error[1] > 0
    left = vectors - best.decode(best.codes)
    centred = vectors - vectors.mean(0)
    share = left.double().square().sum() / centred.double().square().sum()
    assert best.error[-1] == pytest.approx(share.item(), rel=1e-3)
    if not balanced:  # five members for six codes of one size: some members must be split
        assert len(set(zip(*best.codes.T.tolist(), strict=True))) >= 30
        for leaf in best.codes.unique(dim=0):
            inside = truth[(best.codes == leaf).all(1)]
            assert len(inside.unique(dim=0)) == 1


def test_each_level_is_the_nearest_centroid_of_what_is_left() -> None:
    vectors = torch.randn(700, 5) + 3
    found = residual_kmeans(vectors, levels=3, codes=9)
    rest = vectors
    for level, book in enumerate(found.codebooks):
        apart = (rest.double()[:, None] - book.double()).square().sum(-1)
        chosen = apart.gather(1, found.codes[:, level, None])[:, 0]
        torch.testing.assert_close(chosen, apart.amin(-1), rtol=1e-4, atol=1e-5)
        rest = rest - book[found.codes[:, level]]
    assert found.error == sorted(found.error, reverse=True)


@pytest.mark.parametrize("balanced", [False, True])
def test_one_seed_is_one_result_whatever_the_blocks(monkeypatch, balanced: bool) -> None:
    vectors = torch.randn(600, 6)
    options = {"levels": 2, "codes": 12, "balanced": balanced, "fitted_to": 300, "iterations": 5}
    first = residual_kmeans(vectors, seed=1, **options)
    assert torch.equal(residual_kmeans(vectors, seed=1, **options).codes, first.codes)
    assert not torch.equal(residual_kmeans(vectors, seed=2, **options).codes, first.codes)
    for budget in (4_001, 500):
        monkeypatch.setattr(assignment, "TILE_ELEMENTS", budget)
        assert torch.equal(residual_kmeans(vectors, seed=1, **options).codes, first.codes)
    torch.manual_seed(99)  # nor does the caller's own generator matter
    assert torch.equal(residual_kmeans(vectors, seed=1, **options).codes, first.codes)


def test_a_balanced_level_keeps_its_capacity_on_all_items() -> None:
    vectors = torch.randn(1_003, 4) ** 3
    found = residual_kmeans(vectors, levels=3, codes=10, balanced=True, fitted_to=300)
    for level in found.codes.T:
        assert torch.bincount(level).max() <= 101


def test_fewer_different_vectors_than_codes() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
    found = residual_kmeans(vectors, levels=2, codes=256)
    assert found.error == [0.0, 0.0]
    assert [len(book) for book in found.codebooks] == [3, 1]
    assert torch.equal(found.decode(found.codes), vectors)


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (torch.ones(5, 2), {}, "all 5 vectors are the same"),
        (torch.tensor([[1.0], [torch.nan]]), {}, r"a vector must be finite but row \(1, 0\)"),
        (torch.zeros(0, 3), {}, r"expected vectors \[V, D\], got shape \(0, 3\)"),
        (torch.rand(5, 2), {"levels": 0}, "levels must be a finite number above 0, got 0"),
    ],
)
def test_what_cannot_be_quantised_is_refused(vectors, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        residual_kmeans(vectors, **options)


def test_told_apart_by_popularity() -> None:
    torch.manual_seed(0)
    codes, popularity = torch.randint(0, 3, (60, 2)), torch.randint(0, 9, (60,))
    told = told_apart(codes, popularity)
    assert torch.equal(told[:, :2], codes)
    assert len(told.unique(dim=0)) == 60
    for leaf in codes.unique(dim=0):
        on_it = (codes == leaf).all(1).nonzero()[:, 0].tolist()
        wanted = sorted(on_it, key=lambda item: (-popularity[item].item(), item))
        assert [told[item, 2].item() for item in wanted] == list(range(len(on_it)))
