"""The selection kernels compile for every architecture, without spills."""

from __future__ import annotations

from dataclasses import replace

import pytest

triton = pytest.importorskip("triton")

from torchrl_drpo_kernels.select import kernel, many_programs  # noqa: E402

ROWS = {"quality_ptr": "*fp32", "mask_ptr": "*i1", "kappa_ptr": "*fp32", "n": "i32"}
OUTPUTS = {"index_ptr": "*i32", "weight_ptr": "*fp32", "stats_ptr": "*fp32", "counts_ptr": "*i32"}
NUMBERS = dict.fromkeys(("temperature", "eps", "target_ratio", "low", "high", "up", "down"), "fp32")
MANY = {"histograms_ptr": "*i32", "states_ptr": "*i32", "sums_ptr": "*fp64"}
MANY |= {"tallies_ptr": "*i32", "span": "i32"}
RULE = {"HAS_MASK": True, "WEIGHTING": 2, "TIES": 0, "NORMALIZE": True}  # the longest code

#: Spilling instructions of the one program: a few values wait in memory between its passes, and
#: at most so many are looked up in a loop of 750 instructions.
MOST_SPILLS, MOST_LOOPED = 20, 3
#: Its instructions, a tenth above what Triton 3.6 and 3.7 make of it. It runs alone and once, so
#: most of them come from memory: with a copy of the histogram a digit they were twice as many.
LONGEST = {kernel.SMALL_TILE: 1720, kernel.LARGE_TILE: 3620}


@pytest.mark.parametrize("tile", [kernel.LARGE_TILE, kernel.SMALL_TILE])
def test_one_program(build, tile):
    signature = {**ROWS, **OUTPUTS, **NUMBERS}
    constants = {**RULE, "TILE": tile}
    binary = build(kernel.select_kernel, signature, constants, num_warps=8)
    assert binary.looped_spills <= MOST_LOOPED, str(binary)
    assert binary.spills <= MOST_SPILLS, str(binary)
    assert binary.instructions <= LONGEST[tile], str(binary)
    replace(binary, spills=0).check()


@pytest.mark.parametrize(
    "name",
    [
        "histogram_kernel",
        "emit_kernel",
        pytest.param("moments_kernel", marks=pytest.mark.slow),
        pytest.param("finish_kernel", marks=pytest.mark.slow),
    ],
)
def test_many_programs(build, name):
    function = getattr(many_programs, name)
    constants = {**RULE, "TILE": many_programs.TILE, "SLOTS": many_programs.MAX_PROGRAMS}
    constants = {k: v for k, v in {**constants, "DIGIT": 2}.items() if k in function.arg_names}
    signature = {**ROWS, **OUTPUTS, **NUMBERS, **MANY, "programs": "i32"}
    build(function, signature, constants, num_warps=8, divisible=("span",)).check()
