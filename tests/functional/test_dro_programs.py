"""The two DRO weightings against general solvers that know nothing of their closed forms.

And the linear one by its optimality conditions.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, brentq, linprog, minimize

from torchrl_drpo.functional.dro_programs import (
    kl_dro_weights,
    optimistic_dro_weights,
    optimistic_value,
    top_fraction_threshold,
)

# Few distinct values, so that ties are the rule; quarters, so that float32 sums are exact.
qualities = st.lists(st.integers(-8, 8).map(lambda q: q / 4), min_size=1, max_size=40)
kappas = st.floats(0.01, 1.0)

ADVERSARIAL = {
    "all equal": np.zeros(7),
    "one row": np.array([3.0]),
    "two atoms": np.array([0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]),
    "one click in many": np.eye(1, 12)[0],
    "one outlier": np.array([1e3, 0.1, 0.2, 0.3, 0.4, 0.5]),
    "far from zero": 1e4 + np.linspace(0, 1, 9),
    "nearly tied": 1.0 + 1e-9 * np.arange(6),
    "negative": -np.arange(10.0),
}
KAPPAS = (0.05, 0.25, 0.3, 0.5, 0.999, 1.0)


def random_cases(count: int = 40) -> list[tuple[np.ndarray, float]]:
    rng = np.random.default_rng(7)
    return [(rng.gumbel(size=rng.integers(2, 15)), rng.uniform(0.05, 1)) for _ in range(count)]


CASES = [(quality, kappa) for quality in ADVERSARIAL.values() for kappa in KAPPAS] + random_cases()


def kl_objective(weight: np.ndarray, quality: np.ndarray, temperature: float) -> float:
    """E_Q[R] - tau KL(Q || P), with 0 log 0 = 0."""
    safe = np.where(weight > 0, weight, 1.0)
    return float(np.mean(weight * quality - temperature * weight * np.log(safe)))


def test_optimistic_weights_solve_the_linear_program():
    for quality, kappa in CASES:
        n = len(quality)
        ours = optimistic_dro_weights(torch.tensor(quality), kappa).double().numpy()
        span = np.ptp(quality) or 1.0
        centred = (quality - quality.mean()) / span  # the solver's tolerances are absolute
        solver = linprog(-centred, A_eq=np.ones((1, n)), b_eq=[n], bounds=[(0, 1 / kappa)] * n)
        assert solver.success
        assert ours.sum() == pytest.approx(n, rel=1e-12)
        assert ours.min() >= 0
        assert ours.max() <= 1 / kappa * (1 + 1e-12)
        assert ours @ centred == pytest.approx(-solver.fun, rel=1e-9, abs=1e-9)
        for value in quality:  # the program leaves ties open; ours shares them
            assert np.ptp(ours[quality == value]) == 0


# The SciPy of Python 3.10 says that its line search left the bounds and came back.
@pytest.mark.filterwarnings("ignore:Values in x were outside bounds:RuntimeWarning")
@pytest.mark.parametrize("temperature", [0.05, 0.7, 5.0])
def test_kl_weights_solve_the_convex_program(temperature: float):
    for quality, kappa in CASES:
        if np.ptp(quality) / temperature > 60:
            continue  # weights of e^-60: the general solver's line search cannot resolve them
        n = len(quality)
        ours = kl_dro_weights(torch.tensor(quality), kappa, temperature).numpy()
        centred = quality - quality.mean()
        solver = minimize(
            lambda w, r=centred: -kl_objective(w, r, temperature),
            np.ones(n),
            jac=lambda w, r=centred: (
                (temperature * (1 + np.log(np.maximum(w, 1e-30))) - r) / len(r)
            ),
            bounds=[(1e-12, 1 / kappa)] * n,
            constraints=LinearConstraint(np.ones(n), n, n),
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 1000},
        )
        assert ours.sum() == pytest.approx(n, rel=1e-9)
        assert ours.max() <= 1 / kappa * (1 + 1e-12)
        # No feasible point that the solver finds is better, and ours is as good as its best.
        gap = kl_objective(ours, centred, temperature) + solver.fun
        assert gap >= -1e-9
        assert gap <= 1e-4 * max(1.0, temperature)
        if solver.success:
            np.testing.assert_allclose(ours, solver.x, atol=2e-2 / kappa)


@pytest.mark.parametrize("temperature", [1e-3, 0.05, 1.0, 1e3])
def test_kl_weights_have_the_optimal_form_with_the_right_multiplier(temperature: float):
    # The optimality conditions: w = min(1/kappa, exp((R - lambda)/tau)), with lambda found here by
    # a scalar root search on the normalisation.
    for quality, kappa in CASES:
        shifted = (quality - quality.max()) / temperature

        def weights(lam: float, kappa: float = kappa, shifted: np.ndarray = shifted) -> np.ndarray:
            return np.exp(np.minimum(shifted - lam, -np.log(kappa)))

        low, high = shifted.min() + np.log(kappa) - 1.0, 1.0
        lam = brentq(lambda x, w=weights: w(x).mean() - 1.0, low, high, xtol=1e-13, rtol=1e-14)
        ours = kl_dro_weights(torch.tensor(quality), kappa, temperature).numpy()
        np.testing.assert_allclose(ours, weights(lam), rtol=1e-6, atol=1e-9 / kappa)


def test_kl_weights_go_to_the_hard_filter_and_to_ones():
    quality = torch.randn(40, dtype=torch.float64)
    cold = kl_dro_weights(quality, 0.3, 1e-6)
    torch.testing.assert_close(cold, optimistic_dro_weights(quality, 0.3).double())
    torch.testing.assert_close(kl_dro_weights(quality, 0.3, 1e9), torch.ones_like(quality))
    assert torch.equal(
        kl_dro_weights(quality, 1.0, 0.1).round(decimals=12), torch.ones(40).double()
    )


def test_kl_weights_without_a_binding_cap_are_the_softmax():
    quality = torch.randn(40, dtype=torch.float64)
    expected = 40 * torch.softmax(quality / 2.0, 0)
    assert expected.max() < 1 / 0.02
    torch.testing.assert_close(kl_dro_weights(quality, 0.02, 2.0), expected)


def test_kl_weights_take_kappa_from_the_device_and_any_shape():
    quality = torch.randn(6, 5)
    by_number = kl_dro_weights(quality, 0.25, 0.1)
    by_tensor = kl_dro_weights(quality, torch.tensor([0.25]), 0.1)
    assert torch.equal(by_number, by_tensor)
    assert torch.equal(by_number.flatten(), kl_dro_weights(quality.flatten(), 0.25, 0.1))
    assert kl_dro_weights(torch.empty(0), 0.25, 0.1).shape == (0,)


@pytest.mark.parametrize(
    ("kappa", "temperature", "named"),
    [(0.0, 1.0, "kappa"), (1.5, 1.0, "kappa"), (0.5, 0.0, "temp")],
)
def test_kl_weights_name_what_is_out_of_range(kappa: float, temperature: float, named: str):
    with pytest.raises(ValueError, match=named):
        kl_dro_weights(torch.zeros(3), kappa, temperature)


@given(quality=qualities, kappa=kappas)
def test_dro_weights_are_feasible_and_reach_the_dual_value(quality, kappa):
    r = torch.tensor(quality, dtype=torch.float64)
    w = optimistic_dro_weights(r, kappa)
    assert w.min() >= 0
    assert w.max() <= 1 / kappa + 1e-9
    assert w.mean().item() == pytest.approx(1.0, abs=1e-9)
    # Strong duality, with the dual minimised by brute force over its kinks, the logged values.
    dual = min(optimistic_value(r, kappa, nu).item() for nu in quality)
    assert (w * r).mean().item() == pytest.approx(dual, abs=1e-7)
    at_threshold = optimistic_value(r, kappa, top_fraction_threshold(r, kappa))
    assert at_threshold.item() == pytest.approx(dual, abs=1e-7)


@given(quality=qualities, kappa=kappas)
def test_dro_weights_treat_equals_equally_and_respect_the_order(quality, kappa):
    r = torch.tensor(quality)
    w = optimistic_dro_weights(r, kappa)
    order = r.argsort()
    assert (w[order].diff() >= -1e-6).all()
    for value in r.unique():
        assert w[r == value].unique().numel() == 1


def test_dro_weights_of_a_click_log():
    # CTR .4%, kappa .05: the clicks take .004 / .05 = 8% of the mass at 1/kappa = 20 each, and
    # the rest, .92, is shared by the 99.6% that were not clicked.
    clicks = torch.zeros(10_000)
    clicks[torch.randperm(10_000)[:40]] = 1.0
    w = optimistic_dro_weights(clicks, 0.05)
    assert w[clicks == 1].tolist() == pytest.approx([20.0] * 40)
    assert w[clicks == 0].unique().item() == pytest.approx(0.92 / 0.996, rel=1e-6)
    assert w.double().mean().item() == pytest.approx(1.0, abs=1e-6)


def test_dro_weights_in_the_limits():
    r = torch.randn(100)
    assert optimistic_dro_weights(r, 1.0).tolist() == [1.0] * 100  # behaviour cloning
    assert optimistic_dro_weights(torch.full((7,), 3.0), 0.3).tolist() == pytest.approx([1.0] * 7)
    assert optimistic_dro_weights(torch.tensor([2.0]), 0.1).tolist() == [1.0]  # n = 1
    best_only = optimistic_dro_weights(r, 0.001)  # less than one row: all mass on the best
    assert best_only.argmax() == r.argmax()
    assert best_only.max().item() == pytest.approx(100.0)
    assert optimistic_dro_weights(torch.zeros(0), 0.5).shape == (0,)


def test_dro_weights_put_fractional_mass_where_kappa_n_falls_between_rows():
    w = optimistic_dro_weights(torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0]), 0.5)  # kappa N = 2.5
    assert w.tolist() == pytest.approx([2.0, 2.0, 1.0, 0.0, 0.0])
