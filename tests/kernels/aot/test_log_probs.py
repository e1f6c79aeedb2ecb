"""The Gaussian, gather, taper and loss kernels compile for every architecture, without spills."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from torchrl_drpo_kernels.drpo_loss import kernel as loss
from torchrl_drpo_kernels.gather_log_prob import kernel as gather
from torchrl_drpo_kernels.gaussian_log_prob import kernel as gaussian
from torchrl_drpo_kernels.signed_taper import kernel as taper

ROWS = {"index_ptr": "*i32", "n_rows_ptr": "*i32", "places": "i32"}
SELECTED = {"HAS_INDEX": True, "HAS_COUNT": True}

GAUSSIAN = {
    **ROWS, "mean_ptr": "*bf16", "log_std_ptr": "*fp32", "action_ptr": "*fp32", "grad_ptr": "*fp32",
    "log_prob_ptr": "*fp32", "remoteness_ptr": "*fp32", "grad_mean_ptr": "*bf16",
    "grad_log_std_ptr": "*fp32", "d": "i32", "mean_stride": "i32", "log_std_stride": "i32",
    "action_stride": "i32", "log_two_pi": "fp32",
}  # fmt: skip

GATHER = {
    **ROWS, "logits_ptr": "*bf16", "action_ptr": "*i64", "mask_ptr": "*i1", "lse_ptr": "*fp32",
    "log_prob_ptr": "*fp32", "grad_ptr": "*fp32", "out_ptr": "*bf16", "steps": "i32",
    "size": "i32", "row_stride": "i64", "step_stride": "i32", "action_stride": "i32",
    "mask_stride": "i32",
}  # fmt: skip

TAPER = {
    "log_prob_ptr": "*fp32", "advantage_ptr": "*fp32", "remoteness_ptr": "*fp32",
    "thresholds_ptr": "*fp32", "loss_ptr": "*fp32", "slope_ptr": "*fp32", "n": "i32",
    "strength": "fp32", "threshold": "fp32", "scale": "fp32", "power": "fp32",
    "negative_scale": "fp32",
}  # fmt: skip


LOSS = {
    "log_prob_ptr": "*fp32", "weight_ptr": "*fp32", "counts_ptr": "*i32", "loss_ptr": "*fp32",
    "slope_ptr": "*fp32", "places": "i32",
}  # fmt: skip


@pytest.mark.parametrize("d", [1024, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["forward_kernel", "backward_kernel"])
def test_gaussian_log_prob(build, name, d):
    function = getattr(gaussian, name)
    width, rows = gaussian.tile_of(d)
    constants = {**SELECTED, "WIDTH": width, "ROWS": rows}
    if name == "backward_kernel":
        constants["SHARED"] = True
    build(function, GAUSSIAN, constants).check()


@pytest.mark.parametrize("name", ["forward_kernel", "backward_kernel"])
def test_gather_log_prob(build, name):
    constants = {**SELECTED, "HAS_MASK": True, "TILE": gather.MAX_TILE}
    binary = build(getattr(gather, name), GATHER, constants, num_warps=8)
    binary.check()
    if name == "forward_kernel":  # 664 with one exponential a logit, 742 with two
        assert binary.instructions <= 700 or build.arch != "sm_90", str(binary)


@pytest.mark.parametrize("kind", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_signed_taper(build, kind):
    constants = {"KIND": kind, "PER_ROW": True, "TAPERED": True, "TILE": taper.TILE}
    build(taper.signed_taper_kernel, TAPER, constants).check()


def test_drpo_loss(build):
    constants = {"QUOTA": 1, "BLOCK": loss.BLOCK}
    build(loss.loss_kernel, LOSS, constants, num_warps=8).check()
