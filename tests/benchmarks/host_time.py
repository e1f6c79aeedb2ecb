"""What the host does in a training step over a catalogue, on a machine without a GPU.

    python tests/benchmarks/host_time.py            # writes results/kernels/host.md

A step of some hundred microseconds on a GPU waits for the host unless a CUDA graph replays it, so
what the host does can be told, and mended, without the GPU. Everything is real but the device:
Triton binds, compiles for an H100 and calls its launcher, which hands the kernel to nobody.
Tensors lie on the CPU and are few and small, so that ATen's part is the calls, each of which costs
less there than a launch on a GPU.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton.backends.nvidia.driver as nvidia
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchrl_drpo_kernels import _common
from torchrl_drpo_kernels.drpo_loss import catalogue
from torchrl_drpo_kernels.linear_log_prob import arguments, kernel, kernel_backward
from torchrl_drpo_kernels.linear_log_prob import op as linear_op
from torchrl_drpo_kernels.select import kernel as select_kernel
from torchrl_drpo_kernels.select import reference
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

sys.path.insert(0, str(Path(__file__).parent))
from catalogue_steps import Batch, Problem, launch_step, make_batch

RESULT = Path(__file__).resolve().parents[2] / "results" / "kernels" / "host.md"
WAYS = ("ours, one op", "ours", "topk + gather + cross-entropy")
PROBLEM = Problem(rows=64, items=512, width=256, kappa=0.1, dtype=torch.bfloat16)
#: ATen calls that launch nothing: views, memory, names for other calls, reads of the host's own.
FREE = {
    "_local_scalar_dense", "alias", "as_strided", "detach", "detach_", "empty", "empty_like",
    "empty_strided", "expand", "is_nonzero", "item", "lift_fresh", "narrow", "new_empty", "numpy_T",
    "permute", "promote_types", "reshape", "resolve_conj", "result_type", "scalar_tensor", "select",
    "slice", "squeeze", "t", "to", "transpose", "unsqueeze", "view",
}  # fmt: skip


class _Utils:
    """Triton's C side of a card, which loads nothing and counts what it should launch."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.launched: Counter[str] = Counter()

    def load_binary(self, name: str, *_: Any) -> tuple[int, int, int, int, int]:
        self.names.append(name)
        return 0, len(self.names) - 1, 32, 0, 1024

    def launch(self, x: int, y: int, z: int, stream: int, function: int, *_: Any) -> None:
        self.launched[self.names[function]] += 1

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 * 1024, "multiprocessor_count": 132, "warpSize": 32}

    def fill_tma_descriptor_tiled(self, *arguments: Any) -> object:
        return arguments

    def build_signature_metadata(self, signature: Any) -> bytes:
        return bytes(len(signature))


class _AbsentH100:
    """A driver of a card that is not there, with the launcher of those that are."""

    launcher_cls = nvidia.CudaLauncher

    def __init__(self) -> None:
        self.utils = _Utils()

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def pretend() -> _Utils:
    """From here on CPU tensors take the way of CUDA ones; returns what counts the launches."""
    card = _AbsentH100()
    driver.set_active(card)
    for name, stand_in in (("PyKernelArg", dict), ("ARG_KERNEL", 0), ("ARG_CONSTEXPR", 1)):
        setattr(nvidia, name, stand_in)  # types that come with the C side
    _common.INTERPRETED = True  # that is where ``uses_triton`` looks
    for module in (kernel, kernel_backward):
        module.architecture = lambda matrix: "sm_90"
    kernel.programs = lambda matrix: 132
    for module in (catalogue, linear_op):
        module.check_ids = lambda *_, **__: None  # on CUDA it returns at once
    arguments.on_host = lambda values: False
    arguments.count_on_host = lambda n_rows, length: None
    launch, known = select_kernel.select, {}

    def select(quality: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        """Launched by the real code; rows that exist, as others follow them."""
        launch(quality, *rest)
        if "rows" not in known:
            known["rows"] = reference.select(quality, *rest)
        return tuple(x.detach() for x in known["rows"])

    select_kernel.select = select
    return card.utils


def host_seconds(step: Callable[[], object], rounds: int = 400) -> float:
    """The fastest of many steps: what other jobs do to the rest is not the step's."""
    for _ in range(30):
        step()
    gc.collect()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    return best


def aten_launches(step: Callable[[], object]) -> int:
    """Calls of ATen in a step that would each launch something."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    own = [e for e in seen.events() if e.name.removeprefix("aten::") not in FREE]
    own = [e for e in own if e.name.startswith("aten::")]
    parents = {id(event.cpu_parent) for event in own}
    return sum(id(event) not in parents for event in own)


def row(name: str, batch: Batch, card: _Utils) -> str:
    """A line of the table."""

    def step() -> Tensor:
        return launch_step(name, batch, PROBLEM.kappa)

    step()
    card.launched.clear()
    step()
    kernels = card.launched.total()
    return f"| {name} | {kernels} | {aten_launches(step)} | {host_seconds(step) * 1e6:.0f} |"


def main() -> None:
    """Measures every way and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULT)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    torch.autograd.set_multithreading_enabled(False)
    card, batch = pretend(), make_batch(PROBLEM)
    lines = ["| way | Triton launches | ATen launches | host, us |", "|:--|--:|--:|--:|"]
    lines += [row(name, batch, card) for name in WAYS]
    head = [
        "# What the host does in a step", "",
        "Selection, forward and backward of one training step over a catalogue; the fastest of 400",
        "on one thread of a CPU that pretends to have a GPU (`tests/benchmarks/host_time.py`):",
        "kernels are bound and handed to a launcher that launches nothing. On a GPU every ATen",
        f"launch costs some microseconds more. torch {torch.__version__}.", "",
    ]  # fmt: skip
    output.write_text("\n".join([*head, *lines, ""]))


if __name__ == "__main__":
    main()
