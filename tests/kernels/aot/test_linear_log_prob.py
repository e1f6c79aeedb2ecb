"""Every tile of linear_log_prob compiles for its architecture, without spills.

The widest items with bfloat16 run in the gate on one card of each vendor; the rest is slow.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

triton = pytest.importorskip("triton")

from torchrl_drpo_kernels.linear_log_prob import (  # noqa: E402
    kernel,
    kernel_backward,
    kernel_order,
    products,
    shapes,
)

SCALARS = {"n": "i32", "n_items": "i32", "hidden_stride": "i32", "items_stride": "i32"}
SWEEP = {"top_ptr": "*fp32", "mass_ptr": "*fp32", "parts_ptr": "*fp32", "scale": "fp32"}
ITEMS = {
    "action_ptr": "*i64", "offset_ptr": "*fp32", "soft_ptr": "*fp32", "logged_ptr": "*fp32",
    "rows_ptr": "*i32", "bounds_ptr": "*i32", "d_bias_ptr": "*fp32", "out_stride": "i32",
    "scale": "fp32",
}  # fmt: skip
MERGE = {
    **SWEEP, "action_ptr": "*i64", "log_prob_ptr": "*fp32", "lse_ptr": "*fp32",
    "mean_ptr": "*fp32", "programs": "i32",
}  # fmt: skip
#: Row of the table -> the harness's architectures, and whether the loads go through descriptors.
TABLE = {
    "sm_80": ("sm_80", False),
    "sm_90": ("sm_90", True),
    "sm_100": ("sm_100", True),
    "gfx942": ("amd", False),
}


#: What spills, as shapes.py says: Triton, architecture, whether through descriptors, kernel,
#: width, type, whether with a bias.
KNOWN_SPILLS = {
    *product(("3.6", "3.7"), ["sm_90"], [True], ["items"], [256], ["fp32"], [True, False]),
    ("3.7", "sm_90", True, "mean", 256, "fp32", True),
    ("3.6", "sm_100", True, "items", 128, "bf16", True),
    ("3.6", "sm_100", True, "items", 128, "fp32", False),
}


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize("build", ["sm_90", "gfx942", slow("sm_80"), slow("sm_100")], indirect=True)
@pytest.mark.parametrize("need", ["mean", "value", "items"])
@pytest.mark.parametrize(
    "width", [256, *(pytest.param(w, marks=pytest.mark.slow) for w in (64, 128))]
)
@pytest.mark.parametrize("dtype", ["bf16", slow("fp32")])
@pytest.mark.parametrize("bias", [True, slow(False)], ids=["bias", "plain"])
def test_tiles(build, need, width, dtype, bias):
    arch, descriptors = TABLE[build.arch]
    if dtype == "fp32" and build.arch == "gfx942":
        pytest.skip("float32 takes ATen tiles there")
    check(build, need, width, dtype, arch, descriptors, bias)


@pytest.mark.slow
@pytest.mark.parametrize("need", ["mean", "value", "items"])
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("arch", ["sm_80", "small"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
def test_tiles_through_pointers(build, need, width, dtype, arch, bias):
    """Unaligned rows on sm_90 and sm_100, and cards with less shared memory than an A100."""
    if build.arch == "gfx942" or (build.arch == "sm_80") != (arch == "small"):
        pytest.skip("compiled by the other test")
    binary = check(build, need, width, dtype, arch, False, bias)
    if arch == "small":
        assert binary.shared <= 99 * 1024


def compiled(build, need, width, dtype, arch, descriptors, bias):
    """The kernel with its tile of row ``arch`` of the table, through the harness's ``build``."""
    tile = shapes.tile_of(need, arch, width, 4 if dtype == "fp32" else 2, descriptors)

    def source(rows):
        return f"tensordesc<{dtype}[{rows},{width}]>" if descriptors else f"*{dtype}"

    signature = {
        **SCALARS, **(ITEMS if need == "items" else SWEEP), "hidden": source(tile.rows),
        "items": source(tile.items), "n_rows_ptr": "*i64",
    }  # fmt: skip
    constants = {
        "D": width, "WIDTH": width, "ROWS": tile.rows, "ITEMS": tile.items,
        "DESCRIPTORS": descriptors, "PRECISION": "tf32" if dtype == "fp32" else "ieee",
    }  # fmt: skip
    if bias:
        signature["bias_ptr"] = "*fp32"
    else:
        constants["bias_ptr"] = None
    if need == "items":
        signature |= {"hidden_ptr": f"*{dtype}", "d_items_ptr": f"*{dtype}"}
        function = kernel_backward.items_kernel
        constants["NEED_BIAS"] = bias
    else:
        function, constants["NEED_MEAN"] = kernel.sweep_kernel, need == "mean"
    strides = tuple(name for name in signature if name.endswith("stride"))
    return build(
        function, signature, constants,
        num_warps=tile.warps, num_stages=tile.stages, divisible=strides,
    )  # fmt: skip


