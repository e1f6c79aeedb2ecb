"""Objectives by name: what they stand for, and that their options reach the loss."""

from __future__ import annotations

import inspect
import math
from dataclasses import MISSING, fields

import pytest
import torch
from tensordict import TensorDict

from torchrl_drpo import (
    AdaptiveBCLoss,
    AdaptiveKappa,
    AsymRELoss,
    AWRLoss,
    CRRLoss,
    DRPOLoss,
    GBPOLoss,
    GuidedLoss,
    RepulsiveLoss,
    make_catalogue_actor,
    make_gaussian_actor,
)
from torchrl_drpo.pipeline.objectives import options
from torchrl_drpo.pipeline.objectives.make import MAKERS, check_options, make_objective
from torchrl_drpo.pipeline.objectives.named import (
    NAMES,
    OBJECTIVES,
    check_fits,
    find_objective,
    following_model,
)

PAIRS = [
    (options.DRPOOptions, DRPOLoss),
    (options.RepulsiveOptions, RepulsiveLoss),
    (options.AWROptions, AWRLoss),
    (options.CRROptions, CRRLoss),
    (options.AsymREOptions, AsymRELoss),
    (options.GBPOOptions, GBPOLoss),
    (options.GuidedOptions, GuidedLoss),
]


@pytest.mark.parametrize(("described", "loss"), PAIRS)
def test_defaults_are_the_loss_s_own(described: type, loss: type) -> None:
    own = {}
    for base in reversed(loss.__mro__):
        own |= inspect.signature(base.__init__).parameters if "__init__" in vars(base) else {}
    controller = {f"kappa_{f.name}": f.default for f in fields(AdaptiveKappa)}
    controller["target_ratio"] = AdaptiveKappa.target_ratio
    for field in fields(described):
        if field.name.startswith("taper") or (described, field.name) == (
            options.AWROptions,
            "temperature",  # of a quality in [0, 1]
        ):
            continue
        assert field.default is not MISSING
        default = own[field.name].default if field.name in own else controller[field.name]
        assert field.default == default, field.name


def batch(actions: torch.Tensor) -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    rows = len(actions)
    return TensorDict(
        {
            "observation": torch.randn(rows, 3, generator=generator),
            "action": actions,
            "next": {"reward": torch.rand(rows, 1, generator=generator)},
        },
        [rows],
    )


def test_options_change_the_loss_and_nothing_else() -> None:
    torch.manual_seed(0)
    actor = make_gaussian_actor(3, 2)
    rows = batch(torch.randn(64, 2))
    by_hand = DRPOLoss(actor, kappa=0.2, weighting="uniform")(rows)["loss_actor"]
    made = make_objective("drpo", actor, options={"kappa": 0.2, "weighting": "uniform"})
    assert torch.equal(made(rows)["loss_actor"], by_hand)
    assert OBJECTIVES["drpo"].options.to_json() == {}  # the name itself is as it was
    bounds = make_objective("drpo", actor, options={"kappa_bounds": (0.1, 0.9)}).controller.bounds
    assert bounds == (0.1, 0.9)


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"taper": "exponential", "taper_strength": 2.0}, "ExponentialTaper"),
        ({"taper": "reciprocal", "taper_scale": 3.0}, "ReciprocalTaper"),
        ({"taper": "cutoff", "taper_threshold": 4.0}, "HardCutoff"),
    ],
)
def test_tapers_by_name(changes: dict, shape: str) -> None:
    taper = make_objective("signed", make_gaussian_actor(3, 2), options=changes).taper
    assert type(taper).__name__ == shape
    assert taper.threshold == changes.get("taper_threshold", 1.0)
    for name in {"taper_strength", "taper_scale"} & set(changes):
        assert getattr(taper, name.removeprefix("taper_")) == changes[name]


