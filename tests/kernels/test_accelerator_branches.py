"""What an accelerator runs of each op, on meta tensors: they have a shape and no values.

Launches are left out; everything around them is real. A read of a value is an error there, as it
is a wait on a GPU, and what an op returns must be what ``torch.compile`` is told that it returns.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl_drpo_kernels import _common
from torchrl_drpo_kernels.drpo_loss import catalogue, gather, gaussian
from torchrl_drpo_kernels.gather_log_prob import op as gather_op
from torchrl_drpo_kernels.gaussian_log_prob import op as gaussian_op
from torchrl_drpo_kernels.linear_log_prob import dispatch
from torchrl_drpo_kernels.linear_log_prob import op as linear_op
from torchrl_drpo_kernels.select import op as select_op
from torchrl_drpo_kernels.select.rule import Rule
from torchrl_drpo_kernels.signed_taper import op as taper_op

jit = pytest.importorskip("triton.runtime.jit")
HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float32, torch.float64


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """Names of the kernels that would have been launched."""
    if _common.INTERPRETED:
        pytest.skip("under the interpreter they are")
    names = []

    def leave_out(kernel, grid):
        return lambda *arguments, **options: names.append(kernel.fn.__name__)

    monkeypatch.setattr(jit.JITFunction, "__getitem__", leave_out)
    monkeypatch.setattr(_common, "INTERPRETED", True)  # that is where ``uses_triton`` looks
    return names


def meta(*shape, dtype=SINGLE):
    return torch.empty(shape, dtype=dtype, device="meta")


def run(op, *arguments):
    """The op's own code, held against what is registered for shapes, types and strides."""
    found, told = op._init_fn(*arguments), op(*arguments)
    if isinstance(found, torch.Tensor):
        found, told = (found,), (told,)
    for ours, wanted in zip(found, told, strict=True):
        assert (ours.shape, ours.dtype, ours.stride()) == (
            wanted.shape,
            wanted.dtype,
            wanted.stride(),
        )
    given = [x for x in arguments if isinstance(x, torch.Tensor)]
    held = [x.untyped_storage()._cdata for x in (*found, *given)]
    assert len(set(held[: len(found)])) == len(found), "two outputs share memory"
    assert not set(held[: len(found)]) & set(held[len(found) :]), "an input is returned"
    return found


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("dtype", [HALF, SINGLE, DOUBLE], ids=str)
@pytest.mark.parametrize(("n", "v", "d"), [(70, 200, 32), (1, 1, 300), (0, 9, 16), (5000, 9, 300)])
def test_linear_log_prob(n, v, d, dtype, counted, biased, launched):
    hidden, items = meta(n, d, dtype=dtype), meta(v, d, dtype=dtype)
    action = meta(n, dtype=torch.int64)
    n_rows = meta(1, dtype=torch.int32) if counted else None
    bias = meta(v, dtype=dtype) if biased else None
    head = hidden, items, action, n_rows, bias, 1.3
    for need_mean in (False, True):
        log_prob, lse, mean, scores = run(linear_op._linear_log_prob, *head, need_mean, False)
    rest = lse, mean, scores, log_prob, log_prob
    for need in product((False, True), repeat=3):
        if biased or not need[2]:
            run(linear_op._linear_log_prob_backward, *head, *rest, *need)
    kernels = {"sweep_kernel", "merge_kernel", "order_kernel", "items_kernel", "hidden_kernel"}
    if not dispatch.takes_kernel(hidden):
        kernels = {"soften_kernel", "slope_kernel"} if dispatch.takes_products(hidden) else set()
    assert set(launched) == (kernels if n else kernels & {"order_kernel", "items_kernel"})


@pytest.mark.parametrize("dtype", [HALF, SINGLE, DOUBLE], ids=str)
@pytest.mark.parametrize("max_rows", [70, 9])
@pytest.mark.parametrize("d", [32, 300])
def test_drpo_catalogue_loss(d, max_rows, dtype, launched):
    hidden, items, bias = meta(70, d, dtype=dtype), meta(200, d, dtype=dtype), meta(200)
    action, mask = meta(70, dtype=torch.int64), meta(70, dtype=torch.bool)
    head = hidden, items, action, bias, 1.3
    found = run(
        catalogue._drpo_catalogue_loss,
        *head, True, meta(70), mask, meta(1), max_rows, *Rule().parts,
    )  # fmt: skip
    _, _, slope, lse, mean, index, _, _, counts = found
    for need in ((True, True, True), (True, False, False), (False, True, False)):
        run(catalogue._backward, slope, *head, lse, mean, index, counts, *need)
    assert {"select_kernel"} <= set(launched)
    assert ("loss_kernel" in launched) == (dtype != DOUBLE)


