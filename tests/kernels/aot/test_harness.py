"""The harness sees what it is there to see: spills and matrix instructions."""

from __future__ import annotations

import pytest

triton = pytest.importorskip("triton")
tl = triton.language


@triton.jit
def _scale_by_total(x_ptr, y_ptr, out_ptr, TILE: tl.constexpr):
    places = tl.arange(0, TILE)
    x = tl.load(x_ptr + places)
    total = tl.sum(tl.exp(tl.load(y_ptr + places)), 0)  # x stays alive across it
    tl.store(out_ptr + places, x * total)


@triton.jit
def _multiply(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    grid = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tl.store(out_ptr + grid, tl.dot(tl.load(a_ptr + grid), tl.load(b_ptr + grid)))


@pytest.mark.parametrize(
    "build", ["sm_90", pytest.param("gfx942", marks=pytest.mark.slow)], indirect=True
)
def test_a_tile_beyond_the_register_file_spills(build):
    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32"}
    tile = 2**15 if build.arch == "gfx942" else 2**13
    starved = build(_scale_by_total, signature, {"TILE": tile}, num_warps=1)
    assert starved.spills > 0
    with pytest.raises(AssertionError, match="spills registers"):
        starved.check()


def test_a_matrix_product_runs_on_tensor_cores(build):
    signature = {"a_ptr": "*fp16", "b_ptr": "*fp16", "out_ptr": "*fp32"}
    product = build(_multiply, signature, {"SIZE": 64})
    product.check(tensor_core=True)
    assert product.shared > 0


@pytest.mark.parametrize("build", ["sm_90", "gfx942"], indirect=True)
def test_a_kernel_without_one_does_not(build):
    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32"}
    plain = build(_scale_by_total, signature, {"TILE": 1024})
    plain.check()
    with pytest.raises(AssertionError, match="no matrix instruction"):
        plain.check(tensor_core=True)
