from __future__ import annotations

import pytest
import torch

from torchrl_drpo.policies.encoders import HistoryEncoder, HistoryPooling

POOLINGS = ["mean", "recency", "attention"]


def history(batch: int = 6, length: int = 5, dim: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    valid = torch.randint(1, length + 1, (batch, 1))
    mask = torch.arange(length) >= length - valid  # left-padded
    return torch.randn(batch, length, dim), mask


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_starts_as_the_mean_of_the_valid_items(pooling: str) -> None:
    embedded, mask = history()
    pooled = HistoryPooling(4, 5, pooling=pooling)(embedded, mask)
    expected = torch.stack([e[m].mean(0) for e, m in zip(embedded, mask, strict=True)])
    torch.testing.assert_close(pooled, expected)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_padding_holds_is_never_seen(pooling: str) -> None:
    embedded, mask = history()
    pool = HistoryPooling(4, 5, pooling=pooling)
    torch.nn.init.normal_(pool.empty)
    for parameter in (pool.recency, pool.query):
        if parameter is not None:
            torch.nn.init.normal_(parameter)
    other = torch.where(mask[..., None], embedded, 1e4)
    torch.testing.assert_close(pool(embedded, mask), pool(other, mask))


def test_pooling_weights_are_a_softmax_of_recency_and_content() -> None:
    embedded, mask = history(batch=1, length=3)
    mask[:] = torch.tensor([False, True, True])
    pool = HistoryPooling(4, 3, pooling="attention")
    torch.nn.init.normal_(pool.recency)
    torch.nn.init.normal_(pool.query)
    a, b = embedded[0, 1], embedded[0, 2]
    score = pool.recency[1:] + torch.stack([a, b]) @ pool.query / 2  # 2 is sqrt(4)
    expected = score.softmax(0) @ torch.stack([a, b])
    torch.testing.assert_close(pool(embedded, mask)[0], expected)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_short_window_equals_the_same_history_padded(pooling: str) -> None:
    embedded = torch.randn(3, 5, 4)
    mask = torch.tensor([False, False, True, True, True]).expand(3, 5)
    pool = HistoryPooling(4, 5, pooling=pooling)
    if pool.recency is not None:
        torch.nn.init.normal_(pool.recency)
    torch.testing.assert_close(pool(embedded[:, 2:], mask[:, 2:]), pool(embedded, mask))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_empty_history_is_finite_and_learns(pooling: str) -> None:
    embedded, mask = history()
    mask[2] = False
    embedded.requires_grad_()
    pool = HistoryPooling(4, 5, pooling=pooling)
    pooled = pool(embedded, mask)
    assert torch.equal(pooled[2], pool.empty)
    pooled.sum().backward()
    assert torch.equal(pool.empty.grad, torch.ones(4))
    assert embedded.grad.isfinite().all()
    assert not embedded.grad[2].any()
    assert all(p.grad.isfinite().all() for p in pool.parameters())


def test_a_history_longer_than_the_encoder_says_what_to_do() -> None:
    embedded, mask = history(length=6)
    with pytest.raises(ValueError, match="6 items were given to an encoder made for 5"):
        HistoryPooling(4, 5)(embedded, mask)


def test_unknown_context_has_an_embedding_of_its_own() -> None:
    encoder = HistoryEncoder(4, 5, context_sizes=(3, 2), hidden=())
    embedded, mask = history(batch=1)
    states = [encoder(embedded, mask, torch.tensor([[tab, 1]])) for tab in (-1, 0, 1, 2)]
    assert len({tuple(s.flatten().tolist()) for s in states}) == 4


def test_context_columns_are_counted() -> None:
    embedded, mask = history()
    with pytest.raises(ValueError, match="expected 1 context columns, got 0"):
        HistoryEncoder(4, 5, context_sizes=(3,))(embedded, mask)
    with pytest.raises(ValueError, match="expected 0 context columns, got 2"):
        HistoryEncoder(4, 5)(embedded, mask, torch.zeros(6, 2, dtype=torch.long))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dim": 4, "length": 0}, "length must be at least 1, got 0"),
        ({"dim": 0, "length": 3}, "dim must be at least 1, got 0"),
        ({"dim": 4, "length": 3, "pooling": "max"}, "got 'max'"),
    ],
)
def test_bad_sizes(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HistoryPooling(**kwargs)


def test_any_batch_shape_and_device() -> None:
    encoder = HistoryEncoder(4, 5, context_sizes=(3,), device="meta")
    embedded = torch.empty(2, 3, 5, 4, device="meta")
    mask = torch.empty(2, 3, 5, dtype=torch.bool, device="meta")
    context = torch.empty(2, 3, 1, dtype=torch.long, device="meta")
    assert encoder(embedded, mask, context).shape == (2, 3, 4)
