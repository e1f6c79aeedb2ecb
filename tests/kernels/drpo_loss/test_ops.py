"""The fused steps as ops of torch: schemas, torch.compile, CUDA graphs, arguments."""

from __future__ import annotations

import pytest
import torch
from torchrl_drpo_kernels import Count, backend
from torchrl_drpo_kernels.drpo_loss import catalogue, gather, gaussian, step
from torchrl_drpo_kernels.select.rule import Rule

from tests.gpu import captured, no_host_reads
from tests.kernels.drpo_loss.families import FAMILIES, Family, V, qualities

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
    _, _, slope, lse, mean, index, _, _, counts = found
    arguments = (hidden, items, family.action, bias, 1.3, lse, mean, index, counts, *need)
    torch.library.opcheck(catalogue._backward, (slope, *arguments))


@pytest.mark.parametrize("places", [1, 1024, 5000, step.MAX_PLACES, step.MAX_PLACES + 1])
def test_loss_and_slope_of_many_places(places, device):
    log_prob = -torch.rand(places, device=device)
    weight = torch.rand(places, device=device)
    log_prob[places // 2 :: 3], weight[places // 2 :: 3] = -torch.inf, 0
    counts = torch.tensor([places, 7, places, 7, 0], dtype=torch.int32, device=device)  # K = 7
    loss, slope = step.loss_and_slope(log_prob, weight, counts)
    kept = weight.double() * torch.where(weight > 0, log_prob.double(), 0)
    torch.testing.assert_close(loss.double(), -kept.sum() / 7, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(slope.double(), -weight.double() / 7, rtol=1e-6, atol=0)
    assert torch.equal(step.loss_and_slope(log_prob, weight, counts)[0], loss)
    nothing = step.loss_and_slope(log_prob, 0 * weight, 0 * counts)  # K = 0
    assert [x.abs().max().item() for x in nothing] == [0, 0]


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
