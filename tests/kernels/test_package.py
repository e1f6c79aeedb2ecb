"""The package as a whole: without Triton, without host reads, in a CUDA graph."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torchrl_drpo_kernels import gather_log_prob, gaussian_log_prob, select, signed_taper
from torchrl_drpo_kernels._common import launches

from tests.gpu import captured, no_host_reads

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # what find_spec and import see where it is not installed
import torch, torchrl_drpo_kernels as kernels
assert kernels.backend(torch.zeros(1)) == "aten"
chosen = kernels.select(torch.tensor([1.0, 3.0, 2.0, 0.0]), None, 0.5, weighting="uniform")
assert chosen.index[:2].tolist() == [1, 2]
mean = torch.zeros(4, 2, requires_grad=True)
log_prob, _ = kernels.gaussian_log_prob(
    mean, torch.zeros(2), torch.ones(4, 2), chosen.index, chosen.n_rows
)
(-chosen.weight * log_prob).sum().backward()
assert mean.grad.tolist() == [[0, 0], [-1, -1], [-1, -1], [0, 0]]
"""


def test_everything_works_where_triton_is_missing():
    run = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def drpo_step(
    quality: Tensor, mean: Tensor, log_std: Tensor, action: Tensor, logits: Tensor, kappa: Tensor
) -> Tensor:
    """Select, score the kept rows under two policies, add a signed loss; kappa takes its step."""
    chosen = select(quality, None, kappa)
    rows = chosen.index, chosen.n_rows
    log_prob, remoteness = gaussian_log_prob(mean, log_std, action, *rows)
    item = gather_log_prob(logits, torch.zeros_like(quality, dtype=torch.int64), None, *rows)
    repulsion, _ = signed_taper(log_prob, -chosen.weight, remoteness, strength=0.1)
    kappa.copy_(chosen.next_kappa)
    return (repulsion - chosen.weight * (log_prob + item)).sum() / chosen.quota


def step_inputs(n: int, device: str) -> list[Tensor]:
    shapes = [(n,), (n, 8), (8,), (n, 8), (n, 50)]
    tensors = [torch.randn(shape, device=device) for shape in shapes]
    for policy in (tensors[1], tensors[2], tensors[4]):
        policy.requires_grad_()
    return [*tensors, torch.tensor([0.3], device=device)]


@pytest.mark.parametrize("n", [1, 320])
def test_a_whole_step_equals_the_dense_masked_loss(n):
    quality, mean, log_std, action, logits, kappa = step_inputs(n, "cpu")
    old_kappa = kappa.clone()
    loss = drpo_step(quality, mean, log_std, action, logits, kappa)
    grads = torch.autograd.grad(loss, (mean, log_std, logits))

    chosen = select(quality, None, old_kappa)
    weight = torch.zeros(n).index_add_(0, chosen.index.long(), chosen.weight)
    dist = torch.distributions.Normal(mean, log_std.exp())
    log_prob = dist.log_prob(action).sum(-1)
    item = logits.log_softmax(-1)[:, 0]
    taper = torch.exp(-0.1 * ((action - mean) / log_std.exp()).square().sum(-1)).detach()
    dense = (weight * (taper * log_prob - log_prob - item)).sum() / chosen.quota
    torch.testing.assert_close(loss, dense)
    for a, b in zip(grads, torch.autograd.grad(dense, (mean, log_std, logits)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert kappa.item() == pytest.approx(chosen.next_kappa.item())


@pytest.mark.gpu
@pytest.mark.parametrize("n", [320, 100_000])
def test_a_step_reads_nothing_back_and_replays_in_a_cuda_graph(n):
    inputs = step_inputs(n, "cuda")
    policy = [t for t in inputs if t.requires_grad]

    def step() -> list[Tensor]:
        loss = drpo_step(*inputs)
        return [loss.detach(), *torch.autograd.grad(loss, policy)]

    step()  # compiles
    with no_host_reads():
        step()
    graph, outputs = captured(step)
    with torch.no_grad():  # new data, another kappa, another number of kept rows
        inputs[0].copy_(torch.randn(n))
        inputs[-1].fill_(0.15)
    graph.replay()
    got = [t.clone() for t in outputs]
    inputs[-1].fill_(0.15)
    for a, b in zip(got, step(), strict=True):
        assert torch.equal(a, b)


class _Elsewhere(Tensor):
    """A tensor that claims to lie on the second GPU."""

    is_cuda = True
    device = torch.device("cuda", 1)


def test_kernels_are_launched_on_the_device_of_their_tensors(monkeypatch):
    current = [0]

    class Guard:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            current.append(self.device.index)

        def __exit__(self, *_):
            current.pop()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "device", Guard)
    where = launches(lambda tensor: (current[-1], len(current)))
    assert where(torch.zeros(1)) == (0, 1)
    assert where(torch.zeros(1).as_subclass(_Elsewhere)) == (1, 2)
    current[:] = [1]
    assert where(torch.zeros(1).as_subclass(_Elsewhere)) == (1, 1)


@pytest.mark.gpu
def test_the_second_gpu_is_as_good_as_the_first():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    results = []
    for device in ("cuda:0", "cuda:1"):  # the first stays the current one
        torch.manual_seed(0)
        inputs = step_inputs(320, "cpu")
        inputs = [t.detach().to(device).requires_grad_(t.requires_grad) for t in inputs]
        loss = drpo_step(*inputs)
        grads = torch.autograd.grad(loss, [t for t in inputs if t.requires_grad])
        results.append([t.cpu() for t in (loss.detach(), *grads)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
