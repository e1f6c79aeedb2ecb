"""State vectors: blocks that weigh alike, and numbers that stay what they are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from torchrl_drpo.policies.encoders import FARTHEST
from torchrl_drpo.policies.states import CODE_WIDTH, StateVector


def make_rows(n: int = 500, seed: int = 0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(n, 6, 4, generator=g), dim=-1)
    mask = torch.rand(n, 6, generator=g) < 0.7
    mask[:3] = False
    context = torch.stack(
        [torch.randint(-1, 5, (n,), generator=g), torch.randint(0, 300, (n,), generator=g)], -1
    )
    features = torch.randn(n, 3, generator=g) * torch.tensor([1.0, 1e4, 1e-3]) + 7.0
    return directions, mask, context, features


def make_state() -> StateVector:
    return StateVector(4, context_sizes=(5, 300), num_features=3)


def test_calibrated_blocks_have_one_mean_square_and_entries_together_one() -> None:
    rows = make_rows()
    state = make_state().calibrate([rows])
    out = state(*rows).double()
    widths = [4, 6, CODE_WIDTH, 3]
    assert state.width == out.shape[1] == sum(widths)
    torch.testing.assert_close(out.mean(0), torch.zeros(state.width).double(), atol=1e-3, rtol=0)
    shares = [block.square().sum(1).mean() for block in out.split(widths, 1)]
    for share in shares:
        assert share.item() == pytest.approx(state.width / 4, rel=1e-3)
    assert out.square().mean().item() == pytest.approx(1.0, rel=1e-3)
    by_feature = out[:, -3:].square().mean(0)
    torch.testing.assert_close(by_feature, by_feature.mean().expand(3), rtol=1e-3, atol=0)


def test_features_alone_become_standard_scores() -> None:
    *_, features = make_rows()
    mask, history = torch.zeros(500, 1, dtype=torch.bool), torch.zeros(500, 1, 9)
    state = StateVector(0, num_features=3)
    out = state.calibrate([(history, mask, None, features)])(history, mask, None, features)
    expected = (features.double() - features.double().mean(0)) / features.double().std(
        0, correction=0
    )
    torch.testing.assert_close(out.double(), expected, atol=1e-3, rtol=1e-3)


def test_blocks_of_rows_calibrate_as_all_of_them_do() -> None:
    rows = make_rows()
    whole = make_state().calibrate([rows])
    parts = zip(*(column.split(170) for column in rows), strict=True)
    pieces = make_state().calibrate(parts)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(pieces.state_dict()[name], value, rtol=1e-6, atol=1e-6)


def test_a_history_is_the_mean_of_what_is_there() -> None:
    directions, mask, context, features = make_rows()
    out = make_state()(directions, mask, context, features)
    for row in range(20):
        there = directions[row][mask[row]]
        expected = there.mean(0) if len(there) else torch.zeros(4)
        torch.testing.assert_close(out[row, :4], expected)
    assert not out[:3, :4].any()
    assert not out.isnan().any()


def test_values_of_a_column_are_told_apart_and_always_alike() -> None:
    state = StateVector(0, context_sizes=(3, 1000))
    values = torch.stack([torch.tensor([-1, 0, 1, 2]), torch.tensor([-1, 0, 998, 999])], -1)
    none, nothing = torch.zeros(4, 1, dtype=torch.bool), torch.zeros(4, 1, 1)
    small, large = state(nothing, none, values).split([4, CODE_WIDTH], -1)
    assert torch.equal(small, torch.eye(4))  # the unknown value has a place of its own
    torch.testing.assert_close(large.norm(dim=-1), torch.ones(4))
    assert (large @ large.T - torch.eye(4)).abs().max() < 0.6
    again = StateVector(0, context_sizes=(3, 1000))(nothing, none, values)
    assert torch.equal(again, torch.cat([small, large], -1))


def test_constants_and_broken_features_disturb_nobody() -> None:
    directions, mask, context, features = make_rows()
    context[:, 0] = 2
    features[:, 0] = 1e6
    state = make_state().calibrate([(directions, mask, context, features)])
    out = state(directions, mask, context, features)
    assert out[:, 4:10].abs().max() < 1e-5
    assert out[:, -3].abs().max() < 1e-5
    features[0, 1] = 1e30
    one = state(directions, mask, context, features)[0, -2]
    unit = out[:, -2].std()
    assert one.item() == pytest.approx(FARTHEST * unit.item() * (3 / 2) ** 0.5, rel=0.3)
    assert torch.isfinite(one)


@pytest.mark.parametrize(
    ("centre", "spread"),
    [(1.7e9, 1000.0), (-4e12, 2e6), (0.0, 1e-8), (3e-9, 1e-12), (0.0, 1e36)],
    ids=["clock", "large", "small", "rates", "huge"],
)
def test_a_feature_that_hardly_varies_is_in_standard_units(centre: float, spread: float) -> None:
    g = torch.Generator().manual_seed(2)
    drawn = centre + spread * (2 * torch.rand(500, 2, generator=g, dtype=torch.double) - 1)
    features = drawn.float()
    mask, history = torch.zeros(500, 1, dtype=torch.bool), torch.zeros(500, 1, 9)
    state = StateVector(0, num_features=2)
    columns = zip(*(x.split(90) for x in (history, mask, features)), strict=True)
    blocks = ((h, m, None, f) for h, m, f in columns)
    out = state.calibrate(blocks)(history, mask, None, features).double()
    exact = features.double()
    expected = (exact - exact.mean(0)) / exact.std(0, correction=0)
    # The mean is a float32 too, and may lie half of its last place beside.
    atol = 1e-5 + 2.0**-24 * abs(centre) / exact.std(0, correction=0).min().item()
    torch.testing.assert_close(out, expected, atol=atol, rtol=1e-5)


def test_a_constant_is_zero_whatever_it_is() -> None:
    mask, history = torch.zeros(64, 1, dtype=torch.bool), torch.zeros(64, 1, 9)
    for constant in (0.1, 1.7e9, -3.3e37, 1e-40):
        features = torch.full((64, 1), constant)
        rows = (history, mask, None, features)
        state = StateVector(0, num_features=1).calibrate([rows, rows])
        assert state.scale.item() == 1.0
        assert not state(*rows).any()


def test_a_history_that_is_the_same_everywhere_is_not_blown_up_from_rounding() -> None:
    direction = F.normalize(torch.randn(3, generator=torch.Generator().manual_seed(0)), dim=0)
    mask = torch.arange(30)[:, None] > torch.arange(30)  # one item, 0 to 29 times
    mask[0, 0] = True
    state = StateVector(3)
    rows = (direction.expand(30, 30, 3), mask, None, None)
    assert state.calibrate([rows])(*rows).abs().max() < 1e-6


def test_unknown_features_count_as_the_mean() -> None:
    directions, mask, context, features = make_rows()
    state = make_state().calibrate([(directions, mask, context, features)])
    unknown = state(directions, mask, context)
    assert not unknown[:, -3:].any()
    known = state(directions, mask, context, features)
    assert torch.equal(unknown[:, :-3], known[:, :-3])


def test_a_row_that_says_nothing_has_one_state() -> None:
    state = StateVector(0)
    none, nothing = torch.zeros(2, 1, dtype=torch.bool), torch.zeros(2, 1, 8)
    state.calibrate([(nothing, none, None, None)])
    assert state(nothing, none).tolist() == [[0.0], [0.0]]


def test_what_does_not_fit_is_named() -> None:
    directions, mask, context, features = make_rows()
    state = make_state()
    with pytest.raises(ValueError, match="expected 2 context columns, got 1"):
        state(directions, mask, context[:, :1], features)
    with pytest.raises(ValueError, match="expected 3 features, got 2"):
        state(directions, mask, context, features[:, :2])
    with pytest.raises(ValueError, match="no rows"):
        state.calibrate([])
    features[4, 1] = torch.nan
    with pytest.raises(ValueError, match=r"states must be finite but row \(4, "):
        state.calibrate([(directions, mask, context, features)])
    with pytest.raises(ValueError, match="at least 0"):
        StateVector(-1)