def test_adaptive_bc_is_the_loss_of_that_name() -> None:
    torch.manual_seed(0)
    actor, rows = make_gaussian_actor(3, 2), batch(torch.randn(64, 2))
    named, own = make_objective("adaptive-bc", actor), AdaptiveBCLoss(actor)
    for _ in range(3):  # kappa moves alike
        assert torch.equal(named(rows)["loss_actor"], own(rows)["loss_actor"])
    assert torch.equal(named.kappa, own.kappa)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_reward_weighted_is_exp_of_each_row_s_own_reward(temperature: float) -> None:
    # arXiv 2603.10279: w = exp(r / lambda), whatever else is in the batch, without a cap
    torch.manual_seed(0)
    actor, rows = make_gaussian_actor(3, 2), batch(torch.randn(64, 2))
    rows["next", "reward"] *= 4.0  # far beyond what awr caps at
    reward = rows["next", "reward"].squeeze(-1)
    loc, scale = actor[0].module(rows["observation"])
    log_prob = torch.distributions.Normal(loc, scale).log_prob(rows["action"]).sum(-1)
    expected = -((reward / temperature).exp() * log_prob).mean()
    changes = {} if temperature == 0.3 else {"temperature": temperature}
    named = make_objective("reward-weighted", actor, options=changes)
    torch.testing.assert_close(named(rows)["loss_actor"], expected)
    alone = make_objective("reward-weighted", actor, options=changes)(rows[:1])["loss_actor"]
    torch.testing.assert_close(alone, -(reward[0] / temperature).exp() * log_prob[0])
    assert make_objective("awr", actor)(rows)["loss_actor"] != named(rows)["loss_actor"]


def test_every_name_has_a_maker_and_known_kinds() -> None:
    assert {found.loss for found in OBJECTIVES.values()} <= {*MAKERS, "guided"}
    assert following_model(NAMES) == [
        *("bc-tilt", "positive-only-tilt", "drpo-tilt", "conditioned-tilt"),
        *("guided", "taper-q", "positive-only-q", "drpo-q", "taper-a", "positive-only-a"),
        *("drpo-a", "uphill", "uphill-tapered"),
    ]


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"no objective 'dprO' .did you mean 'drpo'"):
        find_objective("dprO")
    with pytest.raises(ValueError, match=r"'drpo': no option 'kapa' .did you mean 'kappa'"):
        find_objective("drpo", {"kapa": 1.0})
    with pytest.raises(ValueError, match="'bc': no option 'kappa'; there are none"):
        find_objective("bc", {"kappa": 1.0})
    with pytest.raises(ValueError, match=r"kappa must lie in \(0, 1\], got 3"):
        make_objective("drpo", make_catalogue_actor(5), options={"kappa": 3.0})
    with pytest.raises(ValueError, match=r"'bc-tilt': no option 'kappa'; there are tau"):
        find_objective("bc-tilt", {"kappa": 1.0})
    check_fits("bc-tilt", "embedding")
    with pytest.raises(ValueError, match=r"'conditioned-tilt' guides .* kind catalogue, not sem"):
        check_fits("conditioned-tilt", "semantic-id")
    with pytest.raises(ValueError, match=r"'guided' climbs .* kind catalogue, not embedding"):
        check_fits("guided", "embedding")


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *(("bc-tilt", "tau", value) for value in (0.0, -1.0, math.nan, math.inf)),
        *(("conditioned", "guidance", value) for value in (-0.5, math.nan, math.inf)),
        *(("conditioned", "unknown", value) for value in (-0.1, 1.0, 2.0, math.nan)),
    ],
)
def test_what_serving_would_refuse_is_refused_before_training(name, option, value) -> None:
    with pytest.raises(ValueError, match=f"objective '{name}': {option} must .* got {value}"):
        find_objective(name, {option: value})


@pytest.mark.parametrize("policy", ["catalogue", "embedding", "semantic-id"])
def test_what_a_loss_would_refuse_is_refused_before_training(policy: str) -> None:
    before = torch.get_rng_state()
    for name, changes in (
        ("drpo", {"kappa": 5.0}),
        ("drpo", {"kappa_bounds": (0.6, 0.9)}),
        ("drpo-kl", {"temperature": -1.0}),
        ("awr", {"temperature": 0.0}),
        ("tapered", {"taper_scale": 0.0}),
    ):
        with pytest.raises(ValueError, match=f"objective '{name}': "):
            check_options(name, find_objective(name, changes), policy)
    for name in NAMES:  # all are as they should be
        check_options(name, find_objective(name), policy)
    assert torch.equal(torch.get_rng_state(), before)
