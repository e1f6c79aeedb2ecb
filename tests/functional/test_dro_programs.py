"""The two DRO weightings against general solvers that know nothing of their closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, brentq, linprog, minimize

from torchrl_drpo.functional.selection import optimistic_dro_weights
from torchrl_drpo.functional.weights import kl_dro_weights

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
