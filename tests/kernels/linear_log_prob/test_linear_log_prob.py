"""linear_log_prob in every implementation against float64, with all logits kept."""

from __future__ import annotations

import pytest
import torch
from torchrl_drpo_kernels import linear_log_prob, reference_only
from torchrl_drpo_kernels._common import HAS_TRITON
from torchrl_drpo_kernels.linear_log_prob import reference

from tests.kernels.linear_log_prob.cases import (
    CASES,
    GPU_TOLERANCE,
    TOLERANCE,
    T,
    close,
    eager,
    make,
    run,
    slopes,
)

pytestmark = pytest.mark.usefixtures("small_tiles")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_no_worse_than_eager(case, dtype, device):
    if dtype == torch.bfloat16 and device.type == "cpu":
        pytest.skip("the interpreter multiplies it wrongly, and ATen widens it as float16")
    hidden, items, action, n_rows, bias = make(case, device, dtype)
    double = [None if x is None else x.double() for x in (hidden, items, bias)]
    exact = run(reference.linear_log_prob, double[0], double[1], action, n_rows, double[2])
    found = run(linear_log_prob, hidden, items, action, n_rows, bias)
    live = case[0] if case[3] is None else case[3]
    if live == 0:
        assert not any(x.any() for x in found)
        return
    plain = run(eager, hidden[:live], items, action[:live], None, bias)
    for i, (ours, true, theirs) in enumerate(zip(found, exact, plain, strict=True)):
        if i < 3:  # log_prob, lse and the gradient of hidden have rows
            assert not ours[live:].any()
            ours, true = ours[:live], true[:live]
        eager_error = (theirs - true).abs().amax()
        tolerance = (GPU_TOLERANCE if device.type == "cuda" else TOLERANCE)[dtype]
        allowed = eager_error + tolerance * (1 + true.abs().amax())
        assert (ours - true).abs().amax() <= allowed


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, under the interpreter, of inf
@pytest.mark.parametrize("width", [16, 300])
def test_dead_rows_may_hold_anything(width, device):
    hidden, items, action, n_rows, bias = make((40, 97, width, 23, True), device)
    expected = run(linear_log_prob, hidden, items, action, n_rows, bias)
    hidden[23:], action[23:] = torch.inf, -7
    found = run(linear_log_prob, hidden, items, action, n_rows, bias)
    for ours, before in zip(found, expected, strict=True):
        assert torch.equal(ours, before)


def test_n_rows_beyond_the_batch_or_below_zero_is_clamped(device):
    hidden, items, action, _, _ = make((9, 30, 16, None, False), device)
    every = linear_log_prob(hidden, items, action)
    for count, live in ((99, 9), (-3, 0)):
        n_rows = torch.tensor(count, dtype=torch.int32, device=device)
        found = linear_log_prob(hidden, items, action, n_rows)
        for ours, whole in zip(found, every, strict=True):
            assert torch.equal(ours[:live], whole[:live])
            assert not ours[live:].any()


