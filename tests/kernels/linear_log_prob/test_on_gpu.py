"""linear_log_prob on a GPU at the sizes of its tile table, where the interpreter cannot go."""

from __future__ import annotations

import pytest
import torch
from torchrl_drpo_kernels import linear_log_prob
from torchrl_drpo_kernels.linear_log_prob import dispatch, reference, shapes

from tests.gpu import no_host_reads
from tests.kernels.linear_log_prob.cases import GPU_TOLERANCE, eager, make, run

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def tf32():
    """float32 goes through the kernels too."""
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("aligned", [True, False], ids=["descriptors", "pointers"])
def test_every_tile_of_the_table(width, aligned, dtype):
    live = 517
    hidden, items, action, n_rows, bias = make(
        (700, 5001, width if aligned else width - 3, live, True), CUDA, dtype
    )
    assert dispatch.takes_kernel(hidden)
    holds(hidden, items, action, n_rows, bias, live)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("rows", "width"), [(5000, 300), (70, 1024), (4097, 512)])
def test_products_in_their_own_tiles(rows, width, dtype):
    """More than one tile of rows or of items, the last of them ragged."""
    live = rows - 17
    given = make((rows, 20_001, width, live, True), CUDA, dtype)
    assert not dispatch.takes_kernel(given[0])
    assert dispatch.takes_products(given[0])
    holds(*given, live)


def test_products_without_tf32():
    torch.set_float32_matmul_precision("highest")
    hidden, items, action, n_rows, bias = make((700, 5001, 64, 517, True), CUDA, torch.float32)
    assert not dispatch.takes_kernel(hidden)
    assert dispatch.takes_products(hidden)
    holds(hidden, items, action, n_rows, bias, 517)


def holds(hidden, items, action, n_rows, bias, live):
    """Little worse than eager against float64, and the same bits twice."""
    dtype = hidden.dtype
    double = [x.double() for x in (hidden, items, bias)]
    exact = run(reference.linear_log_prob, *double[:2], action, n_rows, double[2])
    plain = run(eager, hidden[:live], items, action[:live], None, bias)
    found = run(linear_log_prob, hidden, items, action, n_rows, bias)
    for i, (ours, true, theirs) in enumerate(zip(found, exact, plain, strict=True)):
        if i < 3:
            assert not ours[live:].any()
            ours, true = ours[:live], true[:live]
        allowed = (theirs - true).abs().amax() + GPU_TOLERANCE[dtype] * (1 + true.abs().amax())
        assert (ours - true).abs().amax() <= allowed
    again = run(linear_log_prob, hidden, items, action, n_rows, bias)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("width", [256, 300], ids=["kernel", "products"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_nothing_is_read_back(width, dtype):
    hidden, items, action, n_rows, bias = make((200, 999, width, 70, True), CUDA, dtype)
    leaves = [x.requires_grad_() for x in (hidden, items, bias)]
    index = torch.randperm(200, device=CUDA)

    def step():
        rest = {"bias": bias, "index": index}
        loss = linear_log_prob(hidden, items, action, n_rows, **rest)[0].sum()
        return loss, *torch.autograd.grad(loss, leaves)

    warm = step()
    with no_host_reads():
        found = step()
    for a, b in zip(warm, found, strict=True):
        torch.testing.assert_close(a, b)


def test_memory_does_not_grow_with_rows_times_items():
    hidden, items, action, *_ = make((2048, 50_000, 64, None, False), CUDA, torch.bfloat16)
    leaves = [x.requires_grad_() for x in (hidden, items)]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(linear_log_prob(hidden, items, action)[0].sum(), leaves)
    added = torch.cuda.max_memory_allocated() - before
    tile = shapes.tile_of("mean", shapes.architecture(hidden), 64, 2, descriptors=True)
    parts = (2 * shapes.programs(hidden) + 2048 // tile.rows) * tile.rows * (64 + 2) * 4
    gradients = sum(x.numel() * x.element_size() for x in leaves)
    assert added < parts + 4 * gradients + 2**20
    assert added < 2048 * 50_000 * 2 / 4  # the logits in bfloat16 alone
