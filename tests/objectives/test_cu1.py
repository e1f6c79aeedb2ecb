"""C-U1: trained policies arrive at the closed-form displacement and reward of each control.

The short form (hundreds of steps) is in the gate with a wide tolerance, the full one (2,000
positive-only steps, then 4,000) is marked slow and holds 2%. Sigma is fixed at .60 where the closed
form of the mean is tested, as that form is for a fixed covariance.
"""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.cu1 import (
    A_NEGATIVE,
    A_POSITIVE,
    BEHIND,
    NEGATIVE_RADIUS,
    POSITIVE_RADIUS,
    SHORT,
    SIGMA,
    Arms,
    displacement_of,
    make_world,
    mass_ratio,
    reward_of,
    tapered_displacement,
)
from torchrl_drpo import ExponentialTaper, HardCutoff
from torchrl_drpo.objectives import CollapseEvents

ALPHAS = [0.0, 0.25, 0.5, 0.8, 1.0]
TAPER = ExponentialTaper(strength=0.5, scale=2.0, threshold=1.0)
#: D at which the cut-off catches every stronger arm: .62 of the way to the best action.
CUTOFF = HardCutoff(threshold=((BEHIND + SHORT * 0.62) / SIGMA) ** 2)
FORMS = [
    pytest.param(300, 500, 0.05, id="short"),
    pytest.param(2_000, 4_000, 0.02, id="full", marks=pytest.mark.slow),
]


def test_the_world_is_built_as_described():
    world = make_world(500, seed=3)
    best = world.centre + SHORT * world.direction
    torch.testing.assert_close(world.positives.mean(1), world.centre, rtol=1e-4, atol=1e-5)
    for actions, radius in ((world.positives, POSITIVE_RADIUS), (world.negatives, NEGATIVE_RADIUS)):
        distance = (actions - best.unsqueeze(1)).norm(dim=-1)
        torch.testing.assert_close(distance, torch.full_like(distance, radius))
    behind = world.centre - BEHIND * world.direction
    torch.testing.assert_close(world.negatives[:, 0], behind, rtol=1e-4, atol=1e-5)
    assert math.exp(-0.5) - 0.4 == pytest.approx(A_POSITIVE)
    assert math.exp(-0.5 * 1.6**2) - 0.4 == pytest.approx(A_NEGATIVE)


def check(arm: dict[str, float], displacement: float, tolerance: float) -> None:
    """Within the tolerance of the closed forms; displacements near 0 in units of .70."""
    wanted = max(abs(displacement), 1.0) * tolerance
    assert arm["displacement"] == pytest.approx(displacement, abs=wanted)
    assert arm["reward"] == pytest.approx(reward_of(displacement), rel=tolerance)


@pytest.mark.parametrize(("warmup", "steps", "tolerance"), FORMS)
def test_useful_negatives_help_until_they_do_not(warmup: int, steps: int, tolerance: float):
    arms = Arms([*ALPHAS, 1.3], warmup=warmup)
    positive_only = arms.evaluate()[0]
    check(positive_only, 0.0, tolerance)
    arms.run(steps)
    *found, past_the_top = arms.evaluate()
    for alpha, arm in zip(ALPHAS, found, strict=True):
        check(arm, displacement_of(mass_ratio(alpha)), tolerance)
    rewards = [arm["reward"] for arm in found]
    assert rewards == sorted(rewards)  # rho = .58 at alpha = .99 is the top of the inverted U
    assert rewards[-1] > 1.4 * positive_only["reward"]
    assert past_the_top["reward"] < rewards[-1]


@pytest.mark.parametrize(("warmup", "steps", "tolerance"), FORMS)
def test_an_exponential_taper_stops_where_its_fixed_point_is(
    warmup: int, steps: int, tolerance: float
):
    alphas = [0.5, 1.0, 3.0]  # the last would run away without it: rho = 1.8
    assert mass_ratio(alphas[-1]) > 1
    arms = Arms(alphas, TAPER, warmup=warmup)
    arms.run(steps)
    for alpha, arm in zip(alphas, arms.evaluate(), strict=True):
        check(arm, tapered_displacement(alpha, TAPER), tolerance)


@pytest.mark.parametrize(("warmup", "steps", "tolerance"), FORMS)
def test_a_hard_cutoff_leaves_weak_arms_alone_and_holds_strong_ones(
    warmup: int, steps: int, tolerance: float
):
    weak, strong = 0.25, 1.5
    arms = Arms([weak, strong], CUTOFF, warmup=warmup)
    arms.run(steps)
    inside, held = arms.evaluate()
    check(inside, displacement_of(mass_ratio(weak)), tolerance)  # never reaches the threshold
    # Repelled up to the threshold and drawn back beyond it: the mean slides along it, and D stays
    # within .5% of it on average. The displacement ends .002 to .005 short, whatever the last
    # learning rate (1e-4, 1e-5 or 0): a miss across the line (root mean square .07) adds to D too.
    check(held, 0.62, tolerance)


def test_without_control_a_strong_negative_takes_the_task():
    arms = Arms([0.0, 1.8], warmup=300)
    assert mass_ratio(1.8) > 1
    reference = arms.evaluate()[0]["reward"]
    events = CollapseEvents(reference)
    for step in range(10):
        arms.run(100, rates=(1e-3, 1e-3))
        runaway = arms.evaluate()[1]
        log_sigma = torch.tensor(runaway["log_sigma"])
        if events.update(step, reward=runaway["reward"], log_scale=log_sigma):
            break
    assert set(events.happened) == {"task_collapse"}


def test_a_learned_sigma_meets_the_support_boundary_before_the_mean_runs_away():
    # p v+ / (p - q) < p q Delta^2 / (p - q)^2 per dimension at alpha = .8: no variance is left,
    # although rho is below 1 and the mean has a finite equilibrium.
    rho, spread = mass_ratio(0.8), (POSITIVE_RADIUS**2 - SHORT**2) / 2
    assert spread / (1 - rho) < rho / (1 - rho) ** 2 * BEHIND**2 / 2
    arms = Arms([0.0, 0.8], learn_sigma=True, warmup=300)
    events = CollapseEvents(arms.evaluate()[0]["reward"], min_log_scale=-3.0)
    for step in range(12):
        arms.run(150, rates=(3e-3, 3e-3))
        positive_only, signed = arms.evaluate()
        if events.update(step, log_scale=torch.tensor(signed["log_sigma"])):
            break
    assert set(events.happened) == {"support_boundary"}
    assert abs(signed["displacement"]) < 3
    # Positive-only: sigma^2 is the spread of the positives about the fitted mean.
    assert math.exp(2 * positive_only["log_sigma"]) == pytest.approx(spread, rel=0.25)
