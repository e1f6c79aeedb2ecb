"""faiss behind the exact search's signature; skipped where faiss is not installed."""

from __future__ import annotations

import sys

import pytest
import torch

from torchrl_drpo.policies.decoding import FaissDecoder, MIPSDecoder
from torchrl_drpo.policies.decoding.indices import IndexSettings, build, equally_long, load_faiss

KINDS = ("flat", "ivf", "hnsw")


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", exc_type=ImportError)


def table(count: int = 2_000, width: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    length = 0.5 + torch.rand(count, 1, generator=generator)
    return torch.randn(count, width, generator=generator) * length


def queries(count: int = 50, width: int = 12) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("metric", ["inner_product", "cosine"])
@pytest.mark.usefixtures("faiss")
def test_flat_is_the_exact_search(metric: str) -> None:
    decoder, exact = FaissDecoder(table(), "flat", metric=metric), MIPSDecoder(
        table(), metric=metric
    )  # fmt: skip
    exclude = torch.randint(-1, 2_000, (50, 20), generator=torch.Generator().manual_seed(2))
    exclude[:, :5] = exact.decode(queries(), 5)[1]  # what would come first
    for banned in (None, exclude, exclude[0], exclude[:, :3]):
        scores, items = decoder.decode(queries(), 30, banned)
        wanted = exact.decode(queries(), 30, banned)
        torch.testing.assert_close(scores, wanted[0])
        assert torch.equal(items, wanted[1])
    assert decoder.recall == (10, 1.0, 256)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("faiss")
def test_recall_is_what_it_says(kind: str) -> None:
    decoder = FaissDecoder(table(), kind, sample=queries(), k=20)
    exact = MIPSDecoder(table()).decode(queries(), 20)[1].tolist()
    found = decoder.decode(queries(), 20)[1].tolist()
    shared = [len(set(a) & set(b)) for a, b in zip(exact, found, strict=True)]
    assert decoder.recall.k == 20
    assert decoder.recall.queries == 50
    assert decoder.recall.value == pytest.approx(sum(shared) / 1_000)
    assert decoder.recall.value > 0.9
    assert f"recall@20={decoder.recall.value:.3f}" in repr(decoder)


def trained(count: int = 4_000, width: int = 32) -> torch.Tensor:
    """As of a policy times a critic: items lie where queries look, and some are far longer."""
    draw = torch.Generator().manual_seed(2)
    directions = torch.nn.functional.normalize(
        table(count, width) + 3 * torch.ones(width) / width**0.5, dim=-1
    )
    return directions * (0.35 * torch.randn(count, 1, generator=draw)).exp()


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize("scattered", [True, False])
@pytest.mark.usefixtures("faiss")
def test_the_form_that_finds_more_is_indexed(kind: str, scattered: bool) -> None:
    items, asked = (table(4_000, 32) if scattered else trained()), queries(200, 32)
    asked = asked if scattered else asked + 4 / 32**0.5
    decoder = FaissDecoder(items, kind, sample=asked, k=10)
    scores, found = decoder.decode(asked, 20)
    torch.testing.assert_close(scores, (asked.unsqueeze(1) * items[found]).sum(-1))
    settings = IndexSettings(kind, nprobe=32, neighbours=32, ef=128)
    exact = (asked @ items.T).topk(10).indices
    shares = []
    for pads, form in enumerate((items, equally_long(items))):
        index, _ = build(load_faiss(), form, settings, None)
        query = torch.nn.functional.pad(asked, (0, pads))
        theirs = torch.from_numpy(index.search(query.numpy(), 10)[1])
        shares.append((theirs.unsqueeze(-1) == exact.unsqueeze(1)).any(-1).double().mean().item())
    assert decoder.recall.value == pytest.approx(max(shares), abs=1e-3)


@pytest.mark.usefixtures("faiss")
def test_a_poor_index_says_that_it_is() -> None:
    poor = FaissDecoder(table(), "ivf", nprobe=1, sample=queries())
    assert poor.recall.value < 0.8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("faiss")
def test_excluded_items_never_come_back_and_lists_are_never_short(kind: str) -> None:
    decoder = FaissDecoder(table(200), kind, nprobe=1)
    best = MIPSDecoder(table(200)).decode(queries(), 200)[1]
    for count in (1, 20, 195, 200):
        exclude = torch.cat([best[:, :count], best[:, :1], torch.full((50, 1), -1)], 1)
        scores, items = decoder.decode(queries(), 10, exclude)
        left = min(10, 200 - count)
        assert ((items >= 0).sum(1) == left).all()
        assert torch.equal(items < 0, scores == -torch.inf)
        banned = exclude.unsqueeze(1) == items.unsqueeze(2)
        assert not (banned.any(2) & (items >= 0)).any()
        if left < 10:  # the exact search helped out
            assert torch.equal(items, MIPSDecoder(table(200)).decode(queries(), 10, exclude)[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("faiss")
def test_shapes_and_queries_of_any_kind(kind: str) -> None:
    decoder, exact = FaissDecoder(table(300), kind), MIPSDecoder(table(300))
    one = decoder(queries()[0])
    assert one[0].shape == one[1].shape == (1,)
    assert decoder.decode(queries().view(5, 10, 12), 3)[1].shape == (5, 10, 3)
    assert decoder.decode(queries()[:0], 3)[1].shape == (0, 3)
    assert (decoder.decode(queries(), 300)[1].sort(1).values == torch.arange(300)).all()
    odd = queries()[:3].clone()
    odd[1, 0] = torch.nan
    assert torch.equal(decoder.decode(odd, 2)[1][1], exact.decode(odd, 2)[1][1])
    with pytest.raises(ValueError, match=r"k must lie in \[1, 300\]"):
        decoder.decode(queries(), 301)
    with pytest.raises(ValueError, match="query must be floating point"):
        decoder.decode(queries()[:, :3], 2)


@pytest.mark.usefixtures("faiss")
def test_what_makes_no_index_is_refused() -> None:
    broken = table(60)
    broken[7, 3] = torch.inf
    with pytest.raises(ValueError, match="item 7 is not"):
        FaissDecoder(broken)
    with pytest.raises(ValueError, match="kind must be flat, ivf or hnsw, got 'pq'"):
        FaissDecoder(table(60), "pq")
    with pytest.raises(ValueError, match="nprobe must be at least 1"):
        FaissDecoder(table(60), "ivf", nprobe=0)


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"torchrl-drpo\[faiss\]"):
        FaissDecoder(table(60))
