"""What a GPU's first call would compile does compile: the launchers run, the launch is left out.

A launcher passes ``None`` for what is absent, and Triton makes a constant of every integer that
is 1 and tells the compiler of those that 16 divides. The other files here compile one variant of
each kernel; this one lets Triton bind the arguments of real calls, for an H100 that is not there.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch

triton = pytest.importorskip("triton")

from torchrl_drpo_kernels._common import INTERPRETED  # noqa: E402
from torchrl_drpo_kernels.drpo_loss import kernel as loss  # noqa: E402
from torchrl_drpo_kernels.gather_log_prob import kernel as gather  # noqa: E402
from torchrl_drpo_kernels.gaussian_log_prob import kernel as gaussian  # noqa: E402
from torchrl_drpo_kernels.linear_log_prob import kernel as linear  # noqa: E402
from torchrl_drpo_kernels.linear_log_prob import (  # noqa: E402
    kernel_backward as linear_backward,
)
from torchrl_drpo_kernels.linear_log_prob import products  # noqa: E402
from torchrl_drpo_kernels.linear_log_prob.problem import Problem, Slopes  # noqa: E402
from torchrl_drpo_kernels.linear_log_prob.shapes import MAX_WIDTH  # noqa: E402
from torchrl_drpo_kernels.select import kernel as selection  # noqa: E402
from torchrl_drpo_kernels.select import many_programs  # noqa: E402
from torchrl_drpo_kernels.select.rule import TIES, WEIGHTINGS, Rule  # noqa: E402
from torchrl_drpo_kernels.signed_taper import kernel as taper  # noqa: E402
from torchrl_drpo_kernels.signed_taper.reference import TAPERS, Taper  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver, jit  # noqa: E402

slow = pytest.mark.slow


class _AbsentH100:
    """As much of a driver as binding and compiling ask for."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 1000  # what is bound and compiled is cached by device: away from real ones

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def compiled(monkeypatch):
    """Names of the kernels that were launched, each compiled and not run."""
    if INTERPRETED:
        pytest.skip("nothing is compiled under the interpreter")
    names = []

    def compile_only(kernel, grid):
        def launch(*arguments, **options):
            found = kernel.run(*arguments, grid=grid, warmup=True, **options)
            assert found.asm["cubin"]
            names.append(kernel.fn.__name__)
            return found

        return launch

    previous = driver._active
    driver.set_active(_AbsentH100())
    monkeypatch.setattr(jit.JITFunction, "__getitem__", compile_only)
    for module in (linear, linear_backward):
        monkeypatch.setattr(module, "architecture", lambda matrix: "sm_90")
    monkeypatch.setattr(linear, "programs", lambda matrix: 132)
    yield names
    driver.set_active(previous)


def rows_of(n, selected):
    """``index`` and ``n_rows``: none, or as a selection gives them."""
    if not selected:
        return None, None
    return torch.zeros(n, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)


RULES = [("linear", "fraction"), *(pytest.param(*r, marks=slow) for r in product(WEIGHTINGS, TIES))]


@pytest.mark.parametrize("n", [1, pytest.param(320, marks=slow), pytest.param(4001, marks=slow)])
@pytest.mark.parametrize("masked", [False, pytest.param(True, marks=slow)])
@pytest.mark.parametrize(("weighting", "ties"), RULES)
def test_select(compiled, n, masked, weighting, ties):
    mask = torch.ones(n, dtype=torch.bool) if masked else None
    selection.select(torch.zeros(n), mask, torch.ones(1), Rule(weighting, ties))
    assert compiled == ["select_kernel"]


@pytest.mark.parametrize("n", [32_769, pytest.param(1_000_000, marks=slow)])
@pytest.mark.parametrize("masked", [False, pytest.param(True, marks=slow)])
def test_select_by_many_programs(compiled, n, masked):
    mask = torch.ones(n, dtype=torch.bool) if masked else None
    many_programs.select(torch.zeros(n), mask, torch.ones(1), Rule("exponential", "first"))
    names = ["histogram_kernel"] * 4 + ["moments_kernel", "emit_kernel", "finish_kernel"]
    assert compiled == names


@pytest.mark.parametrize("n", [320, 32_768])
def test_a_kappa_that_is_one_number_of_many_compiles_nothing_anew(compiled, n):
    """The next kappa is the seventh of eight numbers: not where a tensor of its own begins."""
    kernels = selection.select_kernel, many_programs.histogram_kernel, many_programs.emit_kernel

    def variants():
        return [len(kernel.device_caches[1000][0]) for kernel in kernels]

    selection.select(torch.zeros(n), None, torch.ones(1), Rule())
    before = variants()
    selection.select(torch.zeros(n), None, torch.ones(8)[6:7], Rule())
    assert variants() == before


@pytest.mark.parametrize(
    ("n", "v", "d"),
    [
        (1, 1, 64),
        *(pytest.param(*s, marks=slow) for s in ((1, 2000, 128), (300, 1, 256), (320, 999, 50))),
        *(pytest.param(*s, marks=slow) for s in ((37, 500, 1), (37, 500, 3), (320, 4096, 256))),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=slow)])
