"""The tapered signed loss against its formula in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchrl_drpo_kernels import signed_taper
from torchrl_drpo_kernels.signed_taper.op import _signed_taper

RULES = [
    {"taper": "exponential", "strength": 1.3, "threshold": 0.5, "scale": 2.0},
    {"taper": "reciprocal", "strength": 2.0, "threshold": 1.0, "scale": 0.5, "order": 1.0},
    {"taper": "reciprocal", "strength": 2.0, "order": 3.0, "negative_scale": 0.25},
    {"taper": "cutoff", "threshold": 1.0},
    {"strength": 0.0, "negative_scale": 0.5},
]


def by_hand(log_prob: float, advantage: float, distance: float, rule: dict) -> tuple[float, float]:
    strength, scale = rule.get("strength", 1.0), rule.get("scale", 1.0)
    x = max(0.0, (distance - rule.get("threshold", 0.0)) / scale)
    factor = {
        "exponential": lambda: math.exp(-strength * x),
        "reciprocal": lambda: 1 / (1 + strength * x ** (rule.get("order", 2.0) / 2)),
        "cutoff": lambda: float(distance <= rule.get("threshold", 0.0)),
    }[rule.get("taper", "exponential")]()
    weight = advantage * (rule.get("negative_scale", 1.0) * factor if advantage < 0 else 1.0)
    return -weight * log_prob, -weight


def make_inputs(n: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    inputs = -torch.rand(n) * 5, torch.randn(n), torch.rand(n) * 4
    return tuple(t.to(device) for t in inputs)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("taper", "untapered"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("n", [1, 1500])
def test_loss_and_slope_equal_the_formula(rule, dtype, n, device):
    inputs = [t.to(dtype) for t in make_inputs(n, device)]
    loss, slope = signed_taper(*inputs, **rule)
    want = [by_hand(*row, rule) for row in zip(*(t.tolist() for t in inputs), strict=True)]
    want = torch.tensor(want, dtype=torch.float64)
    assert loss.dtype == slope.dtype == torch.float32
    torch.testing.assert_close(loss.cpu().double(), want[:, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(slope.cpu().double(), want[:, 1], rtol=1e-5, atol=1e-6)


def test_only_log_prob_is_differentiated_and_by_the_slope(device):
    log_prob, advantage, distance = (t.requires_grad_() for t in make_inputs(50, device))
    loss, slope = signed_taper(log_prob, advantage, distance)
    weight = torch.randn(50, device=device)
    (loss * weight).sum().backward()
    torch.testing.assert_close(log_prob.grad, weight * slope)
    assert advantage.grad is None
    assert distance.grad is None
    assert not slope.requires_grad


def test_thresholds_of_behaviour_surprisal_give_the_topr_ratio(device):
    # min(pi / mu, 1) on negatives, with D = -log pi and threshold -log mu.
    pi, mu = torch.tensor([0.1, 0.4, 0.2]), torch.tensor([0.5, 0.2, 0.2])
    pi, mu = pi.to(device), mu.to(device)
    _, slope = signed_taper(pi.log(), -torch.ones_like(pi), -pi.log(), threshold=-mu.log())
    torch.testing.assert_close(slope, (pi / mu).clamp_max(1.0))


def test_a_row_tapered_away_stays_finite_at_log_prob_minus_infinity(device):
    log_prob = torch.tensor([-math.inf, -1.0], device=device, requires_grad=True)
    distance = torch.tensor([math.inf, 0.0], device=device)
    loss, _ = signed_taper(log_prob, torch.tensor([-1.0, -1.0], device=device), distance)
    loss.sum().backward()
    assert loss.tolist() == [0.0, -1.0]
    assert log_prob.grad.tolist() == [0.0, 1.0]
    untapered = signed_taper(log_prob, -torch.ones_like(distance), distance, strength=0.0)
    assert untapered[1].tolist() == [1.0, 1.0]


def test_a_broken_distance_shows_on_negatives_and_not_on_positives(device):
    nan = torch.full((2,), math.nan, device=device)
    advantage = torch.tensor([1.0, -1.0], device=device)
    for taper in ("exponential", "reciprocal", "cutoff"):
        loss, _ = signed_taper(-torch.ones(2, device=device), advantage, nan, taper=taper)
        assert loss.isnan().tolist() == [False, True], taper


def test_first_and_second_derivatives_by_finite_differences():
    log_prob, advantage, distance = (t.double() for t in make_inputs(6, torch.device("cpu")))

    def loss(log_prob: Tensor) -> Tensor:
        return signed_taper(log_prob, advantage, distance)[0]

    assert torch.autograd.gradcheck(loss, (log_prob.requires_grad_(),))
    assert torch.autograd.gradgradcheck(loss, (log_prob,))


def test_an_empty_batch(device):
    loss, slope = signed_taper(*make_inputs(0, device))
    assert loss.shape == slope.shape == (0,)


def test_op_is_well_formed(device):
    log_prob, advantage, distance = make_inputs(9, device)
    log_prob.requires_grad_()
    for thresholds in (None, torch.ones(9, device=device)):
        numbers = ("reciprocal", 1.0, 0.5, 2.0, 1.0, 1.0)
        torch.library.opcheck(_signed_taper, (log_prob, advantage, distance, thresholds, *numbers))


def test_compiled_equals_eager(device):
    inputs = make_inputs(20, device)
    inputs[0].requires_grad_()

    def loss(log_prob: Tensor, advantage: Tensor, distance: Tensor) -> Tensor:
        rows, slope = signed_taper(log_prob * 2, advantage, distance, strength=0.3)
        return rows.mean() + slope.abs().max()

    results = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        value = run(*inputs)
        results.append((value, *torch.autograd.grad(value, inputs[0])))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


ROW = torch.zeros(3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((ROW.int(), ROW, ROW), {}, TypeError, "log_prob must be float32"),
        ((ROW[:, None], ROW, ROW), {}, ValueError, "log_prob must have 1 dim"),
        ((ROW, ROW[:2], ROW), {}, ValueError, r"advantage must have shape \(3,\)"),
        ((ROW, ROW, ROW.to("meta")), {}, ValueError, "remoteness lies on meta"),
        ((ROW, ROW, torch.zeros(6)[::2]), {}, ValueError, "remoteness must be dense"),
        ((ROW, ROW, ROW), {"threshold": ROW[:1]}, ValueError, "threshold must have shape"),
        ((ROW, ROW, ROW), {"threshold": math.nan}, ValueError, "threshold must be a number"),
        ((ROW, ROW, ROW), {"taper": "linear"}, ValueError, "taper must be one of exponential"),
        ((ROW, ROW, ROW), {"strength": -1.0}, ValueError, "strength must be .* at least 0"),
        ((ROW, ROW, ROW), {"scale": 0.0}, ValueError, "scale must be .* above 0"),
        ((ROW, ROW, ROW), {"order": math.inf}, ValueError, "order must be .* above 0"),
        ((ROW, ROW, ROW), {"negative_scale": -0.1}, ValueError, "negative_scale must be"),
    ],
)
def test_bad_input_is_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        signed_taper(*arguments, **options)
