"""Signed-plus-filtered DRPO: what repels, how strongly, and what does not."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict

import torchrl_drpo as drpo
from tests.objectives.by_hand import check, log_prob
from tests.objectives.cases import (
    Actor,
    batch,
    gaussian_actor,
)

N = 40


@pytest.fixture
def actor() -> Actor:
    return gaussian_actor()


@pytest.fixture
def data() -> TensorDict:
    return batch(gaussian_actor(), N)


class TestNegativeBranchOfDRPO:
    def test_rejected_rows_repel_under_a_taper(self, actor: Actor, data: TensorDict):
        reward = data["next", "reward"].squeeze(-1)
        k = 10
        ranked = reward.sort(descending=True).values
        nu = ranked[k - 1]
        attract = (reward - nu).clamp_min(0) / ranked[:k].std()
        dist = actor.get_dist(data.select("observation"))
        z = ((data["action"] - dist.loc) / dist.scale).detach()
        taper = 1 / (1 + (z.square().sum(-1) - 1.0).clamp_min(0))
        repel = 0.5 * taper * (reward - nu).clamp_max(0) / reward.std()
        expected = -((attract + repel) * log_prob(actor, data)).sum() / k
        loss = drpo.DRPOLoss(
            actor,
            kappa=0.25,
            negative_taper=drpo.ReciprocalTaper(threshold=1.0),
            negative_scale=0.5,
        )
        check(loss, actor, data, expected)
        assert loss(data)["taper_active_fraction"] > 0

    def test_only_marked_dislikes_repel(self, actor: Actor, data: TensorDict):
        # OneRec-V2: +1 on the top quarter of the rest, -1 on dislikes, nothing else.
        reward, dislike = data["next", "reward"].squeeze(-1), data["dislike"]
        rest = reward[~dislike]
        k = math.floor(len(rest) * 0.25 + 0.5)
        kept = ~dislike & (reward >= rest.sort(descending=True).values[k - 1])
        weight = kept.float() - dislike.float()
        expected = -(weight * log_prob(actor, data)).sum() / k
        loss = drpo.DRPOLoss(actor, kappa=0.25, weighting="uniform", negative_key="dislike")
        check(loss, actor, data, expected)
        rho = dislike.sum() / kept.sum()
        torch.testing.assert_close(loss(data)["negative_mass_ratio"], rho)

    def test_a_click_log_does_not_blow_it_up(self, actor: Actor, data: TensorDict):
        # The kept rows are all clicks: their spread is zero, that of the batch is not.
        data["next", "reward"] = (torch.arange(N) < 4).float()
        taper = drpo.ExponentialTaper()
        out = drpo.DRPOLoss(actor, kappa=0.05, negative_taper=taper)(data)
        assert out["loss_actor"].abs() < 1e3

    def test_off_by_default_and_what_does_not_fit_together(self, actor: Actor, data: TensorDict):
        assert "negative_mass_ratio" not in drpo.DRPOLoss(actor)(data).keys()  # noqa: SIM118
        taper = drpo.ExponentialTaper()
        with pytest.raises(ValueError, match="weighting='kl' rejects no row"):
            drpo.DRPOLoss(actor, weighting="kl", negative_taper=taper)
        with pytest.raises(TypeError, match="negative_taper must be callable"):
            drpo.DRPOLoss(actor, negative_taper=0.5)
        with pytest.raises(TypeError, match="dislikes in 'user' must be booleans"):
            drpo.DRPOLoss(actor, negative_key="user")(data)
