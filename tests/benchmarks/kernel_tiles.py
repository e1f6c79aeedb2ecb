"""Times every tile that the catalogue kernels could take on this GPU, beside that of their table.

    python tests/benchmarks/kernel_tiles.py                          # 256 wide, bfloat16
    python tests/benchmarks/kernel_tiles.py --width 128 --dtype float16 --rows 4096
    python tests/benchmarks/kernel_tiles.py --compile-only    # fills Triton's cache, no more

Prints the fastest of each kernel in Markdown: milliseconds of the device and the share of its own
floor (2 D flops a logit and product). ``linear_log_prob/shapes.py`` is where the winners go; the
tests of tests/kernels/aot then say whether they spill on any architecture.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torchrl_drpo_kernels.linear_log_prob import kernel, kernel_backward, shapes
from torchrl_drpo_kernels.linear_log_prob.problem import Problem, Slopes
from torchrl_drpo_kernels.linear_log_prob.shapes import Tile

sys.path.insert(0, str(Path(__file__).parent))
from kernel_tables import FLOPS

KINDS = {"mean": 2, "value": 1, "items": 2}  # matrix products a tile
SHARED_MEMORY, REGISTERS, MULTIPROCESSOR = 227 * 1024, 232, 64 * 1024


class Candidate(NamedTuple):
    """A tile of one kernel."""

    kind: str
    tile: Tile


def candidates(kind: str, width: int, size: int) -> Iterator[Tile]:
    """Tiles whose operands fit shared memory and whose sums fit registers, by a rough count.

    >>> Tile(128, 64, 8, 3) in set(candidates("mean", 256, 2))
    True
    """
    rows = (64, 128, 256) if kind == "value" else (32, 64, 128)
    items = (64, 128, 256) if kind == "value" else (32, 64, 128)
    for r, i, warps, stages in itertools.product(rows, items, (4, 8), (2, 3, 4)):
        owned, walked = (i, r) if kind == "items" else (r, i)  # an accumulator a row that it owns
        if owned < 16 * warps:  # a group of four warps multiplies 64 rows at least
            continue
        memory = size * width * (owned + stages * walked)
        numbers = r * i + (owned * width if KINDS[kind] == 2 else 0)
        registers = numbers // (32 * warps) + 32
        if memory > SHARED_MEMORY or registers > REGISTERS:
            continue
        yield Tile(r, i, warps, stages)
        two = 2 * memory <= SHARED_MEMORY and 2 * 32 * warps * registers <= MULTIPROCESSOR
        if kind != "items" and two:
            yield Tile(r, i, warps, stages, 2)


def make(rows: int, items: int, width: int, dtype: torch.dtype) -> tuple[Problem, Slopes]:
    """A problem as a training step poses it."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, device="cuda", dtype=dtype) / width**0.5
    table = torch.randn(items, width, device="cuda", dtype=dtype)
    action = torch.randint(items, (rows,), device="cuda")
    live = torch.tensor([rows], device="cuda", dtype=torch.int32)
    lse = torch.full((rows,), 13.0, device="cuda")
    return Problem(hidden, table, action, live, None, 1.0), Slopes(lse, -lse, lse)


def launch(candidate: Candidate, problem: Problem, slopes: Slopes) -> object:
    """One run of a kernel with a tile."""
    if candidate.kind == "items":
        return kernel_backward.items_gradient(problem, slopes, False, candidate.tile)
    return kernel.forward(problem, candidate.kind == "mean", candidate.tile)


def try_one(candidate: Candidate, rows: tuple[int, ...], width: int, dtype: torch.dtype) -> str:
    """Compiles a tile on a small catalogue; what stands in its way, or nothing."""
    try:
        for n in rows:
            launch(candidate, *make(n, 4096, width, dtype))
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:100]
    return ""


def compile_all(
    chosen: list[Candidate], rows: tuple[int, ...], width: int, dtype: torch.dtype, jobs: int
) -> dict[Candidate, str]:
    """Every tile compiled into Triton's cache, in several processes."""
    work = partial(try_one, rows=rows, width=width, dtype=dtype)
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        return dict(zip(chosen, pool.map(work, chosen, chunksize=1), strict=True))


def milliseconds(run: Callable[[], object]) -> float:
    """Median of the device's time."""
    from triton.testing import do_bench

    return float(do_bench(run, warmup=5, rep=40, return_mode="median"))


def main() -> None:
    """Compiles, times, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--items", type=int, default=262_144)
    parser.add_argument("--rows", type=int, nargs="+", default=[410, 4096])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--show", type=int, default=6, help="the fastest so many of each kernel")
    parser.add_argument("--compile-only", action="store_true")
    given = parser.parse_args()
    dtype, rows, width = getattr(torch, given.dtype), tuple(given.rows), given.width
    size, start = dtype.itemsize, time.perf_counter()
    chosen = [Candidate(k, t) for k in given.kinds for t in candidates(k, width, size)]
    wrong = compile_all(chosen, rows, width, dtype, given.jobs)
    say = partial(print, flush=True)
    say(f"{len(chosen)} tiles, {width} wide, compiled in {time.perf_counter() - start:.0f} s")
    for candidate, error in wrong.items():
        if error:
            say(f"  {candidate.kind} {tuple(candidate.tile)}: {error}")
    if given.compile_only:
        return
    say("\n| N | kernel | tile (rows, items, warps, stages, residents) | ms | share of floor |")
    say("|---|---|---|---|---|")
    for n in rows:
        problem, slopes = make(n, given.items, width, dtype)
        for kind in given.kinds:
            arch = shapes.architecture(problem.hidden)
            today = shapes.tile_of(kind, arch, width, size, descriptors=True)
            floor = 2e3 * width * KINDS[kind] * n * given.items / FLOPS
            times = {
                c.tile: milliseconds(partial(launch, c, problem, slopes))
                for c in chosen
                if c.kind == kind and not wrong[c]
            }
            best = sorted(times, key=times.__getitem__)
            for tile in [*best[: given.show], *({today} & times.keys() - set(best[: given.show]))]:
                mark = " (today's)" if tile == today else ""
                say(
                    f"| {n} | {kind} | {tuple(tile)}{mark} | {times[tile]:.3f} | "
                    f"{floor / times[tile]:.0%} |"
                )


if __name__ == "__main__":
    main()