def check(build, need, width, dtype, arch, descriptors, bias):
    binary = compiled(build, need, width, dtype, arch, descriptors, bias)
    version = triton.__version__.rsplit(".", 1)[0]
    known = (version, build.arch, descriptors, need, width, dtype, bias) in KNOWN_SPILLS
    if known and arch != "small":  # which has tiles of its own, and none of them spills
        assert binary.spills > 0, f"{binary} no longer spills: shapes.py says that it does"
        binary = replace(binary, spills=0)
    binary.check(tensor_core=True)
    return binary


#: Instructions a warp in a turn of the inner loop, bfloat16 without a bias, a tenth above what
#: Triton 3.6 and 3.7 made of it: most leave the tensor cores time (benchmarks/
#: kernel_instructions.py), which a mask or a conversion more would take.
LONGEST = {"mean": (460, 505, 450), "value": (395, 380, 530), "items": (325, 210, 285)}


@pytest.mark.parametrize("build", ["sm_90"], indirect=True)
@pytest.mark.parametrize("need", ["mean", slow("value"), "items"])
@pytest.mark.parametrize("width", [slow(64), slow(128), 256])
def test_inner_loops_stay_short(build, need, width):
    binary = compiled(build, need, width, "bf16", "sm_90", True, False)
    assert 0 < binary.inner_loop <= LONGEST[need][(64, 128, 256).index(width)]


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 256])
def test_merge(build, width):
    signature = {
        **SCALARS, **MERGE, "hidden_ptr": "*bf16", "items_ptr": "*bf16", "bias_ptr": "*fp32",
        "n_rows_ptr": "*i64",
    }  # fmt: skip
    constants = {
        "D": width, "WIDTH": width, "ROWS": 64, "ITEMS": 64, "NEED_MEAN": True,
        "MERGED": shapes.MERGED_PARTS,
    }  # fmt: skip
    build(kernel.merge_kernel, signature, constants, num_warps=4).check()


ORDER = {
    "action_ptr": "*i64", "n_rows_ptr": "*i32", "lse_ptr": "*fp32", "soft_ptr": "*fp32",
    "rows_ptr": "*i32", "bounds_ptr": "*i32", "offset_ptr": "*fp32", "n": "i32", "tiles": "i32",
}  # fmt: skip


@pytest.mark.parametrize("build", ["sm_90", slow("sm_80"), slow("sm_100")], indirect=True)
@pytest.mark.parametrize("counted", [True, slow(False)])
def test_order(build, counted):
    """Two programs of eight warps fit a multiprocessor, so that one counts while one waits."""
    sizes = {"BLOCK": kernel_order.BLOCK, "WALK": kernel_order.WALK}
    constants = {"ITEMS": 64, "COUNTED": counted, **sizes}
    binary = build(kernel_order.order_kernel, ORDER, constants, num_warps=8)
    binary.check()
    assert binary.registers <= 128, str(binary)


@pytest.mark.parametrize("build", ["sm_90", slow("sm_80"), slow("sm_100")], indirect=True)
@pytest.mark.parametrize("dtype", ["bf16", slow("fp32")])
@pytest.mark.parametrize("bias", ["*fp32", slow(None)])
@pytest.mark.parametrize("name", ["soften", "slope"])
def test_between_products(build, name, bias, dtype):
    """One pass over scores: nothing to multiply, and a block of them fits the registers."""
    pointers = {
        "soften": ("scores", "top", "mass", "rescale"),
        "slope": ("scores", "lse", "soft", "logged"),
    }
    signature = {f"{x}_ptr": "*fp32" for x in pointers[name]}
    signature |= {"width": "i32", "scale": "fp32"}
    constants = {"BLOCK": products.BLOCK}
    if name == "soften":
        signature["shares_ptr"], constants["NEED_SHARES"] = f"*{dtype}", True
    else:
        signature |= {"action_ptr": "*i64", "first": "i32", "slopes_ptr": f"*{dtype}"}
    if bias is None:
        constants["bias_ptr"] = None
    else:
        signature["bias_ptr"] = bias
    function = getattr(products, f"{name}_kernel")
    build(function, signature, constants, num_warps=8, divisible=("width",)).check()
