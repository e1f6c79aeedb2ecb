"""Token log-probabilities against log_softmax in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchrl_drpo_kernels import gather_log_prob
from torchrl_drpo_kernels.gather_log_prob import op, reference

SHAPES = [(1, 1), (9, 70), (3, 4097), (5, 3, 33), (4, 2, 4500)]


def make_inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    logits = (torch.randn(shape) * 3).to(device, dtype).requires_grad_()
    action = torch.randint(shape[-1], shape[:-1], device=device)
    if len(shape) == 2:
        return logits, action, None
    mask = torch.rand(shape[:-1], device=device) < 0.6
    return logits, torch.where(mask, action, -1), mask


def exact(
    logits: Tensor, action: Tensor, mask: Tensor | None, rows: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    logits = logits.detach().cpu().double().requires_grad_()
    token = action.cpu().clamp_min(0)[..., None]
    log_prob = logits.log_softmax(-1).gather(-1, token)[..., 0]
    if mask is not None:
        log_prob = (log_prob * mask.cpu()).sum(-1)
    log_prob = log_prob[rows]
    (grad,) = torch.autograd.grad((log_prob * weight.double()).sum(), logits)
    return log_prob.detach(), grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_equal_log_softmax(shape, dtype, device):
    logits, action, mask = make_inputs(shape, dtype, device)
    n = shape[0]
    index, n_rows, weight = torch.randperm(n), max(1, n * 2 // 3), torch.randn(n)
    log_prob = gather_log_prob(
        logits, action, mask, index.int().to(device), torch.tensor([n_rows], device=device)
    )
    (log_prob * weight.to(device)).sum().backward()
    want, grad = exact(logits, action, mask, index[:n_rows], weight[:n_rows])
    assert log_prob.dtype == torch.float32
    assert logits.grad.dtype == dtype
    assert not log_prob[n_rows:].any()
    torch.testing.assert_close(
        log_prob[:n_rows].detach().cpu().double(), want, rtol=2e-6, atol=1e-5
    )
    rounding = 1e-6 if dtype == torch.float32 else 1e-3
    torch.testing.assert_close(logits.grad.cpu().double(), grad, rtol=rounding, atol=rounding)


def test_all_rows_without_index(device):
    logits, action, _ = make_inputs((6, 11), torch.float32, device)
    expected = -torch.nn.functional.cross_entropy(logits, action, reduction="none")
    torch.testing.assert_close(gather_log_prob(logits, action), expected)
    first_two = gather_log_prob(logits, action, n_rows=torch.tensor(2, device=device))
    torch.testing.assert_close(first_two[:2], expected[:2])
    assert not first_two[2:].any()


def test_logits_that_differ_by_thousands_neither_overflow_nor_vanish(device):
    logits = torch.tensor([[1e4, 0.0, -1e4], [-math.inf, 5.0, 5.0]], device=device)
    log_prob = gather_log_prob(logits, torch.tensor([1, 2], device=device))
    assert log_prob.tolist() == pytest.approx([-1e4, -math.log(2)], rel=1e-6)


def test_padding_and_dropped_rows_may_hold_anything(device):
    logits = torch.zeros(3, 2, 4, device=device)
    logits[0, 1] = math.nan
    logits[1] = math.nan
    logits.requires_grad_()
    action = torch.tensor([[2, -1], [99, 99], [0, 1]], device=device)
    mask = torch.tensor([[True, False], [True, True], [True, True]], device=device)
    index, n_rows = torch.tensor([0, 2, 0], device=device), torch.tensor([2], device=device)
    log_prob = gather_log_prob(logits, action, mask, index, n_rows)
    log_prob.sum().backward()
    assert log_prob.tolist() == pytest.approx([math.log(1 / 4), math.log(1 / 16), 0.0])
    want = torch.full((3, 2, 4), -0.25)
    want[0, 1] = want[1] = 0.0
    want[0, 0, 2] = want[2, 0, 0] = want[2, 1, 1] = 0.75
    torch.testing.assert_close(logits.grad.cpu(), want)


@pytest.mark.parametrize("empty", ["n_rows", "mask"])
def test_an_empty_selection_gives_zeros(empty, device):
    logits, action, mask = make_inputs((4, 3, 5), torch.float32, device)
    if empty == "mask":
        log_prob = gather_log_prob(logits, action, torch.zeros_like(mask))
    else:
        log_prob = gather_log_prob(logits, action, mask, None, torch.tensor([0], device=device))
    log_prob.sum().backward()
    assert not log_prob.any()
    assert not logits.grad.any()


@pytest.mark.parametrize("shape", [(0, 5), (0, 3, 5), (4, 0, 5)], ids=str)
def test_no_rows_and_no_tokens(shape, device):
    logits, action, _ = make_inputs(shape, torch.float32, device)
    log_prob = gather_log_prob(logits, action)
    log_prob.sum().backward()
    assert torch.equal(log_prob, log_prob.new_zeros(shape[0]))
    assert logits.grad.shape == shape


def test_blocks_of_rows_change_nothing(monkeypatch):
    logits, action, mask = make_inputs((13, 3, 17), torch.float32, torch.device("cpu"))
    index = torch.randperm(13)
    results = []
    for size in (reference.BLOCK_BYTES, 4 * 3 * 17 * 4):  # one block, and blocks of four rows
        monkeypatch.setattr(reference, "BLOCK_BYTES", size)
        log_prob = gather_log_prob(logits, action, mask, index)
        (grad,) = torch.autograd.grad(log_prob.square().sum(), logits)
        results.append((log_prob, grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, under the interpreter, of inf
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lanes_that_see_odd_values_first_or_last(dtype, device, monkeypatch):
    """Each lane of a tile keeps a maximum and a sum: what it meets first must not matter."""
    if op.HAS_TRITON:
        monkeypatch.setattr(op.kernel, "MAX_TILE", 64)
    low = torch.finfo(dtype).min
    logits = torch.randn(6, 200)
    logits[0, :130] = -math.inf  # excluded before and after
    logits[1, 70:] = -math.inf
    logits[2, :130], logits[3, 70:] = low, low  # what masks are often filled with
    logits[4, 3], logits[5, 150] = -low, math.nan
    logits = logits.to(device, dtype)
    action = torch.tensor([140, 5, 150, 6, 3, 7], device=device)
    want = logits.double().log_softmax(-1).gather(-1, action[:, None])[:, 0]
    found = gather_log_prob(logits, action).double()
    torch.testing.assert_close(found, want, rtol=2e-6, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 5)], ids=str)
def test_first_and_second_derivatives_by_finite_differences(shape):
    logits, action, mask = make_inputs(shape, torch.float64, torch.device("cpu"))
    index, n_rows = torch.tensor([3, 0, 2]), torch.tensor([2])

    def log_prob(logits: Tensor) -> Tensor:
        return gather_log_prob(logits, action, mask, index, n_rows)

    assert torch.autograd.gradcheck(log_prob, (logits,))
    assert torch.autograd.gradgradcheck(log_prob, (logits,))


def test_ops_are_well_formed(device):
    logits, action, mask = make_inputs((5, 3, 7), torch.float32, device)
    rows = torch.arange(5, device=device), torch.tensor([4], device=device)
    torch.library.opcheck(op._gather_log_prob, (logits, action, mask, *rows))
    torch.library.opcheck(op._gather_log_prob, (logits, action.clamp_min(0), None, None, None))
    lse = logits.detach().logsumexp(-1)
    arguments = (torch.randn(5, device=device), logits.detach(), lse, action, mask, *rows)
    torch.library.opcheck(op._backward, arguments)


def test_compiled_equals_eager(device):
    logits, action, mask = make_inputs((6, 2, 9), torch.float32, device)
    index, n_rows = torch.arange(6, device=device).flip(0), torch.tensor([4], device=device)

    def loss(logits: Tensor) -> Tensor:
        return gather_log_prob(logits * 2.0, action, mask, index, n_rows).square().sum()

    results = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        value = run(logits)
        results.append((value, *torch.autograd.grad(value, logits)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_strided_logits_are_read_in_place(device):
    wide = torch.randn(4, 6, 20, device=device)
    logits, action = wide[:, ::2, :7], torch.randint(7, (4, 3), device=device)
    want = logits.log_softmax(-1).gather(-1, action[..., None])[..., 0].sum(-1)
    torch.testing.assert_close(gather_log_prob(logits, action), want)


@pytest.mark.interpreter
@pytest.mark.usefixtures("interpreted")
def test_offsets_beyond_two_to_the_31():
    # The stride fits in 32 bits and three of it do not. Of the memory two pages are ever touched.
    gap, size = 2**30 + 64, 16
    logits = torch.empty(3 * gap + size, dtype=torch.float16).as_strided((4, size), (gap, 1))
    logits[0], logits[3] = 0.0, torch.arange(size)
    index = torch.tensor([3, 0])
    log_prob = gather_log_prob(logits, torch.full((4,), 3), index=index)
    want = torch.stack([torch.arange(float(size)), torch.zeros(size)]).log_softmax(1)[:, 3]
    torch.testing.assert_close(log_prob, want)


LOGITS, ACTION = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((LOGITS.int(), ACTION), TypeError, "logits must be float32 or .*got int32"),
        ((LOGITS[0, 0], ACTION), ValueError, "logits must have 2 or 3 dim"),
        ((LOGITS[:, 0], ACTION), ValueError, "action must have 1 dim"),
        ((LOGITS, ACTION[:, :2]), ValueError, r"action must have shape \(2, 3\)"),
        ((LOGITS, ACTION.float()), TypeError, "action must be int64 or int32"),
        ((LOGITS, ACTION.to("meta")), ValueError, "action lies on meta"),
        ((LOGITS.mT.contiguous().mT, ACTION), ValueError, "logits must be dense"),
        ((LOGITS[..., :0], ACTION), ValueError, "at least one item"),
        ((LOGITS[:, 0], ACTION[0, :2], ACTION > 0), ValueError, "mask is for sequences"),
        ((LOGITS, ACTION, ACTION), TypeError, "mask must be bool"),
        ((LOGITS, ACTION, ACTION[:, :1] > 0), ValueError, r"mask must have shape \(2, 3\)"),
        ((LOGITS, ACTION, None, torch.tensor([5])), IndexError, r"index must lie in \[0, 2\)"),
        ((LOGITS, ACTION + 4), ValueError, r"in \[0, 4\) but row 0, token 0, holds 4"),
        ((LOGITS, ACTION - 1), ValueError, "holds -1; .* leave padding to a mask"),
    ],
)
def test_bad_input_is_named(arguments, error, message, device):
    if device.type == "cuda":
        pytest.skip("values are looked at on a CPU only")
    with pytest.raises(error, match=message):
        gather_log_prob(*arguments)
