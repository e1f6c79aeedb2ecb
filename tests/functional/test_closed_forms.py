"""The theory of the signed family, run: trajectories of real updates against their closed forms.

Every update below is the gradient of ``weighted_nll`` under the package's own weights, or its
closed form through ``gaussian_score`` where thousands of steps are needed (test_diagnostics.py
holds that one to autograd). All in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from scipy.special import expi
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal

from torchrl_drpo.functional.diagnostics import gaussian_score
from torchrl_drpo.functional.reductions import weighted_nll
from torchrl_drpo.functional.remoteness import categorical_remoteness, gaussian_remoteness
from torchrl_drpo.functional.tapers import ExponentialTaper, ReciprocalTaper
from torchrl_drpo.functional.weights import signed_weights

Taper = Callable[[Tensor], Tensor]
VARIANCE = 0.49
SCALE = 2.0  # c, in units of X = D / 2
STRENGTH = 1.5
GAIN = 0.05  # b = eta q / s^2


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def untapered(remoteness: Tensor) -> Tensor:
    return torch.ones_like(remoteness)


def force_on_mean(
    loc: Tensor, scale: Tensor, atoms: Tensor, advantage: Tensor, taper: Taper = untapered
) -> Tensor:
    """Ascent direction of the mean, summed over the atoms ``[n, d]``, by autograd."""
    loc = loc.detach().requires_grad_()
    dist = Independent(Normal(loc.expand_as(atoms), scale.expand_as(atoms)), 1)
    weight = signed_weights(advantage, taper(gaussian_remoteness(atoms, dist.mean, scale)))
    loss = weighted_nll(dist.log_prob(atoms), weight) * len(atoms)
    return -torch.autograd.grad(loss, loc)[0]


def reuse(taper: Taper, steps: int) -> Tensor:
    """X after each of ``steps`` updates on one negative atom at the origin."""
    atom, scale = torch.zeros(1), torch.full((1,), math.sqrt(VARIANCE))
    loc, rate = torch.ones(1), GAIN * VARIANCE
    distances = []
    for _ in range(steps):
        weight = taper(gaussian_remoteness(atom, loc, scale))
        loc = loc - rate * weight * gaussian_score(atom, loc, scale)[0]
        distances.append(loc)
    return torch.cat(distances).square() / (2 * VARIANCE)


class TestReuseOfOneNegative:
    """X_t = (a - mu_t)^2 / 2 s^2 under repeated repulsion from one logged action."""

    def test_untapered_grows_geometrically_exactly(self):
        trajectory = reuse(untapered, 300)
        expected = (1 + GAIN) ** (2 * torch.arange(1.0, 301)) / (2 * VARIANCE)
        torch.testing.assert_close(trajectory, expected, rtol=1e-10, atol=0)

    def test_the_loss_itself_takes_that_step(self):
        atom, loc = torch.zeros(1, 1), torch.ones(1)
        scale, advantage = torch.full((1,), math.sqrt(VARIANCE)), -torch.ones(1)
        taper = ExponentialTaper(strength=STRENGTH, scale=2 * SCALE)
        step = GAIN * VARIANCE * force_on_mean(loc, scale, atom, advantage, taper)
        expected = reuse(taper, 1)
        torch.testing.assert_close((loc + step).square() / (2 * VARIANCE), expected)

    def test_reciprocal_quadratic_grows_linearly(self):
        # D = 2 X, so a scale of 2 c in units of D is one of c in units of X.
        trajectory = reuse(ReciprocalTaper("quadratic", STRENGTH, 2 * SCALE), 20_000)
        rate = (trajectory[-1] - trajectory[9_999]) / 10_000
        assert rate.item() == pytest.approx(2 * GAIN * SCALE / STRENGTH, rel=0.01)

    def test_reciprocal_linear_grows_quadratically(self):
        root = reuse(ReciprocalTaper("linear", STRENGTH, 2 * SCALE), 5_000).sqrt()
        rate = (root[-1] - root[2_499]) / 2_500
        assert rate.item() == pytest.approx(GAIN * math.sqrt(SCALE) / STRENGTH, rel=0.01)

    def test_exponential_grows_logarithmically(self):
        # y = a X follows y' = 2 b y e^-y, so Ei(y) grows by 2 b a step: log t + log log t + O(1).
        scaled = STRENGTH / SCALE * reuse(ExponentialTaper(STRENGTH, 2 * SCALE), 20_000)
        for t in (2_000, 20_000):
            assert expi(scaled[t - 1].item()) == pytest.approx(2 * GAIN * t, rel=0.01)
        remainder = [scaled[t - 1] - math.log(t) - math.log(math.log(t)) for t in (2_000, 20_000)]
        assert abs(remainder[1] - remainder[0]) < 0.2


class TestEquilibriumOfMasses:
    """Positive mass p at m+, negative mass q at m-, fixed covariance."""

    positive = torch.tensor([1.0, -0.5], dtype=torch.float64)
    negative = torch.tensor([0.2, 0.4], dtype=torch.float64)
    scale = torch.tensor([0.8, 0.8], dtype=torch.float64)

    def run(
        self, p: float, q: float, gain: float, steps: int, start: Tensor | None = None
    ) -> list[Tensor]:
        """Means under plain ascent with step h = gain * s^2."""
        atoms = torch.stack([self.positive, self.negative])
        advantage = torch.tensor([p, -q])
        loc = torch.zeros(2) if start is None else start
        path = [loc]
        for _ in range(steps):
            loc = loc + gain * self.scale[0] ** 2 * force_on_mean(loc, self.scale, atoms, advantage)
            path.append(loc)
        return path

    @pytest.mark.parametrize("rho", [0.0, 0.3, 0.9])
    def test_below_one_it_extrapolates_beyond_the_positives(self, rho: float):
        expected = self.positive + rho / (1 - rho) * (self.positive - self.negative)
        reached = self.run(1.0, rho, gain=1.0, steps=300)[-1]
        torch.testing.assert_close(reached, expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize(("gain", "stable"), [(1.9, True), (2.1, False)])
    def test_the_step_is_stable_up_to_two(self, gain: float, stable: bool):
        rho, p = 0.4, 1.0
        target = self.positive + rho / (1 - rho) * (self.positive - self.negative)
        path = self.run(p, rho * p, gain=gain / (p - rho * p), steps=100)
        error = [(loc - target).norm().item() for loc in (path[0], path[-1])]
        assert (error[1] < 1e-3 * error[0]) is stable
        assert (error[1] > 1e3 * error[0]) is not stable

    def test_at_one_it_drifts_linearly(self):
        path = torch.stack(self.run(1.0, 1.0, gain=0.1, steps=50))
        step = 0.1 * (self.positive - self.negative)  # the force does not depend on the mean
        torch.testing.assert_close(path.diff(dim=0), step.expand(50, 2))

    def test_above_one_the_fixed_point_repels(self):
        p, q = 1.0, 1.5
        fixed = (p * self.positive - q * self.negative) / (p - q)
        start = fixed + torch.tensor([1e-3, 0.0])
        path = torch.stack(self.run(p, q, gain=0.1, steps=60, start=start))
        distance = (path - fixed).norm(dim=-1)
        torch.testing.assert_close(distance[1:] / distance[:-1], torch.full((60,), 1.05))

    @pytest.mark.parametrize("rho", [0.9, 1.0, 10.0])
    def test_an_exponential_taper_bounds_the_mean_for_every_rho(self, rho: float):
        atoms = torch.stack([self.positive, self.negative])
        advantage = torch.tensor([1.0, -rho])
        taper, rate = ExponentialTaper(strength=1.0, scale=2.0), 0.05
        loc, far = torch.full((2,), 30.0), []
        for step in range(1_500):
            loc = loc + rate * force_on_mean(loc, self.scale, atoms, advantage, taper)
            if step >= 1_000:
                far.append((loc - self.positive).norm().item())
        assert max(far) < 5.0


@pytest.mark.parametrize(
    ("taper", "alpha", "limit"),
    [
        (untapered, 1.0, "q - p"),
        (untapered, 0.3, "alpha q - p"),
        (ExponentialTaper(), 1.0, "-p"),
        (ReciprocalTaper("quadratic"), 1.0, "-p"),
        (ReciprocalTaper("linear"), 1.0, "-p"),
    ],
)
def test_the_radial_limit_of_the_field(taper: Taper, alpha: float, limit: str):
    # <v, F(r v)> / r -> (q - p) v' Sigma^-1 v; alpha q - p under a global scale; -p under a taper.
    p, q, radius = 1.0, 2.5, 1e7
    direction = torch.tensor([0.6, -0.8])
    scale = torch.tensor([0.5, 2.0])
    atoms = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.3, 0.4]])
    advantage = torch.tensor([0.6 * p, 0.4 * p, -alpha * q])
    force = force_on_mean(radius * direction, scale, atoms, advantage, taper)
    factor = {"q - p": q - p, "alpha q - p": alpha * q - p, "-p": -p}[limit]
    expected = factor * (direction.square() / scale.square()).sum()
    assert (direction @ force / radius).item() == pytest.approx(expected.item(), rel=1e-5)


class TestLearnableVariance:
    """Atoms m+ +- sqrt(v+) and m- +- sqrt(v-) with masses p > q; mean and log sigma both learn."""

    mean_gap, p = 0.6, 1.0

    def ascend(self, q: float, steps: int, spread: float) -> tuple[float, float]:
        """Mean and log sigma after plain ascent from (0, 0)."""
        positive, negative = 0.5, 0.5 - self.mean_gap
        atoms = torch.tensor([positive - 1.0, positive + 1.0, negative - spread, negative + spread])
        weight = torch.tensor([self.p / 2, self.p / 2, -q / 2, -q / 2])
        parameters = torch.zeros(2).requires_grad_()
        for _ in range(steps):
            loc, log_scale = parameters
            log_prob = Normal(loc, log_scale.exp(), validate_args=False).log_prob(atoms)
            (gradient,) = torch.autograd.grad(4 * weighted_nll(log_prob, weight), parameters)
            with torch.no_grad():
                parameters -= 0.02 * gradient
            if not torch.isfinite(parameters).all() or parameters[1] < -4:
                break
        return tuple(parameters.tolist())

    def closed_form(self, q: float, spread: float) -> tuple[float, float]:
        rest = self.p - q
        mean = 0.5 + q / rest * self.mean_gap
        variance = (self.p * 1.0 - q * spread**2) / rest
        return mean, variance - self.p * q * self.mean_gap**2 / rest**2

    @pytest.mark.parametrize(("q", "spread"), [(0.2, 0.5), (0.5, 0.5), (0.3, 1.2)])
    def test_the_equilibrium(self, q: float, spread: float):
        mean, variance = self.closed_form(q, spread)
        assert variance > 0
        reached_mean, log_scale = self.ascend(q, 4_000, spread)
        assert reached_mean == pytest.approx(mean, rel=1e-4)
        assert math.exp(2 * log_scale) == pytest.approx(variance, rel=1e-3)

    def test_beyond_the_boundary_the_variance_vanishes_before_the_mean_diverges(self):
        q, spread = 0.75, 0.9
        assert self.closed_form(q, spread)[1] < 0
        mean, log_scale = self.ascend(q, 4_000, spread)
        assert log_scale < -4  # support boundary
        assert abs(mean) < 10


class TestCategorical:
    """Softmax policies: probabilities collapse, gradients never explode."""

    def test_the_equilibrium_of_masses(self):
        attract = torch.tensor([0.5, 0.3, 0.2])
        repel = torch.tensor([0.2, 0.2, 0.6])
        p, q = 1.0, 0.25
        expected = (p * attract - q * repel) / (p - q)
        assert (expected > 0).all()
        atoms = torch.arange(3).repeat(2)
        weight = torch.cat([p * attract, -q * repel])
        logits = torch.zeros(3).requires_grad_()
        for _ in range(2_000):
            log_prob = Categorical(logits=logits).log_prob(atoms)
            (gradient,) = torch.autograd.grad(6 * weighted_nll(log_prob, weight), logits)
            with torch.no_grad():
                logits -= 0.3 * gradient
        torch.testing.assert_close(logits.softmax(0).detach(), expected, rtol=1e-6, atol=1e-8)

    @staticmethod
    def suppress(taper: Taper, steps: int, num_actions: int = 4) -> Tensor:
        """Surprisal of the logged action after each update that repels from it alone."""
        logits = torch.zeros(num_actions).requires_grad_()
        trace = []
        for _ in range(steps):
            log_prob = logits.log_softmax(0)[:1]
            weight = signed_weights(-torch.ones(1), taper(categorical_remoteness(log_prob)))
            (gradient,) = torch.autograd.grad(weighted_nll(log_prob, weight), logits)
            with torch.no_grad():
                logits -= 0.5 * gradient
            trace.append(-log_prob.detach())
        return torch.cat(trace)

    def test_untapered_the_probability_decays_exponentially(self):
        trace = self.suppress(untapered, 400)
        # Far out D' = eta ||e_a - pi||^2 -> eta K / (K - 1).
        rate = (trace[-1] - trace[200]) / 199
        assert rate.item() == pytest.approx(0.5 * 4 / 3, rel=1e-3)

    @pytest.mark.parametrize("beta", [1.0, 2.0])
    def test_under_an_exponential_taper_it_decays_as_a_power_of_time(self, beta: float):
        trace = self.suppress(ExponentialTaper(strength=beta, scale=1.0), 6_000)
        slope = -(trace[5_999] - trace[599]) / math.log(10)
        assert slope.item() == pytest.approx(-1 / beta, rel=0.04)
