"""Gaussian log-density against torch.distributions in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal
from torchrl_drpo_kernels import gaussian_log_prob
from torchrl_drpo_kernels.gaussian_log_prob.op import _backward, _gaussian_log_prob

# Rows, dimensions: one of each, ragged tiles, several parts of d, the widest.
SHAPES = [(1, 1), (70, 5), (33, 300), (5, 1024)]


def make_inputs(
    n: int, d: int, dtype: torch.dtype, per_row: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    mean, action = torch.randn(n, d), torch.randn(n, d) * 2
    log_std = torch.randn(n, d) * 0.5 if per_row else torch.randn(d) * 0.5
    return tuple(
        t.to(device, dtype).requires_grad_(i < 2) for i, t in enumerate((mean, log_std, action))
    )


def exact(
    mean: Tensor, log_std: Tensor, action: Tensor, rows: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-prob, remoteness, and the gradients of the weighted sum, all by other code in float64."""
    mean, log_std, action = (
        t.detach().cpu().double().requires_grad_() for t in (mean, log_std, action)
    )
    dist = Independent(Normal(mean, log_std.expand_as(mean).exp()), 1)
    log_prob = dist.log_prob(action)[rows]
    remoteness = ((action - mean) / log_std.exp()).square().sum(-1)[rows]
    grads = torch.autograd.grad((log_prob * weight.double()).sum(), (mean, log_std))
    return log_prob.detach(), remoteness.detach(), *grads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("per_row", [False, True], ids=["shared", "per_row"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_equal_torch_distributions(shape, per_row, dtype, device):
    inputs = make_inputs(*shape, dtype, per_row, device)
    n = shape[0]
    index = torch.randperm(n).sort(descending=True).values.roll(1)
    n_rows = max(1, n * 2 // 3)
    weight = torch.randn(n)
    log_prob, remoteness = gaussian_log_prob(
        *inputs, index.int().to(device), torch.tensor([n_rows], dtype=torch.int32, device=device)
    )
    (log_prob * weight.to(device)).sum().backward()
    want = exact(*inputs, index[:n_rows], weight[:n_rows])
    got = log_prob[:n_rows], remoteness[:n_rows], inputs[0].grad, inputs[1].grad
    assert log_prob.dtype == remoteness.dtype == torch.float32
    assert not log_prob[n_rows:].any()
    assert not remoteness[n_rows:].any()
    # Values accumulate in float32; gradients come back in the inputs' own type.
    rounding = 3e-6 if dtype == torch.float32 else 1e-3
    for a, b, rtol in zip(got, want, (2e-6, 2e-6, rounding, rounding), strict=True):
        torch.testing.assert_close(a.detach().cpu().double(), b, rtol=rtol, atol=rtol * 30)


def test_without_index_rows_are_taken_in_order(device):
    mean, log_std, action = make_inputs(9, 3, torch.float32, False, device)
    dist = Independent(Normal(mean, log_std.exp()), 1)
    log_prob, remoteness = gaussian_log_prob(mean, log_std, action)
    torch.testing.assert_close(log_prob, dist.log_prob(action))
    assert not remoteness.requires_grad
    first_four = gaussian_log_prob(mean, log_std, action, n_rows=torch.tensor(4, device=device))
    torch.testing.assert_close(first_four[0][:4], log_prob[:4])
    assert not first_four[0][4:].any()


def test_dropped_rows_may_hold_anything_and_get_no_gradient(device):
    mean = torch.zeros(4, 2, device=device)
    mean[2] = torch.nan
    mean.requires_grad_()
    log_std = torch.zeros(2, device=device, requires_grad=True)
    index, n_rows = torch.tensor([1, 3, 0, 0], device=device), torch.tensor([2], device=device)
    log_prob, _ = gaussian_log_prob(mean, log_std, torch.ones(4, 2, device=device), index, n_rows)
    log_prob.sum().backward()
    assert mean.grad.tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]  # z = 1 in both rows
    assert log_std.grad.tolist() == [0, 0]  # z^2 - 1


@pytest.mark.parametrize("count", [0, -3])
def test_an_empty_selection_gives_zeros(count, device):
    mean, log_std, action = make_inputs(6, 2, torch.float32, False, device)
    n_rows = torch.tensor([count], device=device)
    log_prob, remoteness = gaussian_log_prob(mean, log_std, action, None, n_rows)
    log_prob.sum().backward()
    for tensor in (log_prob, remoteness, mean.grad, log_std.grad):
        assert not tensor.any()


def test_gradient_of_the_action_is_minus_that_of_the_mean(device):
    inputs = [t.detach().requires_grad_() for t in make_inputs(7, 3, torch.float32, False, device)]
    gaussian_log_prob(*inputs)[0].square().sum().backward()
    assert torch.equal(inputs[2].grad, -inputs[0].grad)


@pytest.mark.parametrize("per_row", [False, True], ids=["shared", "per_row"])
def test_first_and_second_derivatives_by_finite_differences(per_row):
    cpu = torch.device("cpu")
    mean, log_std, action = make_inputs(5, 3, torch.float64, per_row, cpu)
    action.requires_grad_()
    index, n_rows = torch.tensor([4, 0, 2, 0]), torch.tensor([3])

    def log_prob(*inputs: Tensor) -> Tensor:
        return gaussian_log_prob(*inputs, index, n_rows)[0]

    assert torch.autograd.gradcheck(log_prob, (mean, log_std, action))
    assert torch.autograd.gradgradcheck(log_prob, (mean, log_std, action))


@pytest.mark.parametrize("per_row", [False, True], ids=["shared", "per_row"])
def test_ops_are_well_formed(per_row, device):
    mean, log_std, action = make_inputs(6, 3, torch.float32, per_row, device)
    index, n_rows = torch.arange(6, device=device), torch.tensor([4], device=device)
    torch.library.opcheck(_gaussian_log_prob, (mean, log_std, action, index, n_rows))
    torch.library.opcheck(_gaussian_log_prob, (mean, log_std, action, None, None))
    arguments = (torch.randn(6, device=device), mean.detach(), log_std.detach(), action)
    torch.library.opcheck(_backward, (*arguments, index, n_rows))


def test_compiled_equals_eager(device):
    def loss(mean: Tensor, log_std: Tensor, action: Tensor, index: Tensor, n: Tensor) -> Tensor:
        log_prob, remoteness = gaussian_log_prob(mean, log_std, action, index, n)
        return (log_prob * (-remoteness).exp()).sum()

    rows = torch.arange(8, device=device).flip(0), torch.tensor([5], device=device)
    results = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        inputs = make_inputs(8, 4, torch.float32, False, device)
        value = run(*inputs, *rows)
        value.backward()
        results.append((value.detach(), inputs[0].grad, inputs[1].grad))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_rows_of_a_wider_tensor_are_read_by_their_stride(device):
    wide = torch.randn(6, 10, device=device)
    log_prob, _ = gaussian_log_prob(wide[:, :4], wide[:, 4:8] * 0.1, wide[:, 6:])
    dist = Independent(Normal(wide[:, :4], (wide[:, 4:8] * 0.1).exp()), 1)
    torch.testing.assert_close(log_prob, dist.log_prob(wide[:, 6:]))


@pytest.mark.interpreter
@pytest.mark.usefixtures("interpreted")
def test_offsets_beyond_two_to_the_31():
    # The stride fits in 32 bits and three of it do not. Of the memory one page is ever touched.
    gap = 2**30 + 64
    mean = torch.empty(3 * gap + 2, dtype=torch.float16).as_strided((4, 2), (gap, 1))
    mean[3] = torch.tensor([1.0, 2.0])
    _, remoteness = gaussian_log_prob(
        mean, torch.zeros(2), torch.zeros(4, 2), torch.tensor([3]), torch.tensor([1])
    )
    assert remoteness.tolist() == [5.0]


ZEROS = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((ZEROS.long(), ZEROS, ZEROS), TypeError, "mean must be float32 or .*got int64"),
        ((ZEROS[0], ZEROS, ZEROS), ValueError, r"mean must have 2 dim.*\(2,\)"),
        ((ZEROS, torch.zeros(3), ZEROS), ValueError, r"log_std must have shape \(2,\)"),
        ((ZEROS, ZEROS, torch.zeros(3, 1)), ValueError, r"action must have shape \(3, 2\)"),
        ((ZEROS, ZEROS.to("meta"), ZEROS), ValueError, "log_std lies on meta"),
        ((ZEROS, ZEROS, torch.zeros(2, 3).T), ValueError, "action must be dense"),
        ((ZEROS, ZEROS, ZEROS, torch.zeros(2)), TypeError, "index must be int64 or int32"),
        ((ZEROS, ZEROS, ZEROS, torch.arange(4)), ValueError, "index must not be longer"),
        ((ZEROS, ZEROS, ZEROS, torch.tensor([0, 3])), IndexError, r"in \[0, 3\) but holds 3"),
        ((ZEROS, ZEROS, ZEROS, torch.tensor([-1])), IndexError, "but holds -1"),
        ((ZEROS, ZEROS, ZEROS, None, torch.arange(2)), ValueError, "n_rows must hold one integer"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        gaussian_log_prob(*arguments)
