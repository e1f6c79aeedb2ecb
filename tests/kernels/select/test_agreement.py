"""The op and the functional layer's eager rule are two implementations of one definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchrl_drpo_kernels import Stat, select

from torchrl_drpo.functional.selection import kappa_step, select_top

TEMPERATURE = 0.4


def eager_weights(quality: Tensor, kappa: Tensor, mask: Tensor, weighting: str, ties: str):
    top = select_top(quality, kappa[0], mask=mask, ties=ties)
    rule = {
        "uniform": torch.ones_like(quality),
        "linear": (quality - top.threshold) / (top.kept_std + 1e-8),
        "exponential": ((quality - top.kept_mean) / TEMPERATURE).exp(),
    }[weighting]
    return top, torch.where(top.mass > 0, top.mass * rule, 0.0)


@pytest.mark.parametrize("weighting", ["uniform", "linear", "exponential"])
@pytest.mark.parametrize("ties", ["first", "fraction"])
@pytest.mark.parametrize("kappa", [0.05, 0.7])
@pytest.mark.parametrize("distinct", [True, False], ids=["distinct", "tied"])
def test_weights_and_controller_agree(distinct, kappa, ties, weighting, device):
    quality = torch.randn(325) if distinct else torch.randint(6, (325,)).float()
    quality, mask = quality.to(device), (torch.rand(325) < 0.8).to(device)
    kappa = torch.tensor([kappa], device=device)
    top, weight = eager_weights(quality, kappa, mask, weighting, ties)
    chosen = select(quality, mask, kappa, weighting=weighting, ties=ties, temperature=TEMPERATURE)
    dense = torch.zeros_like(quality).scatter_add_(0, chosen.index.long(), chosen.weight)
    torch.testing.assert_close(dense, weight, rtol=1e-4, atol=1e-5)
    assert chosen.quota.item() == top.quota.item()
    assert chosen.threshold.item() == top.threshold.item()
    torch.testing.assert_close(chosen.stats[Stat.KEPT_STD], top.kept_std, rtol=1e-5, atol=1e-6)
    step = kappa_step(kappa, top.kept_std, top.batch_std)
    torch.testing.assert_close(chosen.next_kappa, step)


@pytest.mark.parametrize("kappa", [0.07, 0.15, 0.29, 0.35, 0.7])
def test_quotas_agree_on_the_halves(kappa, device):
    for n in (5, 10, 30, 50, 110, 150):  # kappa n ends in .5 for most
        quality = torch.arange(float(n), device=device)
        tensor = torch.tensor([kappa], device=device)
        top = select_top(quality, tensor[0])
        assert select(quality, None, tensor).quota.item() == top.quota.item(), n


def test_a_batch_without_a_valid_row_steps_alike(device):
    quality, mask = torch.randn(8, device=device), torch.zeros(8, dtype=torch.bool, device=device)
    kappa = torch.tensor([0.5], device=device)
    top = select_top(quality, kappa[0], mask=mask)
    step = kappa_step(kappa, top.kept_std, top.batch_std)
    torch.testing.assert_close(select(quality, mask, kappa).next_kappa, step)
