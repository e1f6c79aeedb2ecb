"""The fused steps against torch.distributions on all rows, most of them times zero."""

from __future__ import annotations

import pytest
import torch
from torchrl_drpo_kernels import select
from torchrl_drpo_kernels.drpo_loss import reference
from torchrl_drpo_kernels.select.rule import Rule

from tests.kernels.drpo_loss.families import FAMILIES, Family, dense, qualities


@pytest.mark.parametrize("weighting", ["linear", "uniform", "exponential"])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_gradient_equal_the_masked_loss(name, weighting, device):
    for n, kappa, dtype in (
        (1, 1.0, torch.float32),
        (45, 0.3, torch.float32),
        (45, 0.3, torch.float16),
    ):
        family, quality = Family(name, n, device, dtype), qualities(n, device)
        mask = torch.rand(n, device=device) < 0.8
        mask[0] = True
        options = {"weighting": weighting, "temperature": 0.5}
        step = family.fused(quality, kappa, mask, **options)
        found = step.loss, torch.autograd.grad(step.loss, family.leaves)
        want_loss, want_grads, weight = dense(family, quality, kappa, mask, **options)
        rtol = 1e-5 if dtype == torch.float32 else 2e-3
        torch.testing.assert_close(found[0].double(), want_loss, rtol=rtol, atol=rtol)
        for ours, theirs in zip(found[1], want_grads, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=rtol * 5, atol=rtol)
        every = family.log_prob(*[x.detach().double() for x in family.leaves])
        rows = step.selection.index[: step.selection.n_rows].long()
        torch.testing.assert_close(
            step.log_prob[: len(rows)].double(), every[rows], rtol=rtol, atol=rtol
        )
        assert torch.equal(weight.nonzero()[:, 0], rows)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_selection_is_that_of_select(name, device):
    family, quality = Family(name, 45, device), qualities(45, device)
    options = {"weighting": "uniform", "ties": "first", "bounds": (0.1, 0.9), "up": 1.1}
    step = family.fused(quality, 0.4, **options)
    for ours, theirs in zip(step.selection, select(quality, None, 0.4, **options), strict=True):
        assert torch.equal(ours, theirs)
    assert not any(x.requires_grad for x in (step.log_prob, *step.selection))
    assert (step.log_prob[int(step.selection.n_rows) :] == 0).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_fewer_places_give_the_same_step(name, device):
    family, quality = Family(name, 45, device), qualities(45, device)
    steps = [family.fused(quality, 0.2, ties="first", max_rows=m) for m in (None, 9, 100)]
    grads = [torch.autograd.grad(step.loss, family.leaves) for step in steps]
    assert [len(step.log_prob) for step in steps] == [45, 9, 45]
    for step, grad in zip(steps[1:], grads[1:], strict=True):
        torch.testing.assert_close(step.loss, steps[0].loss)
        for ours, theirs in zip(grad, grads[0], strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, under the interpreter, of NaN
@pytest.mark.parametrize("name", ["gaussian", "shared", "catalogue", "biased", "tokens"])
def test_rows_that_are_not_kept_may_hold_anything(name, device):
    family, quality = Family(name, 20, device), torch.arange(20.0, device=device)
    mask = torch.ones(20, dtype=torch.bool, device=device)
    mask[0] = False  # what unused places point at
    mask[19] = False
    grads = []
    for junk in (0.0, torch.nan):
        rows = family.leaves[0].detach().clone()
        rows[0] = rows[19] = rows[3] = junk
        leaves = [rows.requires_grad_(), *family.leaves[1:]]
        step = family.fused(quality, 0.25, mask, leaves)
        grads.append((step.loss, *torch.autograd.grad(step.loss, leaves)))
    for clean, dirty in zip(*grads, strict=True):
        assert torch.equal(clean, dirty)
    assert grads[0][1].flatten(1).any(1).nonzero()[:, 0].tolist() == [15, 16, 17, 18]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_empty_selection_gives_zero_with_zero_gradient(name, device):
    family = Family(name, 6, device)
    for quality, mask in (
        (torch.zeros(6), torch.zeros(6, dtype=torch.bool)),
        (torch.full((6,), torch.nan), None),
        (torch.ones(6), None),  # all equal: nobody lies above the threshold
    ):
        mask = mask if mask is None else mask.to(device)
        step = family.fused(quality.to(device), 0.5, mask)
        assert step.loss == 0
        assert not any(g.any() for g in torch.autograd.grad(step.loss, family.leaves))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_reference_says_the_same(name):
    family, quality = Family(name, 30, torch.device("cpu")), qualities(30, "cpu")
    kappa, rule = torch.tensor([0.4]), Rule("exponential", temperature=0.5)
    rest = family.action, quality, None, kappa, rule
    if name in ("gaussian", "shared"):
        loss = reference.drpo_gaussian_loss(*family.leaves, *rest)
    elif name in ("catalogue", "biased"):
        bias = family.leaves[2] if name == "biased" else None
        loss = reference.drpo_catalogue_loss(*family.leaves[:2], *rest, bias, 1.3)
    elif name == "items":
        leaf, action = family.leaves[0].unsqueeze(1), family.action.unsqueeze(1)
        loss = reference.drpo_gather_loss(leaf, action, *rest[1:])
    else:
        loss = reference.drpo_gather_loss(family.leaves[0], *rest, family.token_mask)
    grads = torch.autograd.grad(loss, family.leaves)
    options = {"weighting": "exponential", "temperature": 0.5}
    want_loss, want_grads, _ = dense(family, quality, kappa, **options)
    torch.testing.assert_close(loss.double(), want_loss, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_first_and_second_derivatives_by_finite_differences(name):
    family = Family(name, 6, torch.device("cpu"), torch.float64)
    quality = torch.arange(6.0)

    def loss(*leaves):
        return family.fused(
            quality, 0.5, None, leaves, weighting="exponential", temperature=2.0
        ).loss

    fast = {"fast_mode": True}
    assert torch.autograd.gradcheck(loss, family.leaves, **fast)
    assert torch.autograd.gradgradcheck(loss, family.leaves, **fast)
