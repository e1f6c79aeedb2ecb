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
def _scale_often(x_ptr, y_ptr, out_ptr, turns, TILE: tl.constexpr):
    places = tl.arange(0, TILE)
    x = tl.load(x_ptr + places)
    for turn in range(turns):
        x *= tl.sum(tl.exp(tl.load(y_ptr + turn * TILE + places) * x), 0)
    tl.store(out_ptr + places, x)


@pytest.mark.parametrize("build", ["sm_90"], indirect=True)
def test_spills_inside_a_loop_are_told_apart(build):
    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32", "turns": "i32"}
    starved = build(_scale_often, signature, {"TILE": 2**14}, num_warps=1)
    assert 0 < starved.looped_spills < starved.spills


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
    assert starved.looped_spills == (starved.spills if build.arch == "gfx942" else 0)
    with pytest.raises(AssertionError, match="spills registers"):
        starved.check()


def test_a_matrix_product_runs_on_tensor_cores(build):
    signature = {"a_ptr": "*fp16", "b_ptr": "*fp16", "out_ptr": "*fp32"}
    product = build(_multiply, signature, {"SIZE": 64})
    product.check(tensor_core=True)
    assert product.shared > 0


@triton.jit
def _multiply_often(a_ptr, b_ptr, out_ptr, turns, SIZE: tl.constexpr, WORK: tl.constexpr):
    grid = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    total = tl.zeros((SIZE, SIZE), tl.float32)
    a = tl.load(a_ptr + grid)
    for turn in range(turns):
        product = tl.dot(a, tl.load(b_ptr + turn * SIZE * SIZE + grid))
        for _ in tl.static_range(WORK):
            product = tl.exp2(product)
        total += product
    tl.store(out_ptr + grid, total)


@pytest.mark.parametrize("build", ["sm_90"], indirect=True)
def test_the_inner_loop_is_counted(build):
    """Every exp2 of 64 x 64 numbers by 128 threads is 32 instructions a warp, and a few more."""
    signature = {"a_ptr": "*fp16", "b_ptr": "*fp16", "out_ptr": "*fp32", "turns": "i32"}
    short, long = (
        build(_multiply_often, signature, {"SIZE": 64, "WORK": work}).inner_loop for work in (1, 4)
    )
    assert short > 32
    assert 3 * 32 <= long - short <= 3 * 32 * 4  # exp2 of subnormal numbers is scaled


@pytest.mark.parametrize("build", ["sm_90", "gfx942"], indirect=True)
def test_a_kernel_without_one_does_not(build):
    signature = {"x_ptr": "*fp32", "y_ptr": "*fp32", "out_ptr": "*fp32"}
    plain = build(_scale_by_total, signature, {"TILE": 1024})
    plain.check()
    with pytest.raises(AssertionError, match="no matrix instruction"):
        plain.check(tensor_core=True)