class Written(TorchDispatchMode):
    """Adds to ``names`` what ATen would launch: whatever is neither a view nor memory alone."""

    def __init__(self, names):
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, op, types, arguments=(), options=None):
        found = op(*arguments, **(options or {}))
        free = op.is_view or "empty" in op.name()
        if isinstance(found, torch.Tensor) and not free:
            self.names.append(op.name().split("::")[1].split(".")[0])
        return found


@pytest.mark.parametrize("max_rows", [410, 4096])
def test_a_step_over_a_catalogue_is_few_launches(max_rows, launched):
    head = meta(4096, 256, dtype=HALF), meta(5000, 256, dtype=HALF), meta(4096, dtype=torch.int64)
    selected = meta(4096), None, meta(1), max_rows, *Rule().parts
    with Written(launched):
        found = catalogue._drpo_catalogue_loss._init_fn(*head, None, 1.0, True, *selected)
    pack = ["index_select"] * 2
    assert launched == ["select_kernel", *pack, "sweep_kernel", "merge_kernel", "loss_kernel"]
    launched.clear()
    _, _, slope, lse, mean, index, _, _, counts = found
    rest = lse, mean, index, counts, True, True, False
    with Written(launched):
        catalogue._backward._init_fn(slope, *head, None, 1.0, *rest)
    hidden = ["neg", "new_zeros", "hidden_kernel"]
    assert launched == [*pack, *hidden, "order_kernel", "items_kernel"]


@pytest.mark.parametrize("n", [1, 320, 40_000])
def test_select(n, launched):
    rule = Rule()
    numbers = rule.numbers
    options = (rule.weighting, rule.ties, numbers[0], rule.normalize, *numbers[1:])
    run(select_op._select, meta(n), meta(n, dtype=torch.bool), meta(1), *options)
    assert launched[-1] == ("finish_kernel" if n == 40_000 else "select_kernel")


@pytest.mark.parametrize("dtype", [HALF, SINGLE], ids=str)
@pytest.mark.parametrize(("n", "t", "v"), [(9, 3, 70), (4, 1, 4500), (0, 3, 5), (4, 0, 5)])
def test_gather_log_prob(n, t, v, dtype):
    logits, action = meta(n, t, v, dtype=dtype), meta(n, t, dtype=torch.int64)
    mask, index = meta(n, t, dtype=torch.bool), meta(n, dtype=torch.int32)
    for rest in ((None, None, None), (mask, index, meta(1, dtype=torch.int32))):
        log_prob, lse = run(gather_op._gather_log_prob, logits, action, *rest)
        run(gather_op._backward, log_prob, logits, lse, action, *rest)
    tail = meta(n), None, meta(1), n, *Rule().parts
    run(gather._drpo_gather_loss, logits, action, mask, *tail)


@pytest.mark.parametrize("dtype", [HALF, SINGLE], ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_gaussian_log_prob(shared, dtype):
    mean, action = meta(70, 5, dtype=dtype), meta(70, 5)
    log_std = meta(5) if shared else meta(70, 5)
    head = mean, log_std, action
    for rest in ((None, None), (meta(70, dtype=torch.int32), meta(1, dtype=torch.int32))):
        log_prob, _ = run(gaussian_op._gaussian_log_prob, *head, *rest)
        run(gaussian_op._backward, log_prob, *head, *rest)
    run(gaussian._drpo_gaussian_loss, *head, meta(70), None, meta(1), 9, *Rule().parts)


@pytest.mark.parametrize("dtype", [HALF, SINGLE], ids=str)
def test_signed_taper(dtype, launched):
    rows = [meta(9, dtype=dtype) for _ in range(3)]
    for thresholds in (None, meta(9)):
        run(taper_op._signed_taper, *rows, thresholds, "reciprocal", 1.0, 0.5, 2.0, 1.0, 1.0)
    assert launched == ["signed_taper_kernel"] * 2
