"""Compiles kernels for GPUs that are not there, and reads what the compilers made of them."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")

from torchrl_drpo_kernels._common import COMPILE  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

#: Target and shared memory of one program in bytes: A100, H100, B200, MI300.
ARCHITECTURES: dict[str, tuple[Any, int]] = {
    "sm_80": (GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 * 1024),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 * 1024),
}
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
#: Of an instruction set: spills to local memory, and tensor-core multiplications.
_SPILLS = ("LDL", "STL")
_TENSOR_CORES = ("HMMA", "IMMA", "HGMMA", "UTCHMMA", "UTCQMMA")


@dataclass(frozen=True)
class Binary:
    """One kernel compiled for one architecture.

    Attributes:
        name: kernel and architecture, for messages.
        shared: shared memory in bytes, and ``shared_limit`` what the architecture has.
        registers: registers of a thread.
        spills: spilling instructions (CUDA) or spilled registers (AMD).
        tensor_core: matrix instructions.
        inner_loop: instructions that a warp issues in one turn of the innermost loop with the most
            matrix instructions (of several, the shortest); 0 without one, and on AMD cards.
        looped_spills: spilling instructions inside a loop that holds no other one; on AMD cards
            all spilled registers.
        instructions: length of the whole kernel; 0 on AMD cards.
    """

    name: str
    shared: int
    shared_limit: int
    registers: int
    spills: int
    tensor_core: int
    inner_loop: int = 0
    looped_spills: int = 0
    instructions: int = 0

    def check(self, tensor_core: bool = False) -> None:
        """Fails on spills, too much shared memory, or missing matrix instructions."""
        assert self.spills == 0, f"{self} spills registers"
        assert self.shared <= self.shared_limit, f"{self} needs too much shared memory"
        if tensor_core:
            assert self.tensor_core > 0, f"{self} has no matrix instruction"


def compile_kernel(
    kernel: Any,
    signature: dict[str, str],
    constants: dict[str, Any],
    arch: str,
    *,
    num_warps: int = 4,
    num_stages: int = 2,
    divisible: tuple[str, ...] = (),
    workdir: Path,
) -> Binary:
    """Compiles a ``@triton.jit`` function.

    Args:
        kernel: the function.
        signature: Triton type of each run-time argument, as ``"*fp32"`` or ``"i32"``.
        constants: value of each compile-time argument (``None`` for an absent pointer).
        arch: a key of ``ARCHITECTURES``.
        num_warps: warps of a program.
        num_stages: depth of the software pipeline.
        divisible: integer arguments that are multiples of 16; pointers always are.
        workdir: where the binary is written for the disassembler.
    """
    target, shared_limit = ARCHITECTURES[arch]
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if signature.get(name, "").startswith("*") or name in divisible
    }
    types = {n: "constexpr" if n in constants else signature[n] for n in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=aligned)
    options = {"num_warps": num_warps, "num_stages": num_stages, **COMPILE}
    compiled = triton.compile(source, target=target, options=options)
    read = _read_cuda if target.backend == "cuda" else _read_amd
    registers, *counts = read(compiled, workdir)
    name = f"{kernel.__name__} on {arch}"
    return Binary(name, compiled.metadata.shared, shared_limit, registers, *counts)


def _read_cuda(compiled: Any, workdir: Path) -> tuple[int, ...]:
    binary = workdir / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    usage = _run("cuobjdump", "--dump-resource-usage", str(binary))
    listing = _run("cuobjdump", "-sass", str(binary))
    # An instruction line reads: /*0a10*/  @P0 LDL.64 R2, [R1] ;
    line = re.compile(
        r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)[^;\n]*?(?:0x([0-9a-f]+))?\s*;"
    )
    lines = [(int(at, 16), name, target) for at, name, target in line.findall(listing)]
    assert len(lines) > 20, f"no instructions found in the listing:\n{listing[:400]}"
    counts = Counter(name for _, name, _ in lines)
    registers = int(re.search(r"REG:(\d+)", usage)[1])
    spills, tensor_core = (sum(counts[i] for i in names) for names in (_SPILLS, _TENSOR_CORES))
    loops = _innermost_loops(lines)
    looped = sum(
        name in _SPILLS and any(first <= at <= last for first, last in loops)
        for at, name, _ in lines
    )
    length = len(lines) - counts["NOP"]  # which fill the last line
    return registers, spills, tensor_core, _inner_loop(lines, loops), looped, length


def _innermost_loops(lines: list[tuple[int, str, str]]) -> list[tuple[int, int]]:
    """First and last address of each loop (it ends in a jump backwards) without one inside."""
    jumps = [(int(to, 16), at) for at, name, to in lines if name == "BRA" and to]
    loops = [(first, last) for first, last in jumps if first < last]
    return [
        (first, last)
        for first, last in loops
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in loops)
    ]


def _inner_loop(lines: list[tuple[int, str, str]], loops: list[tuple[int, int]]) -> int:
    """Length of the loop that :class:`Binary` speaks of."""
    bodies = [[name for at, name, _ in lines if first <= at <= last] for first, last in loops]
    products = [sum(name in _TENSOR_CORES for name in body) for body in bodies]
    most = max(products, default=0)
    return min((len(b) for b, n in zip(bodies, products, strict=True) if n == most > 0), default=0)


def _read_amd(compiled: Any, workdir: Path) -> tuple[int, ...]:
    listing = compiled.asm["amdgcn"]

    def field(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", listing)[1])

    # Scalar registers spill into lanes of vector registers, which costs no memory access.
    spills = field("vgpr_spill_count")
    return field("vgpr_count"), spills, len(re.findall(r"\bv_mfma_", listing)), 0, spills


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([_TOOLS / tool, *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.fixture(params=ARCHITECTURES)
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """``build(kernel, signature, constants, **options) -> Binary``, once per architecture."""

    def build_for_arch(kernel: Any, signature: Any, constants: Any, **options: Any) -> Binary:
        return compile_kernel(
            kernel, signature, constants, request.param, workdir=tmp_path, **options
        )

    build_for_arch.arch = request.param
    return build_for_arch
