"""The fused steps against torch.distributions on all rows, most of them times zero."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.distributions import Categorical, Independent, Normal
from torchrl_drpo_kernels import (
    Count,
    backend,
    drpo_catalogue_loss,
    drpo_gather_loss,
    drpo_gaussian_loss,
    select,
)
from torchrl_drpo_kernels.drpo_loss import catalogue, gather, gaussian, reference
from torchrl_drpo_kernels.select.rule import Rule

from tests.gpu import captured, no_host_reads

V, D, T = 37, 16, 3
FAMILIES = ("gaussian", "shared", "catalogue", "biased", "items", "tokens")


class Family:
    """One policy family: leaves, a fused step, and the log-probability by other code."""

    def __init__(self, name, n, device, dtype=torch.float32):
        def draw(*shape):
            return torch.randn(*shape, dtype=torch.float64).to(device, dtype).requires_grad_()

        self.name, self.n = name, n
        ids = partial(torch.randint, V, device=device)
        if name in ("gaussian", "shared"):
            self.leaves = [draw(n, 5), draw(n, 5) if name == "gaussian" else draw(5)]
            self.action = draw(n, 5).detach()
        elif name in ("catalogue", "biased"):
            self.leaves = [draw(n, D), draw(V, D), *([draw(V)] if name == "biased" else [])]
            self.action = ids((n,))
        elif name == "items":
            self.leaves, self.action = [draw(n, V)], ids((n,))
        else:
            self.leaves, self.action = [draw(n, T, V)], ids((n, T))
            self.token_mask = torch.rand(n, T, device=device) < 0.7

    def fused(self, quality, kappa, mask=None, leaves=None, **options):
        leaves = self.leaves if leaves is None else leaves
        if self.name in ("gaussian", "shared"):
            return drpo_gaussian_loss(*leaves, self.action, quality, kappa, mask, **options)
        if self.name in ("catalogue", "biased"):
            options |= {"bias": leaves[2] if len(leaves) > 2 else None, "inverse_temperature": 1.3}
            return drpo_catalogue_loss(*leaves[:2], self.action, quality, kappa, mask, **options)
        if self.name == "tokens":
            options["token_mask"] = self.token_mask
        return drpo_gather_loss(*leaves, self.action, quality, kappa, mask, **options)

    def log_prob(self, *leaves):
        """Of all rows."""
        if self.name in ("gaussian", "shared"):
            mean, log_std = leaves
            return Independent(Normal(mean, log_std.exp().expand_as(mean)), 1).log_prob(self.action)
        if self.name in ("catalogue", "biased"):
            logits = leaves[0] @ leaves[1].T
            logits = (logits + leaves[2] if len(leaves) > 2 else logits) * 1.3
            return Categorical(logits=logits).log_prob(self.action)
        log_prob = Categorical(logits=leaves[0]).log_prob(self.action)
        if self.name == "tokens":
            return torch.where(self.token_mask, log_prob, 0).sum(-1)
        return log_prob


def dense(family, quality, kappa, mask=None, **options):
    """The loss over all rows in float64, and its gradients."""
    chosen = select(quality, mask, kappa, **options)
    n_rows, quota = int(chosen.n_rows), int(chosen.quota)
    weight = torch.zeros(family.n, dtype=torch.float64, device=quality.device)
    weight[chosen.index[:n_rows].long()] = chosen.weight[:n_rows].double()
    leaves = [x.detach().double().requires_grad_() for x in family.leaves]
    loss = -(weight * family.log_prob(*leaves)).sum() / max(1, quota)
    return loss.detach(), torch.autograd.grad(loss, leaves), weight


def qualities(n, device):
    return torch.randint(0, 12, (n,), device=device) / 7  # ties are the rule


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


OPS = {
    "gaussian": (gaussian._drpo_gaussian_loss, ()),
    "catalogue": (catalogue._drpo_catalogue_loss, (None, 1.3, True)),
    "biased": (catalogue._drpo_catalogue_loss, None),
    "tokens": (gather._drpo_gather_loss, None),
}


@pytest.mark.parametrize(("max_rows", "dtype"), [(9, torch.float32), (3, torch.float16)])
@pytest.mark.parametrize("name", OPS)
def test_ops_are_well_formed(name, max_rows, dtype, device):
    family = Family(name, 9, device, dtype)
    op, between = OPS[name]
    if name == "biased":
        between = (family.leaves[2], 1.3, True)
    if name == "tokens":
        between = (family.token_mask,)
    quality = torch.randn(9, device=device)
    kappa = torch.tensor([0.3], device=device)
    rest = quality, quality > -9, kappa, max_rows, *Rule(ties="first").parts
    policy = family.leaves[:1] if name == "tokens" else family.leaves[:2]
    torch.library.opcheck(op, (*policy, family.action, *between, *rest))


@pytest.mark.parametrize("need", [(True, True, True), (True, False, False), (False, True, False)])
def test_the_catalogue_s_backward_is_well_formed(need, device):
    family = Family("biased", 9, device)
    hidden, items, bias = (x.detach() for x in family.leaves)
    kappa = torch.tensor([0.4], device=device)
    quality = torch.arange(9.0, device=device)
    found = catalogue._drpo_catalogue_loss(
        hidden, items, family.action, bias, 1.3, True, quality, None, kappa, 9, *Rule().parts
    )
    _, _, lse, mean, index, weight, _, counts = found
    arguments = (hidden, items, family.action, bias, 1.3, lse, mean, index, counts, *need)
    torch.library.opcheck(catalogue._backward, (weight, *arguments))


@pytest.mark.parametrize("name", FAMILIES)
def test_only_what_is_asked_for_is_computed(name, device):
    family, quality = Family(name, 20, device), torch.randn(20, device=device)
    whole = torch.autograd.grad(family.fused(quality, 0.4).loss, family.leaves)
    for i, leaf in enumerate(family.leaves):
        leaves = [x if i == j else x.detach() for j, x in enumerate(family.leaves)]
        loss = family.fused(quality, 0.4, None, leaves).loss
        torch.testing.assert_close(torch.autograd.grad(loss, leaf)[0], whole[i])
    with torch.no_grad():
        torch.testing.assert_close(
            family.fused(quality, 0.4).loss,
            family.fused(quality, torch.tensor([0.4], device=device)).loss,
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_compiled_equals_eager(name, device):
    family, quality = Family(name, 20, device), torch.randn(20, device=device)
    kappa = torch.tensor([0.4], device=device)

    def loss(quality, kappa, *leaves):
        step = family.fused(quality, kappa, None, leaves, weighting="uniform")
        return step.loss * step.selection.threshold.exp(), step.selection.next_kappa

    results = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        value, next_kappa = run(quality, kappa, *family.leaves)
        results.append((value, next_kappa, *torch.autograd.grad(value, family.leaves)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", FAMILIES)
def test_same_bits_every_time(name, device):
    family, quality = Family(name, 45, device), qualities(45, device)
    results = []
    for _ in range(2):
        loss = family.fused(quality, 0.6).loss
        results.append((loss, *torch.autograd.grad(loss, family.leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_bad_arguments_are_named(name, device):
    family, quality = Family(name, 6, device), torch.arange(6.0, device=device)
    cases = [
        ((quality[:5], 0.5), {}, ValueError, r"quality must have shape \(6,\)"),
        ((quality.double(), 0.5), {}, TypeError, "quality must be float32"),
        ((quality.to("meta"), 0.5), {}, ValueError, "quality lies on meta"),
        ((quality, 0.0), {}, ValueError, r"kappa must lie in \(0, 1\], got 0.0"),
        ((quality, 0.5, quality), {}, TypeError, "mask must be bool"),
        ((quality, 0.5, quality[:5] > 0), {}, ValueError, r"mask must have shape \(6,\)"),
        ((quality, 0.5, (quality > 0).to("meta")), {}, ValueError, "mask lies on meta"),
        ((quality.repeat(2)[::2], 0.5), {}, ValueError, "quality must be dense"),
        ((quality[:, None], 0.5), {}, ValueError, "quality must have 1 dim"),
        ((quality, torch.ones(1).to("meta")), {}, ValueError, "kappa lies on meta"),
        ((quality, torch.ones(2, device=device)), {}, ValueError, r"kappa must have shape \(1,\)"),
        ((quality, 0.5), {"weighting": "kl"}, ValueError, "weighting must be one of"),
        ((quality, 0.5), {"speed": 1}, TypeError, "unexpected keyword argument 'speed'"),
        ((quality, 0.5), {"max_rows": -1}, ValueError, "max_rows must be at least 0, got -1"),
    ]
    if device.type == "cpu":
        cases += [
            ((quality, torch.tensor([1.5])), {}, ValueError, "kappa must lie in"),
            ((quality, 0.5), {"max_rows": 1}, ValueError, r"max_rows is 1 but 2 rows .*K = 3"),
        ]
    for arguments, options, error, message in cases:
        with pytest.raises(error, match=message):
            family.fused(*arguments, **options)


@pytest.mark.parametrize("name", ["catalogue", "items", "tokens"])
def test_a_kept_action_that_does_not_exist_is_named(name, device):
    if device.type == "cuda" or (name == "catalogue" and backend(torch.zeros(1)) == "triton"):
        pytest.skip("values are looked at on a CPU, by the row where the host packs")
    family, quality = Family(name, 6, device), torch.arange(6.0)
    if name == "tokens":
        family.token_mask[:] = True
    family.action[0] = family.action[4] = V
    with pytest.raises(ValueError, match=rf"\[0, {V}\) but row 4,? .*holds {V}"):
        family.fused(quality, 0.5)
    family.action[4] = 0
    family.fused(quality, 0.5)  # row 0 is not kept


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_reads_nothing_back_and_replays_in_a_cuda_graph(name, dtype):
    family = Family(name, 320, torch.device("cuda"), dtype)
    quality, kappa = torch.randn(320, device="cuda"), torch.tensor([0.3], device="cuda")

    def run():
        step = family.fused(quality, kappa)
        return [step.loss.detach(), *torch.autograd.grad(step.loss, family.leaves)]

    run()  # compiles
    with no_host_reads():
        run()
    graph, outputs = captured(run)
    quality.copy_(torch.randn(320))  # new data, another kappa, another number of kept rows
    kappa.fill_(0.15)
    graph.replay()
    for a, b in zip([t.clone() for t in outputs], run(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_counts_speak_of_the_whole_batch(device):
    family = Family("gaussian", 10, device)
    counts = family.fused(torch.arange(10.0, device=device), 0.5, max_rows=6).selection.counts
    assert counts[Count.N_VALID] == 10
    assert counts[Count.QUOTA] == 5
