from __future__ import annotations

import pytest
import torch

from torchrl_drpo.policies.encoders import FeatureScaler, HistoryEncoder, HistoryPooling

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


# -- numeric features ---------------------------------------------------------------------------


def test_a_scaler_gives_standard_units_cut_off_at_ten() -> None:
    features = torch.randn(500, 3) * torch.tensor([1e5, 1e-4, 2.0]) + torch.tensor([7e5, 0.0, -3.0])
    exact = features.double()
    scaler = FeatureScaler(3).fit_(exact.mean(0), exact.std(0, correction=0))
    scaled = scaler(features)
    expected = (exact - exact.mean(0)) / exact.std(0, correction=0)
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.double(), expected, atol=1e-5, rtol=1e-5)
    far = scaler(torch.tensor([[1e30, -1e30, float("inf")]]))
    assert far.tolist() == [[10.0, -10.0, 10.0]]


def test_a_constant_column_stays_in_its_own_units() -> None:
    # A mean of equal numbers is off by rounding, and so leaves a spread that is none.
    column = torch.full((1000, 1), 0.1).double()
    mean = column.mean(0) * (1 + 2e-16)
    spread = (column - mean).square().mean(0).sqrt()
    assert spread > 0
    scaler = FeatureScaler(1).fit_(mean, spread)
    assert scaler.scale.item() == 1.0
    assert scaler(torch.tensor([[0.1], [0.6]])).flatten().tolist() == pytest.approx([0.0, 0.5])
    # One ulp in one of a billion rows is a spread, though.
    assert FeatureScaler(1).fit_(torch.ones(1), torch.tensor([4e-12])).scale.item() < 1e-11


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.0], [1.0, 1.0], r"mean must have shape \[2\], one number a feature, got \[1\]"),
        ([0.0, 0.0], [1.0], r"std must have shape \[2\]"),
        ([0.0, float("nan")], [1.0, 1.0], "mean must be finite but that of feature 1 is nan"),
        ([0.0, 0.0], [-1.0, 1.0], "std must be finite and at least 0 but that of feature 0 is -1"),
        ([0.0, 0.0], [1.0, float("inf")], "that of feature 1 is inf"),
    ],
)
def test_moments_that_are_none_are_refused(mean: list, std: list, message: str) -> None:
    scaler = FeatureScaler(2)
    with pytest.raises(ValueError, match=message):
        scaler.fit_(torch.tensor(mean), torch.tensor(std))
    assert scaler.mean.tolist() == [0.0, 0.0]
    assert scaler.scale.tolist() == [1.0, 1.0]


def test_features_enter_the_mlp_in_standard_units() -> None:
    encoder = HistoryEncoder(4, 5, context_sizes=(3,), num_features=2, hidden=(6,)).double()
    encoder.scaler.fit_(torch.tensor([3.0, -1.0]), torch.tensor([2.0, 0.5]))
    embedded, mask = history()
    embedded, context, features = embedded.double(), torch.randint(-1, 3, (6, 1)), torch.randn(6, 2)
    first, last = encoder.mlp[0], encoder.mlp[2]
    pooled = torch.stack([e[m].mean(0) for e, m in zip(embedded, mask, strict=True)])
    scaled = (features.double() - torch.tensor([3.0, -1.0])) / torch.tensor([2.0, 0.5])
    entered = torch.cat([pooled, encoder.context[0].weight[context[:, 0] + 1], scaled], -1)
    hidden = (entered @ first.weight.T + first.bias).clamp_min(0)
    expected = hidden @ last.weight.T + last.bias
    got = encoder(embedded, mask, context, features)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6)


def test_an_encoder_without_features_is_the_one_it_was() -> None:
    torch.manual_seed(3)
    tables = [torch.nn.Embedding(size + 1, 4) for size in (3, 2)]
    for table in tables:
        torch.nn.init.normal_(table.weight, std=0.5)
    linear = [torch.nn.Linear(12, 6), torch.nn.Linear(6, 4)]
    torch.manual_seed(3)
    state = HistoryEncoder(4, 5, context_sizes=(3, 2), hidden=(6,)).state_dict()
    expected = {
        "pooling.empty": torch.zeros(4),
        "pooling.recency": torch.zeros(5),
        "context.0.weight": tables[0].weight,
        "context.1.weight": tables[1].weight,
        "mlp.0.weight": linear[0].weight,
        "mlp.0.bias": linear[0].bias,
        "mlp.2.weight": linear[1].weight,
        "mlp.2.bias": linear[1].bias,
    }
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_features_are_counted() -> None:
    embedded, mask = history()
    encoder = HistoryEncoder(4, 5, num_features=3)
    with pytest.raises(ValueError, match="expected 3 numeric features, got 0"):
        encoder(embedded, mask)
    with pytest.raises(ValueError, match="expected 3 numeric features, got 2"):
        encoder(embedded, mask, None, torch.zeros(6, 2))
    with pytest.raises(ValueError, match="expected 0 numeric features, got 2"):
        HistoryEncoder(4, 5)(embedded, mask, None, torch.zeros(6, 2))
    with pytest.raises(ValueError, match="num_features must be at least 0, got -1"):
        HistoryEncoder(4, 5, num_features=-1)
    with pytest.raises(ValueError, match="num_features must be at least 1, got 0"):
        FeatureScaler(0)


def test_half_precision_towers_read_features_of_full_precision() -> None:
    encoder = HistoryEncoder(4, 5, num_features=1).bfloat16()
    embedded, mask = history(batch=2)
    embedded, mask = embedded[:1].expand(2, 5, 4).bfloat16(), mask[:1].expand(2, 5)
    # 1001 and 1003 are one number in bfloat16, which has eight digits of two.
    encoder.scaler.fit_(torch.tensor([1000.0]), torch.tensor([1.0]))
    states = encoder(embedded, mask, None, torch.tensor([[1001.0], [1003.0]]))
    assert states.dtype == torch.bfloat16
    assert not torch.equal(states[0], states[1])
