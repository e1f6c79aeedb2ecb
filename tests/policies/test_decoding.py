from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from torchrl_drpo.policies.decoding import MIPSDecoder


def brute_force(items, query, metric, exclude=None):
    """All scores in float64, one query after another."""
    items, query = items.double(), query.double()
    if metric == "cosine":
        items = items / items.norm(dim=-1, keepdim=True)
        query = query / query.norm(dim=-1, keepdim=True)
    scores = torch.einsum("bd,vd->bv", query, items)
    for row, banned in enumerate([] if exclude is None else exclude.tolist()):
        for item in banned:
            if item >= 0:
                scores[row, item] = -torch.inf
    return scores


@settings(max_examples=40, deadline=None)
@given(
    num_items=st.integers(1, 60),
    num_queries=st.integers(1, 9),
    metric=st.sampled_from(["inner_product", "cosine"]),
    max_block=st.sampled_from([1, 7, 64, 2**24]),
    data=st.data(),
)
def test_search_is_exact_whatever_the_block(num_items, num_queries, metric, max_block, data):
    k = data.draw(st.integers(1, num_items))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    items = torch.randn(num_items, 5, generator=generator, dtype=torch.float64)
    query = torch.randn(num_queries, 5, generator=generator, dtype=torch.float64)
    exclude = torch.randint(-1, num_items, (num_queries, 3), generator=generator)
    scores, indices = MIPSDecoder(items, metric=metric, max_block=max_block).decode(
        query, k, exclude
    )
    expected = brute_force(items, query, metric, exclude)
    best, order = expected.topk(k)
    torch.testing.assert_close(scores, best)
    assert torch.equal(indices, order.masked_fill(best == -torch.inf, -1))


class LargestNewTensor(TorchDispatchMode):
    """Remembers how many bytes the largest storage had that was made under it."""

    def __init__(self, *inputs):
        super().__init__()
        self.known = {t.untyped_storage().data_ptr() for t in inputs}
        self.nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.nbytes = max(self.nbytes, storage.nbytes())
        return out


def test_no_new_tensor_is_larger_than_the_block():
    decoder, query = MIPSDecoder(torch.randn(3000, 4), max_block=4096), torch.randn(700, 4)
    with LargestNewTensor(decoder.items, query) as largest:
        decoder.decode(query, k=2)
    # All scores would be 8,400,000 bytes; the outputs are 11,200.
    assert 8_000 < largest.nbytes <= 4 * 4096


def test_every_leading_dimension_is_kept():
    decoder = MIPSDecoder(torch.randn(20, 4))
    assert [t.shape for t in decoder.decode(torch.randn(4))] == [(1,), (1,)]
    assert [t.shape for t in decoder(torch.randn(2, 3, 4), 5)] == [(2, 3, 5), (2, 3, 5)]
    assert [t.shape for t in decoder.decode(torch.randn(0, 4), 5)] == [(0, 5), (0, 5)]


def test_a_shared_exclusion_holds_for_every_query():
    items, query = torch.randn(30, 4), torch.randn(2, 6, 4)
    banned = torch.tensor([3, -1, 17, 99])
    _, indices = MIPSDecoder(items).decode(query, 28, banned)
    assert not torch.isin(indices, torch.tensor([3, 17])).any()
    assert (indices >= 0).all()  # 28 items are left, and 28 come


def test_what_is_missing_is_marked():
    scores, indices = MIPSDecoder(torch.eye(3)).decode(torch.ones(3), 3, torch.tensor([0, 2]))
    assert indices.tolist() == [1, -1, -1]
    assert scores.tolist() == [1.0, -torch.inf, -torch.inf]


def test_low_precision_items_are_compared_in_float32():
    items, query = torch.randn(500, 64).bfloat16(), torch.randn(40, 64).bfloat16()
    scores, indices = MIPSDecoder(items).decode(query)
    expected = brute_force(items, query, "inner_product").max(-1)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores[:, 0].double(), expected.values, rtol=1e-5, atol=1e-5)
    assert torch.equal(indices[:, 0], expected.indices)


def test_cosine_survives_a_diverged_query_and_a_zero_item():
    items = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 2.0]])
    decoder = MIPSDecoder(items, metric="cosine")
    scores, indices = decoder.decode(torch.tensor([[1e35, 0.0], [-1e-30, -1e-30]]))
    assert indices[:, 0].tolist() == [0, 1]
    torch.testing.assert_close(scores[:, 0], torch.tensor([1.0, 0.0]))


def test_items_travel_with_the_module_and_are_not_trained():
    decoder = MIPSDecoder(torch.randn(20, 4), metric="cosine")
    assert not list(decoder.parameters())
    query = torch.randn(5, 4)
    twin = MIPSDecoder(torch.ones(20, 4), metric="cosine")
    twin.load_state_dict(decoder.state_dict())
    for other in (twin, copy.deepcopy(decoder)):
        torch.testing.assert_close(other.decode(query), decoder.decode(query))
    scores, indices = decoder.to("meta").decode(query.to("meta"), 3)
    assert (scores.device.type, indices.device.type, indices.shape) == ("meta", "meta", (5, 3))


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (torch.randn(4), {}, r"items must be a non-empty .* shape \(4,\)"),
        (torch.randn(0, 4), {}, "items must be a non-empty"),
        (torch.ones(3, 4, dtype=torch.int64), {}, "got torch.int64"),
        (torch.randn(3, 4), {"metric": "l2"}, "metric must be .* got 'l2'"),
        (torch.randn(3, 4), {"max_block": 0}, "max_block must be"),
    ],
)
def test_a_bad_decoder_is_refused(items, options, message):
    with pytest.raises(ValueError, match=message):
        MIPSDecoder(items, **options)


@pytest.mark.parametrize(
    ("query", "k", "exclude", "message"),
    [
        (torch.randn(2, 5), 1, None, r"query must be .* \[\*B, 4\]"),
        (torch.ones(2, 4, dtype=torch.int64), 1, None, "query must be floating point"),
        (torch.randn(2, 4), 0, None, r"k must lie in \[1, 3\]"),
        (torch.randn(2, 4), 4, None, r"k must lie in \[1, 3\].* got 4"),
        (torch.randn(2, 4), 1, torch.tensor([1.0]), "exclude must be int64"),
        (torch.randn(2, 4), 1, torch.zeros(3, 1, dtype=torch.int64), "exclude must be int64"),
    ],
)
def test_a_bad_search_is_refused(query, k, exclude, message):
    with pytest.raises(ValueError, match=message):
        MIPSDecoder(torch.randn(3, 4)).decode(query, k, exclude)
