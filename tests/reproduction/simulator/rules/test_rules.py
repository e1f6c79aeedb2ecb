"""Rules on one batch, against the package's pure functions and against sums by hand.

``test_ensemble.py`` trains most of them beside their LossModules; here is what it cannot show.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.reproduction.simulator.small_worlds import (
    batch_of,
    make_policies,
    make_worlds,
    rows_of,
)
from torchrl_drpo import ExponentialTaper
from torchrl_drpo.functional import selection
from torchrl_drpo.functional.weights import asymmetric_weights, exponential_weights
from torchrl_drpo.reproduction.simulator.rules import (
    Asymmetric,
    DatasetTop,
    Exponential,
    Imitation,
    Proximal,
    Rule,
    Signed,
    TopFraction,
)
from torchrl_drpo.reproduction.simulator.rules.filters import select_top
from torchrl_drpo.reproduction.simulator.runs import METHODS, build_rule, build_setup


@pytest.fixture(scope="module")
def worlds():
    return make_worlds()


def weights(rule: Rule, worlds, row: Tensor | None = None) -> Tensor:
    """The rule's first weights; rows in :func:`rows_of`'s order."""
    rule.prepare(worlds, make_policies(worlds), 10)
    return rule.weigh(batch_of(worlds, rows_of(worlds) if row is None else row), 0)


# -- selection ----------------------------------------------------------------------------------

QUALITIES = {
    "distinct": torch.rand(3, 40, generator=torch.Generator().manual_seed(0)),
    "ties": torch.randint(4, (3, 40), generator=torch.Generator().manual_seed(1)) / 4,
    "equal": torch.full((3, 40), 0.3),
    "clicks": (torch.arange(120).view(3, 40) % 13 == 0).float(),
}


@pytest.mark.parametrize("kappa", [0.01, 0.05, 0.2, 0.4, 0.71, 1.0])
@pytest.mark.parametrize("kind", QUALITIES)
def test_the_top_of_each_seed_is_the_packages_selection(kind: str, kappa: float):
    quality = QUALITIES[kind]
    top = select_top(quality, torch.full((3, 1), kappa))
    for seed in range(3):
        one = selection.select_top(quality[seed], kappa)
        torch.testing.assert_close(top.mass[seed], one.mass)
        for name in ("quota", "threshold", "kept_mean", "kept_std"):
            found, expected = getattr(top, name)[seed].squeeze(), getattr(one, name)
            torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-5, atol=1e-6)


def test_every_seed_has_its_own_kappa():
    quality = QUALITIES["distinct"]
    top = select_top(quality, torch.tensor([[0.1], [0.5], [1.0]]))
    assert (top.mass > 0).sum(-1).tolist() == [4, 20, 40]


# -- weights ------------------------------------------------------------------------------------


def test_imitation_is_one_over_the_count(worlds):
    assert torch.equal(weights(Imitation(), worlds), torch.full((2, 40), 1 / 40))


def test_dataset_top_is_the_quantile_of_the_whole_log(worlds):
    reward, row = worlds.log["reward"], rows_of(worlds)
    for kappa in (0.1, 0.37):
        for weighting in ("uniform", "linear"):
            found = weights(DatasetTop(kappa=kappa, weighting=weighting), worlds)
            for seed in range(2):
                ranked = sorted(reward[seed].tolist(), reverse=True)
                kept = ranked[: round(kappa * len(ranked))]
                mean = sum(kept) / len(kept)
                std = math.sqrt(sum((r - mean) ** 2 for r in kept) / (len(kept) - 1))
                for found_one, index in zip(found[seed].tolist(), row[seed].tolist(), strict=True):
                    r = float(reward[seed, index])
                    rule = 1.0 if weighting == "uniform" else (r - kept[-1]) / std
                    expected = rule / kappa / 40 if r >= kept[-1] else 0.0
                    assert found_one == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_mean_baseline_repels_half_of_what_the_filter_keeps(worlds):
    reward = worlds.log["reward"].gather(1, rows_of(worlds))
    found = weights(TopFraction(kappa=0.2, weighting="mean"), worlds)
    for seed in range(2):
        kept = reward[seed].topk(8).indices
        best = reward[seed, kept]
        expected = torch.zeros(40)
        expected[kept] = (best - best.mean()) / best.std() / 8
        torch.testing.assert_close(found[seed], expected)
        assert (found[seed] < 0).any()
        assert found[seed].sum().abs() < 1e-6


@pytest.mark.parametrize("baseline", [0.0, 0.5, -0.25])
def test_a_number_as_baseline_is_in_standard_deviations_above_the_mean(worlds, baseline: float):
    reward = worlds.log["reward"].gather(1, rows_of(worlds))
    found = weights(Signed(baseline=baseline, negative_scale=0.3), worlds)
    for seed in range(2):
        a = (reward[seed] - reward[seed].mean()) / reward[seed].std() - baseline
        torch.testing.assert_close(found[seed], torch.where(a < 0, 0.3 * a, a) / 40)
    raw = weights(Signed(baseline="mean", normalize=False), worlds)
    torch.testing.assert_close(raw, (reward - reward.mean(-1, keepdim=True)) / 40)


def test_the_soft_rules_are_the_pure_functions_of_each_seed(worlds):
    reward = worlds.log["reward"].gather(1, rows_of(worlds))
    soft = weights(Exponential(temperature=0.2, max_weight=1.5), worlds)
    shifted = weights(Asymmetric(shift=0.1, negative_weight=0.4), worlds)
    for seed in range(2):
        expected = exponential_weights(
            reward[seed], temperature=0.2, max_weight=1.5, normalize=True
        )
        torch.testing.assert_close(soft[seed], expected / 40)
        expected = asymmetric_weights(reward[seed], shift=0.1, negative_weight=0.4)
        torch.testing.assert_close(shifted[seed], expected / 40)
    assert soft.max() < 1.6 / 40  # the cap was active: without it the largest is above
    assert weights(Exponential(temperature=0.2, max_weight=None), worlds).max() > 2 / 40


def test_only_negatives_fade_and_by_their_own_remoteness(worlds):
    row, policies = rows_of(worlds), make_policies(worlds)
    scores = policies.score(*worlds.read(row))
    batch = batch_of(worlds, row)
    taper = ExponentialTaper(threshold=0.5)
    mean_square = scores.z.square().mean(-1)
    for rule in (Signed(taper=taper), TopFraction(kappa=0.2, taper=taper)):
        weight = weights(rule, worlds)
        faded = rule.reweigh(weight, scores, batch, 0)
        negative = weight < 0
        assert torch.equal(faded[~negative], weight[~negative])
        torch.testing.assert_close(faded[negative], (weight * taper(mean_square))[negative])
        assert negative.any()


def test_bppo_clones_first_then_clips_the_ratio(worlds):
    rule, policies, row = Proximal(clip_epsilon=0.1), make_policies(worlds), rows_of(worlds)
    rule.prepare(worlds, policies, 10)
    batch = batch_of(worlds, row)
    scores = policies.score(*worlds.read(row))
    ones = rule.weigh(batch, 4)
    assert torch.equal(ones, torch.full((2, 40), 1 / 40))
    assert rule.reweigh(ones, scores, batch, 4) is ones
    advantage = rule.weigh(batch, 5)  # takes the snapshot
    old = policies.score(*worlds.read(row)).log_prob
    with torch.no_grad():
        policies.parameters["b2"] += 0.02 * torch.randn(policies.parameters["b2"].shape)
    scores = policies.score(*worlds.read(row))
    ratio = (scores.log_prob - old).exp().requires_grad_()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage)
    (slope,) = torch.autograd.grad(surrogate.sum(), ratio)  # d/d log pi is this times the ratio
    expected = (slope * ratio).detach()
    torch.testing.assert_close(rule.reweigh(advantage, scores, batch, 5), expected)
    assert (expected == 0).any()
    assert (expected != 0).any()


# -- descriptions -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_built_of_json(name: str, worlds):
    rule = build_rule(METHODS[name])
    rule.prepare(worlds, make_policies(worlds), 4)
    weight = rule.weigh(batch_of(worlds, rows_of(worlds)), 0)
    assert weight.shape == (2, 40)
    assert weight.isfinite().all()
    assert (weight != 0).any()


def test_descriptions_are_read_whole():
    rule = build_rule({"rule": "TopFraction", "kappa": {"bounds": [0.2, 0.9], "initial": 0.4}})
    assert rule.controller.bounds == (0.2, 0.9)
    assert rule.initial == 0.4
    tapered = build_rule(
        {"rule": "Uphill", "base": {"rule": "Signed", "taper": {"threshold": 2.0}}}
    )
    assert tapered.base.taper == ExponentialTaper(threshold=2.0)
    before = {"rule": "Signed", "taper": {"threshold": 1.0}}
    build_rule(before)
    assert before == {"rule": "Signed", "taper": {"threshold": 1.0}}
    with pytest.raises(ValueError, match="unknown rule 'Magic'; expected one of Imitation"):
        build_rule({"rule": "Magic"})
    assert build_setup({"scenario": None, "shares": [0.2, 0.3, 0.5]}).mixture.expert == 0.2
    with pytest.raises(ValueError, match="a setup needs a scenario or the shares"):
        build_setup({"scenario": None}).mixture  # noqa: B018


def test_kl_weights_with_a_taper_are_refused_as_nothing_would_be_tapered():
    with pytest.raises(ValueError, match="weighting 'kl' keeps every row"):
        TopFraction(weighting="kl", taper=ExponentialTaper())


def test_a_misspelt_weighting_is_not_another_one():
    for build in (TopFraction, DatasetTop):
        with pytest.raises(ValueError, match=r"weighting must be one of .* got 'linaer'"):
            build(kappa=0.1, weighting="linaer")
