"""C-U1: closed forms against the logged actions and SciPy, batched training against plain torch."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure as Canvas
from scipy.optimize import brentq

from torchrl_drpo.envs import cu1
from torchrl_drpo.reproduction.cells import run_cells
from torchrl_drpo.reproduction.controlled.arms import Arm, TaperByArm, make_taper
from torchrl_drpo.reproduction.controlled.cu1.forms import place_of
from torchrl_drpo.reproduction.controlled.cu1.target import SHAPES, TARGET
from torchrl_drpo.reproduction.controlled.cu1.training import Training
from torchrl_drpo.reproduction.target import Options

EXPONENTIAL = SHAPES["exponential"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("cells")
    return run_cells(TARGET.cells(Options(quick=True)), folder, workers=1)["cu1"]


# -- closed forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", [(0,), (1,), (3, 4, 5), range(8)])
def test_at_the_resting_place_the_forces_of_the_logged_actions_balance(negatives):
    world, alpha = cu1.make_world(200, seed=5), 0.7
    along, across = cu1.resting_place(alpha, negatives)
    u = world.direction
    mean = world.centre + cu1.SHORT * (along * u + across * torch.stack([-u[:, 1], u[:, 0]], -1))
    positive = world.positives - mean.unsqueeze(1)
    negative = world.negatives[:, list(negatives)] - mean.unsqueeze(1)
    pull = cu1.A_POSITIVE * positive.mean(1) + alpha * cu1.A_NEGATIVE * negative.mean(1)
    torch.testing.assert_close(pull, torch.zeros_like(pull), rtol=0, atol=1e-5)
    # and the variance at which the score of log sigma has no signed mean
    p, q = cu1.A_POSITIVE, -alpha * cu1.A_NEGATIVE
    squares = p * positive.square().mean((1, 2)) - q * negative.square().mean((1, 2))
    variance = squares / (p - q)
    expected = torch.full_like(variance, cu1.resting_variance(alpha, negatives))
    torch.testing.assert_close(variance, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["reciprocal, linear", "reciprocal, quadratic", "exponential"])
def test_a_tapered_place_is_the_root_that_scipy_finds(name: str):
    taper, alpha = make_taper(SHAPES[name]), 2.5

    def force(x: float) -> float:
        distance = ((cu1.BEHIND + cu1.SHORT * x) / cu1.SIGMA) ** 2
        weight = float(taper(torch.tensor(distance, dtype=torch.float64)))
        repulsion = cu1.mass_ratio(alpha) * weight
        return cu1.SHORT * x - repulsion * (cu1.BEHIND + cu1.SHORT * x)

    assert cu1.tapered_displacement(alpha, taper) == pytest.approx(brentq(force, 0, 50), rel=1e-9)


def test_a_cut_off_holds_the_mean_at_its_threshold_and_without_a_taper_nothing_does():
    held = (math.sqrt(3.0) * cu1.SIGMA - cu1.BEHIND) / cu1.SHORT  # where D of negative 0 is 3
    taper = make_taper({"kind": "cutoff", "threshold": 3.0})
    assert cu1.tapered_displacement(2.0, taper) == pytest.approx(held, rel=1e-6)
    assert cu1.tapered_displacement(2.0, torch.ones_like) == math.inf
    with pytest.raises(ValueError, match="symmetrically"):
        cu1.tapered_displacement(1.0, taper, negatives=(1,))


# -- training --------------------------------------------------------------------------------------


def test_every_policy_of_the_stack_gets_the_gradient_of_its_own_arm():
    arms = [Arm("all", 0.8, tuple(range(8)), EXPONENTIAL), Arm("near", 1.5, (7, 0, 1))]
    training = Training(arms, [0, 3], learn_sigma=True, warmup=3)
    rows = torch.stack([torch.arange(10), torch.arange(20, 30)])
    loss = training.loss(training._batch(rows))["loss_actor"]
    (loss.sum() / loss.shape[1]).backward()
    mean, log_sigma = training.policies.mean, training.policies.log_sigma
    for index, (arm, seed) in enumerate((a, s) for a in arms for s in (0, 1)):
        world = cu1.make_world(cu1.STATES, (0, 3)[seed])
        weights = [p[index].detach().requires_grad_() for p in (*mean.weights, *mean.biases)]
        sigma = log_sigma[index].detach().requires_grad_()
        x = world.state[rows[seed]]
        for layer in range(3):
            x = x @ weights[layer] + weights[3 + layer]
            x = x.relu() if layer < 2 else x
        policy = torch.distributions.Normal(x.unsqueeze(1), sigma.exp())
        attracted = policy.log_prob(world.positives[rows[seed]]).sum(-1).mean(1)
        negatives = world.negatives[rows[seed]][:, list(arm.negatives)]
        distance = ((negatives - x.unsqueeze(1)) / sigma.exp()).square().sum(-1).detach()
        taper = torch.exp(-math.log(2) * distance / 2) if arm.taper else torch.ones(())
        repelled = (taper * policy.log_prob(negatives).sum(-1)).mean(1)
        objective = cu1.A_POSITIVE * attracted + arm.alpha * cu1.A_NEGATIVE * repelled
        expected = torch.autograd.grad(-objective.mean(), [*weights, sigma])
        found = [p.grad[index] for p in (*mean.weights, *mean.biases, log_sigma)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_tapers_reach_their_own_arms_only():
    arms = [
        Arm("a", 1.0),
        Arm("b", 1.0, taper=EXPONENTIAL),
        Arm("c", 1.0, taper=SHAPES["hard cut-off"]),
    ]
    distance = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) * 6
    weight = TaperByArm(arms, seeds=2)(distance)
    torch.testing.assert_close(weight[:2], torch.ones(2, 5))
    torch.testing.assert_close(weight[2:4], torch.exp(-math.log(2) * distance[2:4] / 2))
    torch.testing.assert_close(weight[4:], (distance[4:] <= 3).float())


def test_seeds_do_not_depend_on_each_other():
    arms = [Arm("signed", 0.5)]
    alone = Training(arms, [3], warmup=4).start["displacement"]
    together = Training(arms, [0, 3], warmup=4).start["displacement"]
    torch.testing.assert_close(together[1:], alone)


# -- the section -----------------------------------------------------------------------------------


def test_the_section_shows_every_arm_and_draws(results):
    section = TARGET.section(Options(quick=True), results)
    for table, cell in zip(
        section.tables, ("response", "sources", "shapes", "sigma"), strict=False
    ):
        assert len(table.rows) == len(results[cell]["result"]["arms"])
    for figure in section.figures:
        canvas = Canvas(figsize=figure.size, layout="constrained")
        figure.draw(canvas)
        assert len(canvas.axes) == 2


def _forms_in_place_of_results(results: dict[str, Any], off: float) -> dict[str, Any]:
    """Every arm at its closed form, ``off`` too far along u."""
    results = copy.deepcopy(results)
    for cell in ("response", "sources", "shapes"):
        result = results[cell]["result"]
        for row, settings in enumerate(result["arms"]):
            along, across = place_of(Arm(**settings))
            if not math.isfinite(along):
                continue
            numbers = {"displacement": along + off, "across": across}
            numbers["reward"] = cu1.reward_of(along, across)
            for name, value in numbers.items():
                for when in result["metrics"][name]:
                    when[row] = [value] * len(when[row])
    return results


def test_the_verdict_on_the_closed_forms_is_the_numbers_own(results):
    for off, verdict in ((0.0, "held"), (0.019, "held"), (0.5, "not held")):
        changed = _forms_in_place_of_results(results, off)
        claim = TARGET.section(Options(quick=True), changed).claims[0]
        assert claim.verdict == verdict
    assert TARGET.section(Options(quick=True), results).claims[0].verdict != "held"  # 20 steps
