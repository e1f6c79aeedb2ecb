"""What can be counted of the catalogue kernels without a GPU: instructions of their inner loops.

    python tests/benchmarks/kernel_instructions.py             # an H100, bfloat16, no bias

A multiprocessor issues one instruction a cycle from each of its four groups of warps, and its
tensor cores do 4,096 half-precision flops in that time. Where the first takes longer than the
second, the tensor cores wait, whatever else is done well. It is no time: waiting for memory, and
for one another, is not in it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from torchrl_drpo_kernels.linear_log_prob.shapes import tile_of

from tests.kernels.aot.conftest import Binary, compile_kernel
from tests.kernels.aot.test_linear_log_prob import compiled

#: Half-precision flops of one multiprocessor of an H100 a cycle, and its instruction issues.
FLOPS, ISSUES = 4096, 4


def count(need: str, width: int) -> Binary:
    """One kernel of the table, compiled with its own tile."""
    with tempfile.TemporaryDirectory() as folder:

        def build(*arguments: Any, **options: Any) -> Binary:
            return compile_kernel(*arguments, "sm_90", workdir=Path(folder), **options)

        return compiled(build, need, width, "bf16", "sm_90", True, False)


def main() -> None:
    """Prints a table in Markdown."""
    lines = [
        "| kernel | D | tile | registers | instructions a warp | issue cycles | tensor cycles |",
        "|---|---|---|---|---|---|---|",
    ]
    for need, products in (("mean", 2), ("value", 1), ("items", 2)):
        for width in (64, 128, 256):
            tile, binary = tile_of(need, "sm_90", width, 2, True), count(need, width)
            issue = binary.inner_loop * tile.warps // ISSUES
            tensor = 2 * products * tile.rows * tile.items * width // FLOPS
            lines.append(
                f"| {need} | {width} | {tile.rows} x {tile.items} | {binary.registers} | "
                f"{binary.inner_loop} | {issue} | {tensor} |"
            )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
