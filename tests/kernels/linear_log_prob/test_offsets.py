"""Offsets beyond 2^31 elements, without the memory that they would take.

The tensors are strided views of sparse files: four rows, 2^30 elements apart. An int32 offset of
the last row would be negative, and the kernel would read or write somewhere else.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torchrl_drpo_kernels import linear_log_prob
from torchrl_drpo_kernels.linear_log_prob import arguments, reference, shapes
from torchrl_drpo_kernels.linear_log_prob.problem import Problem, Slopes

STRIDE, ROWS, D = 2**30, 4, 16


@pytest.fixture(params=["descriptors", "pointers"])
def far_apart(request, tmp_path):
    """``far_apart(values [4, 16]) -> `` the same matrix, its rows 2^30 elements apart."""
    stride = STRIDE if request.param == "descriptors" else STRIDE + 1  # not 16-byte aligned

    def place(values):
        size = stride * (ROWS - 1) + D
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.bin"
        with path.open("wb") as file:
            file.truncate(size * 4)  # sparse: holes take no disk
        storage = torch.from_file(str(path), shared=True, size=size, dtype=torch.float32)
        return storage.as_strided((ROWS, D), (stride, 1)).copy_(values)

    return place


@pytest.mark.parametrize("need_bias", [False, True])
@pytest.mark.interpreter
@pytest.mark.usefixtures("interpreted")
def test_int64_offsets(far_apart, need_bias):
    from torchrl_drpo_kernels.linear_log_prob import kernel, kernel_backward

    hidden, items = torch.randn(ROWS, D), torch.randn(ROWS, D)
    far_hidden, far_items = far_apart(hidden), far_apart(items)
    bias = torch.randn(ROWS) if need_bias else None
    action = torch.arange(ROWS).flip(0)
    assert far_items.stride(0) * (ROWS - 1) > 2**31
    near_problem = Problem(hidden, items, action, None, bias, 1.0)
    far_problem = Problem(far_hidden, far_items, action, None, bias, 1.0)
    near, far = kernel.forward(near_problem, True), kernel.forward(far_problem, True)
    expected = reference.linear_log_prob(hidden, items, action, None, bias)
    for ours, there, true in zip(near, far, expected, strict=True):
        assert torch.equal(ours, there)
        torch.testing.assert_close(ours, true)
    slopes = Slopes(near[1], *torch.randn(2, ROWS))
    near_grad = kernel_backward.items_gradient(near_problem, slopes, need_bias)
    out = far_apart(torch.zeros(ROWS, D))
    far_grad = kernel_backward.items_gradient(far_problem, slopes, need_bias, out=out)
    assert far_grad[0] is out
    assert all(torch.equal(a, b) for a, b in zip(near_grad, far_grad, strict=True))


def test_a_catalogue_of_a_billion_items_has_shapes():
    with FakeTensorMode():
        hidden = torch.empty(2**20, 64, requires_grad=True)
        items = torch.empty(2**30, 64, requires_grad=True)
        log_prob, _ = linear_log_prob(hidden, items, torch.zeros(2**20, dtype=torch.long))
        log_prob.sum().backward()
        assert log_prob.shape == (2**20,)
        assert items.grad.shape == (2**30, 64)
        with pytest.raises(ValueError, match="between 1 and"):
            linear_log_prob(hidden, torch.empty(2**31, 64), torch.zeros(2**20).long())


def test_the_parts_of_the_largest_catalogue_end_below_two_to_the_31():
    """kernel.py multiplies in int32: where a part ends is at most ``parts`` tiles too far."""
    most = 2 * 304  # parts: two a multiprocessor of the largest card known
    tables = (*shapes._HALF.values(), *shapes._SINGLE.values())
    widths = {tile.items for table in tables for kind in ("mean", "value") for tile in table[kind]}
    for width in widths:
        tiles = -(-arguments.MAX_ITEMS // width)
        for parts in range(1, most + 1):
            share = -(-tiles // parts)
            assert -(-tiles // share) * share * width < 2**31