def test_index_takes_rows_of_a_selection(device):
    hidden, items, action, _, bias = make((40, 97, 16, None, True), device)
    index = torch.tensor([3, 17, 31, 0, 0], dtype=torch.int32, device=device)
    n_rows = torch.tensor([3], device=device)
    hidden.requires_grad_()
    found = linear_log_prob(hidden, items, action, n_rows, bias, index=index)[0]
    rows = index[:3].long()
    expected = reference.linear_log_prob(hidden[rows], items, action[rows], None, bias)[0]
    close(found[:3], expected, device, rtol=1e-4, atol=1e-5)
    assert not found[3:].any()
    grad, wanted = (torch.autograd.grad(x.sum(), hidden)[0] for x in (found, expected))
    close(grad, wanted, device, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("width", [16, 300])
def test_a_popular_item(width, device):
    """Far more rows name it than are gathered at a time, among them the first and the last."""
    hidden, items, action, n_rows, bias = make((80, 97, width, 75, True), device)
    action[torch.rand(80, device=device) < 0.8] = 40
    action[0] = action[74] = 40
    double = [x.double() for x in (hidden, items, bias)]
    exact = run(reference.linear_log_prob, *double[:2], action, n_rows, double[2])
    found = run(linear_log_prob, hidden, items, action, n_rows, bias)
    for ours, true in zip(found, exact, strict=True):
        close(ours, true, device, scale=true.abs().max().item(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [16, 300])
@pytest.mark.parametrize("signs", ["positive", "negative", "one negative", "zero"])
def test_gradients_of_either_sign(signs, width, device):
    """Rows that pull and rows that push: the items' gradient knows the first by a shorter way."""
    hidden, items, action, n_rows, bias = make((80, 97, width, 75, True), device)
    weight = torch.rand(80, dtype=torch.float64, device=device) + 0.1
    weight[::7] = 0
    weight[75:] = -torch.inf  # of dead rows
    if signs == "negative":
        weight = -weight
    if signs == "one negative":
        weight[74] *= -1
    if signs == "zero":
        weight[:75] = 0

    def gradients(function, hidden, items, bias):
        leaves = [x.clone().requires_grad_() for x in (hidden, items, bias)]
        log_prob = function(*leaves[:2], action, n_rows, leaves[2])[0]
        return torch.autograd.grad(log_prob, leaves, weight.to(log_prob.dtype))

    found = gradients(linear_log_prob, hidden, items, bias)
    double = [x.double() for x in (hidden, items, bias)]
    for ours, true in zip(found, gradients(reference.linear_log_prob, *double), strict=True):
        scale = true.abs().max().item() + 1e-3
        close(ours.double(), true, device, scale=scale, rtol=1e-4, atol=1e-4)


def test_the_library_s_order_is_that_of_counting(device, monkeypatch):
    """Of more rows than are worth counting; the same order adds up to the same bits."""
    given = make((80, 97, 16, 75, True), device)
    given[2][torch.rand(80, device=device) < 0.5] = 40
    counted = run(linear_log_prob, *given)
    if HAS_TRITON:
        from torchrl_drpo_kernels.linear_log_prob import kernel_order

        monkeypatch.setattr(kernel_order, "COUNTED_ROWS", 10)
    sorted_ = run(linear_log_prob, *given)
    assert all(torch.equal(a, b) for a, b in zip(counted, sorted_, strict=True))


@pytest.mark.parametrize("width", [16, 300])
def test_excluded_items(width, device):
    hidden, items, action, _, _ = make((20, 130, width, None, False), device)
    bias = torch.zeros(130, device=device)
    bias[:64] = -torch.inf  # whole first tiles
    bias[100] = -torch.inf
    action = action.clamp(101)
    found = run(linear_log_prob, hidden, items, action, None, bias)
    kept = torch.isfinite(bias)
    place = (kept.cumsum(0) - 1)[action]
    expected = run(linear_log_prob, hidden, items[kept], place, None, bias[kept])
    for i, (ours, whole) in enumerate(zip(found, expected, strict=True)):
        rows = ours if i < 3 else ours[kept]
        close(rows, whole, device, rtol=1e-4, atol=1e-4)
        assert i < 3 or not ours[~kept].any()
    assert (linear_log_prob(hidden, items, action * 0, None, bias)[0] == -torch.inf).all()


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_flat_and_peaked_scores(scale, device):
    hidden, items, action, _, _ = make((33, 150, 16, None, False), device)
    items = (items * scale + 5).half().float()  # a common mean, as real item tables have
    action[:5] = (hidden[:5] @ items.T).argmax(-1)
    found = run(linear_log_prob, hidden, items, action, None, None)
    exact = run(reference.linear_log_prob, hidden.double(), items.double(), action, None, None)
    for ours, true in zip(found, exact, strict=True):
        close(
            ours, true, device, scale=items.abs().max().item(), rtol=1e-3, atol=2e-4 * max(scale, 1)
        )
    assert (found[0] <= 0).all()


@pytest.mark.parametrize("width", [32, 300])
def test_same_bits_every_time(width, device):
    given = make((70, 200, width, 50, True), device)
    first, second = run(linear_log_prob, *given), run(linear_log_prob, *given)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("width", [16, 300])
def test_only_what_is_asked_for_is_computed(width, device):
    hidden, items, action, _, bias = make((9, 30, width, None, True), device)
    whole = run(linear_log_prob, hidden, items, action, None, bias)
    for wanted in ((True, False, False), (False, True, False), (False, False, True)):
        leaves = [x.clone() for x in (hidden, items, bias)]
        leaves[wanted.index(True)].requires_grad_()
        weights = slopes(9, hidden.device)
        outputs = linear_log_prob(leaves[0], leaves[1], action, None, leaves[2], 1 / T)
        loss = sum((w * out.double()).sum() for w, out in zip(weights, outputs, strict=True))
        leaf = leaves[wanted.index(True)]
        grad = torch.autograd.grad(loss, leaf)[0]
        close(grad.double(), whole[2 + wanted.index(True)], device)
    with torch.no_grad():
        outputs = linear_log_prob(hidden, items, action, None, bias, 1 / T)
    close(outputs[0].double(), whole[0], device)


def test_second_derivatives(device):
    if device.type == "cuda":
        pytest.skip("float64 takes the same path as on the CPU")
    hidden, items, action, _, bias = make((5, 7, 3, None, True), device, torch.float64)
    leaves = [x.requires_grad_() for x in (hidden, items, bias)]
    for n_rows in (None, torch.tensor([3])):

        def function(h, e, b, n_rows=n_rows):
            return linear_log_prob(h, e, action, n_rows, b, 1 / T)

        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("width", [16, 300])
def test_autocast_changes_nothing(width, device):
    given = make((20, 60, width, 13, True), device)
    exact = run(linear_log_prob, *given)

    def under_autocast(*arguments):  # backward runs outside, as torch advises
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return linear_log_prob(*arguments)

    found = run(under_autocast, *given)
    assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("width", [16, 300])
def test_reference_only_forces_the_reference(width, device):
    given = make((20, 60, width, None, True), device)
    with reference_only():
        forced = run(linear_log_prob, *given)
    for ours, whole in zip(forced, run(linear_log_prob, *given), strict=True):
        close(ours, whole, device, rtol=1e-3, atol=1e-3)