@pytest.mark.parametrize("plain", [True, pytest.param(False, marks=slow)])
def test_linear_log_prob(compiled, n, v, d, dtype, plain):
    assert d <= MAX_WIDTH
    hidden, items = torch.zeros(n, d, dtype=dtype), torch.zeros(v, d, dtype=dtype)
    action = torch.zeros(n, dtype=torch.int64 if plain else torch.int32)
    bias = None if plain else torch.zeros(v, dtype=dtype)
    n_rows = None if plain else torch.zeros(1, dtype=torch.int32)
    problem = Problem(hidden, items, action, n_rows, bias, 1.0)
    for need_mean in (False, True):
        _, lse, mean = linear.forward(problem, need_mean)
    slopes = Slopes(lse, lse, lse)
    linear_backward.items_gradient(problem, slopes, not plain)
    linear_backward.hidden_gradient(problem, mean, slopes, hidden, None if plain else action)
    backward = ["order_kernel", "items_kernel", "hidden_kernel"]
    assert compiled == ["sweep_kernel", "merge_kernel"] * 2 + backward


@pytest.mark.parametrize(
    ("n", "v", "d"),
    [
        (300, 5000, 1024),
        *(pytest.param(*s, marks=slow) for s in ((1, 1, 300), (1, 70_001, 512), (4097, 16, 300))),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=slow)])
@pytest.mark.parametrize("plain", [True, pytest.param(False, marks=slow)])
def test_linear_log_prob_by_products(compiled, n, v, d, dtype, plain):
    hidden, items = torch.zeros(n, d, dtype=dtype), torch.zeros(v, d, dtype=dtype)
    action = torch.zeros(n, dtype=torch.int64 if plain else torch.int32)
    bias = None if plain else torch.zeros(v, dtype=dtype)
    problem = Problem(hidden, items, action, None, bias, 1.0)
    for need_mean in (False, True):
        _, lse, _ = products.forward(problem, need_mean)
    products.items_gradient(problem, Slopes(lse, lse, lse), not plain)
    tiles = len(compiled) // 3
    assert compiled == ["soften_kernel"] * 2 * tiles + ["slope_kernel"] * tiles
    assert tiles == triton.cdiv(n, products.TILE_ROWS) * triton.cdiv(v, products.MAX_ITEMS)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), *(pytest.param(s, marks=slow) for s in ((1, 1, 50), (5, 1, 9), (320, 4, 4096)))],
)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=slow)])
@pytest.mark.parametrize("masked", [False, pytest.param(True, marks=slow)])
@pytest.mark.parametrize("selected", [False, pytest.param(True, marks=slow)])
def test_gather_log_prob(compiled, shape, dtype, masked, selected):
    logits, action = torch.zeros(shape, dtype=dtype), torch.zeros(shape[:2], dtype=torch.int64)
    rest = action, (action == 0) if masked else None, *rows_of(shape[0], selected)
    log_prob, lse = gather.forward(logits, *rest)
    gather.backward(log_prob, logits, lse, *rest)
    assert compiled == ["forward_kernel", "backward_kernel"]


@pytest.mark.parametrize(
    "shape", [(1, 1), *(pytest.param(s, marks=slow) for s in ((1, 300), (320, 1), (320, 64)))]
)
@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=slow)])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=slow)])
@pytest.mark.parametrize("selected", [False, pytest.param(True, marks=slow)])
def test_gaussian_log_prob(compiled, shape, shared, dtype, selected):
    mean = torch.zeros(shape, dtype=dtype)
    log_std = mean[0].clone() if shared else torch.zeros_like(mean)
    rest = mean, log_std, torch.zeros(shape), *rows_of(shape[0], selected)
    log_prob, _ = gaussian.forward(*rest)
    gaussian.backward(log_prob, *rest)
    assert compiled == ["forward_kernel", "backward_kernel"]


@pytest.mark.parametrize("places", [1, 410, 16_384])
def test_loss_and_slope(compiled, places):
    row = torch.zeros(places)
    loss.loss_and_slope(row, row, torch.zeros(5, dtype=torch.int32))
    assert compiled == ["loss_kernel"]


@pytest.mark.parametrize("n", [1, pytest.param(320, marks=slow)])
@pytest.mark.parametrize("kind", [TAPERS[0], *(pytest.param(k, marks=slow) for k in TAPERS[1:])])
@pytest.mark.parametrize(
    "numbers", [1.0, pytest.param(0.0, marks=slow), pytest.param(0.3, marks=slow)]
)
def test_signed_taper(compiled, n, kind, numbers):
    row = torch.zeros(n)
    for thresholds in (None, row):
        given = Taper(kind, numbers, numbers, 1.0, 2.0, numbers)
        taper.signed_taper(row, row.bfloat16(), row, thresholds, given)
    assert compiled == ["signed_taper_kernel"] * 2
