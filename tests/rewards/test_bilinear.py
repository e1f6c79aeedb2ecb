"""The bilinear reward model against dense algebra in float64, its slope against autograd."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchrl_drpo.rewards.bilinear import (
    RIDGES,
    BilinearReward,
    fit_bilinear_reward,
)

N, P, D, M = 80, 3, 2, 12
Rows = tuple[Tensor, Tensor, Tensor]


def make_rows(count: int = N, noise: float = 0.3, seed: int = 0) -> Rows:
    """States, actions and a reward that is an inner product with something smooth of the state."""
    g = torch.Generator().manual_seed(seed)
    state = torch.randn(count, P, generator=g, dtype=torch.float64)
    action = torch.randn(count, D, generator=g, dtype=torch.float64)
    taste = torch.stack([state[:, 0].sin(), state[:, 1]], -1)
    direction = action / action.norm(dim=-1, keepdim=True)
    reward = (taste * direction).sum(-1) + 0.2 * state[:, 2]
    return state, action, reward + noise * torch.randn(count, generator=g, dtype=torch.float64)


def kernel(x: Tensor, y: Tensor, lengthscale: float) -> Tensor:
    """By its definition, pair by pair."""
    squares = (x[:, None] - y[None]).square().sum(-1)
    return torch.exp(-squares / (2 * lengthscale**2))


# -- the fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [3.0, 30.0])
def test_the_weight_solves_the_dense_normal_equations(ridge: float):
    state, action, reward = make_rows()
    model = fit_bilinear_reward(state, action, reward, landmarks=M, lengthscale=1.5, ridge=ridge)
    gram = kernel(model.landmarks, model.landmarks, 1.5)
    # Nystroem: phi phi^T = k(x, Z) K_ZZ^-1 k(Z, y), whatever square root of K_ZZ^-1 is taken.
    gram = gram + 1e-3 * torch.eye(M, dtype=torch.float64)
    torch.testing.assert_close(model.whitening.T @ model.whitening, torch.linalg.inv(gram))
    phi = kernel(state, model.landmarks, 1.5) @ model.whitening.T
    direction = action / action.norm(dim=-1, keepdim=True)
    x = torch.cat([direction, torch.full((N, 1), 0.5, dtype=torch.float64)], -1)
    outer = (phi[:, :, None] * x[:, None, :]).flatten(1)  # [N, m (d + 1)], never formed over there
    system = outer.T @ outer + ridge * torch.eye(outer.shape[1], dtype=torch.float64)
    expected = torch.linalg.solve(system, outer.T @ (reward - reward.mean()))
    torch.testing.assert_close(
        model.weight.flatten(), expected, rtol=0, atol=1e-4 * expected.abs().max().item()
    )
    predicted = reward.mean() + outer @ expected
    torch.testing.assert_close(model(state, action), predicted, rtol=0, atol=1e-4)
    assert (predicted - reward).square().mean() < 0.85 * reward.var()  # it does explain something


def test_landmarks_are_rows_and_never_more_than_there_are():
    state, action, reward = make_rows(20)
    assert fit_bilinear_reward(state, action, reward).landmarks.shape == (20, P)
    few = fit_bilinear_reward(state, action, reward, landmarks=4).landmarks
    assert all((row == state).all(-1).any() for row in few)
    assert len(few.unique(dim=0)) == 4


def test_the_lengthscale_is_measured_on_the_landmarks():
    state, action, reward = make_rows()
    model = fit_bilinear_reward(state, action, reward, landmarks=M)
    pairs = [
        math.dist(a, b)
        for i, a in enumerate(model.landmarks.tolist())
        for b in model.landmarks[i + 1 :].tolist()
    ]
    middle = sorted(pairs)[(len(pairs) - 1) // 2]
    assert float(model.lengthscale) == pytest.approx(0.7 * middle)
    assert float(fit_bilinear_reward(*make_rows(), lengthscale=0.4).lengthscale) == 0.4


@pytest.mark.parametrize("distinct", [1, 2])
def test_states_that_coincide_are_no_division_by_zero(distinct: int):
    _, action, reward = make_rows(40)
    state = torch.zeros(40, P, dtype=torch.float64)
    state[: 5 * (distinct - 1)] = 2.0  # most pairs of states are one point
    model = fit_bilinear_reward(state, action, reward)
    assert torch.isfinite(model(state, action)).all()
    apart = 0.7 * 2.0 * math.sqrt(P)
    assert float(model.lengthscale) == pytest.approx(1.0 if distinct == 1 else apart)


@pytest.mark.parametrize(("noise", "expected"), [(0.02, RIDGES[0]), (5.0, RIDGES[-1])])
def test_the_ridge_follows_the_noise(noise: float, expected: float):
    rows = make_rows(400, noise, seed=1)
    assert float(fit_bilinear_reward(*rows, landmarks=M).ridge) == expected
    assert float(fit_bilinear_reward(*rows, landmarks=M, ridge=7.0).ridge) == 7.0


def test_the_slope_is_autograds_in_the_direction():
    state, action, reward = make_rows()
    model = fit_bilinear_reward(state, action, reward, landmarks=M)
    at = action.clone().requires_grad_()
    gradient = torch.autograd.grad(model(state, at).sum(), at)[0]
    # Q depends on a / |a|: its gradient is the slope's part across a, over |a|.
    direction = action / action.norm(dim=-1, keepdim=True)
    slope = model.slope(state)
    across = slope - (slope * direction).sum(-1, keepdim=True) * direction
    torch.testing.assert_close(gradient, across / action.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(model(state, 7 * action), model(state, action))
    best = model(state, slope)
    assert (best >= model(state, action) - 1e-9).all()


def test_any_batch_shape_is_judged_row_by_row():
    state, action, reward = make_rows()
    model = fit_bilinear_reward(state, action, reward, landmarks=M)
    flat = model(state, action)
    torch.testing.assert_close(model(state.view(4, 20, P), action.view(4, 20, D)).flatten(), flat)
    assert model.slope(state.view(4, 20, P)).shape == (4, 20, D)


def test_a_model_is_saved_and_loaded_as_buffers():
    state, action, reward = make_rows()
    model = fit_bilinear_reward(state, action, reward, landmarks=M)
    assert not list(model.parameters())
    empty = BilinearReward(**{name: torch.zeros_like(t) for name, t in model.named_buffers()})
    empty.load_state_dict(model.state_dict())
    assert torch.equal(empty(state, action), model(state, action))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.half])
def test_clicks_and_counts_are_rewards(dtype: torch.dtype):
    state, action, reward = (t.float() for t in make_rows())
    clicks = (reward > reward.median()).to(dtype)
    expected = fit_bilinear_reward(state, action, clicks.float(), landmarks=M)
    found = fit_bilinear_reward(state, action, clicks, landmarks=M)
    assert torch.equal(found(state, action), expected(state, action))
    assert found.offset.dtype == torch.float32


def test_a_large_offset_costs_no_digits():
    state, action, reward = (t.float() for t in make_rows())
    steps = (8 * reward).round()
    far = fit_bilinear_reward(state, action, steps + 1e7, landmarks=M, ridge=3.0)
    near = fit_bilinear_reward(state, action, steps, landmarks=M, ridge=3.0)
    torch.testing.assert_close(far.slope(state), near.slope(state), rtol=1e-3, atol=1e-4)


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation": torch.ones(79, P)}, r"got \(79, 3\), \(80, 2\) and \(80,\)"),
        ({"reward": torch.ones(80, 1)}, r"reward \[N\], got .* and \(80, 1\)"),
        ({"action": torch.full((80, D), math.nan)}, r"action must be finite but row \(0, 0\)"),
        ({"landmarks": 0}, "landmarks must be .* got 0"),
        ({"lengthscale": -1.0}, "lengthscale must be .* got -1.0"),
        ({"ridge": 0.0}, "ridge must be .* got 0.0"),
    ],
)
def test_bad_rows_and_numbers_are_named(change: dict, message: str):
    state, action, reward = make_rows()
    given = {"observation": state, "action": action, "reward": reward} | change
    with pytest.raises(ValueError, match=message):
        fit_bilinear_reward(**given)


def test_a_single_row_is_refused():
    state, action, reward = make_rows(9)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        fit_bilinear_reward(state[:1], action[:1], reward[:1])
